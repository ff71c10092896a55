//! A file of Cedar rules: read, parsed, checked, and where in it each rule stands.

use crate::error::{PolicyError, Problem};
use cedar_policy::{
    Effect, EntityUid, PolicyId, PolicySet, ResourceConstraint, Schema, ValidationError,
    ValidationMode, ValidationWarning, Validator,
};
use miette::Diagnostic;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The schema that rules are checked against, in Cedar's own notation.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// Rules that can be asked.
#[derive(Debug)]
pub struct Policies {
    pub(crate) set: PolicySet,
    rules: BTreeMap<PolicyId, Rule>,
    path: PathBuf,
    /// Whether the rules may look at the arguments of a call.
    pub(crate) use_arguments: bool,
    /// Whether the rules may look at how often a tool was called.
    pub(crate) use_rate: bool,
    warnings: Vec<Problem>,
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) line: usize,
    id: Option<String>,
    pub(crate) forbids: bool,
    /// Why a person is to be asked.
    pub(crate) approval: Option<String>,
    /// The one tool that it is about.
    pub(crate) tool: Option<EntityUid>,
}

impl Policies {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: it can't be read, can't be trusted, or is wrong.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let bytes = osvm_policy::read_trusted(path).map_err(PolicyError::unreadable)?;
        Self::parse(&bytes, path)
    }

    /// Reads the bytes of a file; `path` is for messages only.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Invalid`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, PolicyError> {
        let invalid = |problems| PolicyError::Invalid { path: path.into(), problems };
        let text = str::from_utf8(bytes).map_err(|error| {
            let (valid, _) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
            let text = String::from_utf8_lossy(valid);
            invalid(vec![problem(&text, text.len(), "a byte here is no part of a character")])
        })?;
        let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
            invalid(errors.iter().map(|error| told(text, error)).collect())
        })?;
        let mut problems = Vec::new();
        if let Some(template) = set.templates().next() {
            let message = format!("`{}` is a template, which nothing here fills in", template.id());
            problems.push(problem(text, 0, &message));
        }
        let mut warnings = Vec::new();
        match Schema::from_cedarschema_str(SCHEMA) {
            Ok((schema, _)) => {
                let checked = Validator::new(schema).validate(&set, ValidationMode::Strict);
                let errors = checked.validation_errors().filter(|error| !is_argument(error));
                problems.extend(errors.map(|error| told(text, error)));
                let remarks = checked.validation_warnings().filter(|warning| !is_dead(warning));
                warnings.extend(remarks.map(|warning| told(text, warning)));
            }
            // It is a part of this program, and a test reads it.
            Err(error) => problems.push(problem(text, 0, &error.to_string())),
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| (problem.line, problem.column));
            return Err(invalid(problems));
        }
        // A name can be written with escapes, and only then not be seen as it stands.
        let mentions = |name: &str| text.contains(name) || text.contains('\\');
        Ok(Self {
            rules: rules(&set, text),
            set,
            path: path.into(),
            use_arguments: mentions("arguments"),
            use_rate: mentions("calls_last_minute"),
            warnings,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What is allowed, but can hardly be meant.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    pub(crate) fn rule(&self, id: &PolicyId) -> Option<&Rule> {
        self.rules.get(id)
    }

    /// A rule, for people: its `@id`, if it has one, and where it stands.
    pub(crate) fn name(&self, rule: &Rule) -> String {
        let place = format!("{} line {}", self.path.display(), rule.line);
        rule.id.as_ref().map_or(place.clone(), |id| format!("`{id}` ({place})"))
    }
}

fn rules(set: &PolicySet, text: &str) -> BTreeMap<PolicyId, Rule> {
    let starts = starts(text);
    let of_policy = |policy: &cedar_policy::Policy| {
        let id = policy.id().to_string();
        // Cedar numbers them in the order of the file.
        let number = id.strip_prefix("policy").and_then(|number| number.parse::<usize>().ok());
        let start = number.and_then(|number| starts.get(number)).copied().unwrap_or(0);
        let annotation = |key| policy.annotation(key).map(shown);
        let rule = Rule {
            line: locate(text, start).0,
            id: annotation("id"),
            forbids: policy.effect() == Effect::Forbid,
            approval: annotation("approval"),
            tool: match policy.resource_constraint() {
                ResourceConstraint::Eq(tool) => Some(tool),
                _ => None,
            },
        };
        (policy.id().clone(), rule)
    };
    set.policies().map(of_policy).collect()
}

/// Where the rules of a text that parses begin, in order.
fn starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let (mut in_rule, mut in_string) = (false, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            '"' => in_string = !in_string,
            _ if in_string => {}
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                while chars.next_if(|(_, c)| *c != '\n' && *c != '\r').is_some() {}
            }
            ';' => in_rule = false,
            c if !in_rule && !c.is_whitespace() => {
                in_rule = true;
                starts.push(at);
            }
            _ => {}
        }
    }
    starts
}

/// Text of a file, made safe to show on one line.
fn shown(text: &str) -> String {
    const MAX: usize = 500;
    text.chars().take(MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the file says of arguments can't be checked: their names depend on the tool.
fn is_argument(error: &ValidationError) -> bool {
    matches!(error, ValidationError::UnsafeAttributeAccess(_))
        && error.to_string().contains("attribute `arguments.")
}

/// A rule that asks whether an argument is there looks as if it could never hold.
fn is_dead(warning: &ValidationWarning) -> bool {
    matches!(warning, ValidationWarning::ImpossiblePolicy(_))
}

fn told(text: &str, diagnostic: &(impl Diagnostic + ?Sized)) -> Problem {
    let offset = diagnostic.labels().and_then(|mut labels| labels.next());
    let mut problem =
        problem(text, offset.map_or(0, |label| label.offset()), &diagnostic.to_string());
    problem.help = diagnostic.help().map(|help| shown(&help.to_string()));
    problem
}

fn problem(text: &str, offset: usize, message: &str) -> Problem {
    let (line, column) = locate(text, offset);
    Problem { line, column, message: shown(message), help: None }
}

/// Line and column of an offset, both from 1.
fn locate(text: &str, offset: usize) -> (usize, usize) {
    let offset = text.floor_char_boundary(offset);
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policies, Vec<Problem>> {
        Policies::parse(text.as_bytes(), Path::new("policy.cedar")).map_err(|error| match error {
            PolicyError::Invalid { problems, .. } => problems,
            error => panic!("{error}"),
        })
    }

    #[track_caller]
    fn wrong(text: &str, line: usize, column: usize) -> String {
        let problems = parse(text).unwrap_err();
        let first = &problems[0];
        assert_eq!((first.line, first.column), (line, column), "{problems:?}");
        first.message.clone()
    }

    #[test]
    fn the_schema_is_one() {
        assert!(Schema::from_cedarschema_str(SCHEMA).is_ok());
    }

    #[test]
    fn rules_know_where_they_stand() {
        let text = "// a; comment\n\npermit(principal, action, resource); @id(\"a;\\\"b\")\n\
            forbid(principal, action,\n resource == Tool::\"x/y\");\n\n  @approval(\"why\")\n\
            permit(principal, action, resource);";
        let policies = parse(text).unwrap();
        let mut lines: Vec<_> = policies.rules.values().map(|rule| rule.line).collect();
        lines.sort_unstable();
        assert_eq!(lines, [3, 3, 7]);
        let forbid = policies.rules.values().find(|rule| rule.forbids).unwrap();
        assert_eq!(policies.name(forbid), "`a;\"b` (policy.cedar line 3)");
        assert!(forbid.tool.is_some());
        assert!(policies.rules.values().any(|rule| rule.approval.as_deref() == Some("why")));
    }

    #[test]
    fn a_mistake_has_a_line_and_a_column() {
        wrong("permit(principal, action, resource)\n", 1, 36);
        wrong("permit(principal, action, resource);\npermitt(principal, action, resource);", 2, 1);
        let unknown = wrong("permit(principal, action, resource == Tol::\"a/b\");", 1, 39);
        assert!(unknown.contains("Tol"), "{unknown}");
        let unknown =
            wrong("permit(principal, action, resource)\nwhen { context.destructiv };", 2, 8);
        assert!(unknown.contains("destructiv"), "{unknown}");
        wrong("permit(principal, action, resource) when { context.time.hour == \"9\" };", 1, 44);
        wrong("permit(principal == ?principal, action, resource);", 1, 1);
    }

    #[test]
    fn arguments_are_not_checked_against_the_schema() {
        let text = r#"forbid(principal, action, resource)
            when { context.arguments has lamports && context.arguments.lamports > 5 };
            forbid(principal, action, resource)
            when { context.arguments.options.deep == "x" };"#;
        let policies = parse(text).unwrap();
        assert!(policies.use_arguments && !policies.use_rate);
        assert_eq!(policies.warnings(), []);
    }
}
