//! `osvm mcp add`, `osvm mcp add-github`: writes a server into the list, and where the user says
//! so, into the isolation config.
//!
//! Nothing is started or fetched. A repository is asked which commit a name of it stands for.

use super::servers::has_command;
use super::{Outcome, Status, git};
use crate::cli::{Add, AddGithub, AddOptions, Transport};
use crate::confirm::confirm;
use crate::context::{Context, config_failure};
use crate::failure::Failure;
use crate::servers::{isolation_lines, path};
use osvm_policy::{Config, Env, ExecutionMode};
use osvm_servers::edit;
use osvm_servers::file;
use osvm_servers::source::{GitSource, Source, SourceError};
use osvm_servers::{Entry, Http, NAME_RULE, Plain, Servers, Stdio, Target, is_builtin, is_name};
use std::path::Path;

/// Adds what was named.
pub(crate) fn run(context: &Context, args: &Add) -> Outcome {
    check_name(&args.name)?;
    let entry = match (&args.source, args.command.split_first()) {
        (None, None) if is_builtin(&args.name) => Entry::new(Target::Builtin),
        (None, None) => {
            return Err(usage("nothing says what the server is").hint(format!(
                "`osvm mcp add {} URL`, or `osvm mcp add {0} -- COMMAND`",
                args.name
            )));
        }
        _ if is_builtin(&args.name) => {
            return Err(usage(format!("`{}` is a builtin server", args.name))
                .hint("give yours another name"));
        }
        (_, Some((command, arguments))) => program(command, arguments),
        (Some(source), None) => {
            let source = Source::parse(source).map_err(|error| not_a_source(&error))?;
            from_source(context, &source, &args.how)?
        }
    };
    add(context, &args.name, entry, &args.how)
}

/// Adds a repository.
pub(crate) fn from_github(context: &Context, args: &AddGithub) -> Outcome {
    let source = GitSource::from_page(&args.url).map_err(|error| not_a_source(&error))?;
    let name = args.name.as_deref().unwrap_or(source.name());
    check_name(name)?;
    if is_builtin(name) {
        let failure = usage(format!("`{name}` is a builtin server"));
        return Err(failure.hint("give yours another name with `--name`"));
    }
    let entry = from_repository(context, &source, &args.how)?;
    add(context, name, entry, &args.how)
}

fn check_name(name: &str) -> Result<(), Failure> {
    if is_name(name) {
        return Ok(());
    }
    Err(usage(format!("`{}` cannot be the name of a server: {NAME_RULE}", name.escape_debug())))
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new("usage", message)
}

fn not_a_source(error: &SourceError) -> Failure {
    Failure::from_error("usage", error, error.hint())
}

fn program(command: &str, arguments: &[String]) -> Entry {
    let command = Some(command.to_owned());
    let stdio = Stdio { command, args: arguments.to_vec(), ..Stdio::default() };
    Entry::new(Target::Stdio(stdio))
}

fn from_source(context: &Context, source: &Source, how: &AddOptions) -> Result<Entry, Failure> {
    match source {
        Source::Npm(package) => Ok(packaged(source, format!("npx://{package}"))),
        Source::PyPi(package) => Ok(packaged(source, format!("uvx://{package}"))),
        Source::Url(url) => {
            Ok(Entry::new(Target::Http(Http { url: url.clone(), ..Http::default() })))
        }
        Source::Git(git) => from_repository(context, git, how),
        Source::File(path) => from_file(context, path),
    }
}

fn packaged(source: &Source, written: String) -> Entry {
    let (command, arguments) = source.command().unwrap_or_default();
    Entry { source: Some(written), ..program(&command, &arguments) }
}

/// Shows what would be recorded, at which commit, and asks.
fn from_repository(
    context: &Context,
    source: &GitSource,
    how: &AddOptions,
) -> Result<Entry, Failure> {
    let commit = git::resolve(source)?;
    let pinned = source.pinned(&commit);
    if source.commit().is_none() {
        context.printer.note(&format!("`{source}` is commit {commit} now"));
    }
    context.printer.note(&format!("to be recorded: `{pinned}`"));
    confirm(context.printer, "Trust this commit and record it?", how.yes)?;
    let mut entry = Entry::new(Target::Stdio(Stdio::default()));
    entry.source = Some(pinned.to_string());
    Ok(entry)
}

/// The server of a `server.json`, or of any other file that has exactly one.
fn from_file(context: &Context, path: &Path) -> Result<Entry, Failure> {
    let imported = super::exchange::read(path)?;
    for note in &imported.notes {
        context.printer.note(&format!("note: {}: {}", note.server, note.text));
    }
    match imported.servers.as_slice() {
        [(_, entry)] => Ok(entry.clone()),
        [] => Err(usage(format!("`{}` has no server that osvm can use", path.display()))),
        more => {
            let message = format!("`{}` has {} servers", path.display(), more.len());
            Err(usage(message).hint(format!("`osvm mcp import {}` takes all", path.display())))
        }
    }
}

/// Puts what the flags say into the entry, and the entry into the files.
fn add(context: &Context, name: &str, mut entry: Entry, how: &AddOptions) -> Outcome {
    apply(&mut entry, how)?;
    let env = context.env()?;
    let mode = how.execution_mode.map(ExecutionMode::from);
    let mode = mode.or((name == "osvm-mcp").then_some(ExecutionMode::Unikernel));
    let config = context.config(&env)?;
    // Made before anything is written, so that a config that can't be changed changes nothing.
    let isolated = mode.map(|mode| isolate(&config, &env, name, mode)).transpose()?;
    let file = path(context, &env);
    Servers::update(&file, |servers| {
        if servers.get(name).is_some() && !how.force && !is_builtin(name) {
            let message = format!("there is a server `{name}` already");
            return Err(Failure::new("exists", message).hint("`--force` replaces it"));
        }
        Ok::<_, Failure>(servers.set(name, &entry)?)
    })?;
    let config = match isolated {
        Some((text, after)) => {
            if text != config.text() {
                let _lock = file::lock(config.path())?;
                file::replace(config.path(), text.as_bytes())?;
            }
            after
        }
        None => config,
    };
    context.printer.result(&format!("added server `{name}` to `{}`", file.display()))?;
    if matches!(&entry.target, Target::Stdio(Stdio { command: None, .. })) {
        context.printer.note(&format!(
            "note: `{name}` has no command: it can run once there is an image of its source"
        ));
    }
    tell_of_secrets(context, name, &entry.target);
    explain(context, &config, &[(name, &entry)]);
    Ok(Status::Success)
}

/// Says plainly what the user gives away.
fn tell_of_secrets(context: &Context, name: &str, target: &Target) {
    let (pairs, bearer) = match target {
        Target::Builtin => return,
        Target::Stdio(stdio) => (&stdio.env_from_secret, None),
        Target::Http(http) => (&http.headers_from_secret, http.bearer_from_secret.as_ref()),
    };
    for secret in pairs.iter().map(|(_, secret)| secret).chain(bearer) {
        context.printer.note(&format!("note: `{name}` will see the value of secret `{secret}`"));
    }
}

fn apply(entry: &mut Entry, how: &AddOptions) -> Result<(), Failure> {
    let for_program = !how.env.is_empty() || !how.env_from_secret.is_empty() || how.cwd.is_some();
    let for_address = !how.header.is_empty()
        || !how.header_from_secret.is_empty()
        || how.bearer_from_secret.is_some();
    match (&mut entry.target, how.transport) {
        (Target::Stdio(_), Some(Transport::Http)) => {
            return Err(usage("`--transport http` takes a URL, not a program"));
        }
        (Target::Http(_), Some(Transport::Stdio)) => {
            return Err(usage("`--transport stdio` takes a program, not a URL")
                .hint("put `--` in front of the program"));
        }
        (Target::Stdio(_) | Target::Builtin, _) if for_address => {
            return Err(usage("headers and bearer tokens are for servers with a URL"));
        }
        (Target::Http(_) | Target::Builtin, _) if for_program => {
            return Err(usage("variables and a working directory are for servers with a command"));
        }
        (Target::Stdio(stdio), _) => {
            stdio.env.extend(how.env.iter().cloned());
            stdio.env_from_secret.extend(how.env_from_secret.iter().cloned());
            stdio.cwd = how.cwd.clone().or(stdio.cwd.take());
        }
        (Target::Http(http), _) => {
            http.headers.extend(how.header.iter().cloned());
            http.headers_from_secret.extend(how.header_from_secret.iter().cloned());
            http.bearer_from_secret =
                how.bearer_from_secret.clone().or(http.bearer_from_secret.take());
        }
        (Target::Builtin, _) => {}
    }
    entry.enabled &= !how.disabled;
    entry.description = how.description.clone().or(entry.description.take());
    Ok(())
}

/// The text of the isolation config in which server `name` runs in `mode`, and what it means.
fn isolate(
    config: &Config,
    env: &Env,
    name: &str,
    mode: ExecutionMode,
) -> Result<(String, Config), Failure> {
    let same = config.resolve(name, "").mode == mode && config.servers().any(|s| s.name == name);
    if same {
        return Ok((config.text().to_owned(), config.clone()));
    }
    let member = ("execution_mode", Some(Plain::from(mode.as_str())));
    let text = edit::set(config.text(), false, &["mcp_servers", name], &[member])
        .map_err(|error| Failure::new("config", error.to_string()))?;
    let after = Config::parse(&text, config.path(), env);
    let after = after.map_err(|errors| config_failure(&errors.into()))?;
    Ok((text, after))
}

/// Says which of the servers have calls that will be denied, and what to do about it.
pub(super) fn explain(context: &Context, config: &Config, added: &[(&str, &Entry)]) {
    let denied = |(name, entry): &&(&str, &Entry)| {
        matches!(entry.target, Target::Stdio(_))
            && config.resolve(name, "").mode == ExecutionMode::Unikernel
    };
    for (name, entry) in added.iter().filter(denied) {
        let mut modes = vec![ExecutionMode::MicroVm];
        if has_command(&entry.target) {
            modes.push(ExecutionMode::Direct);
        }
        let lines = modes.into_iter().map(|mode| format!("\n  {}", isolation_lines(name, mode)));
        context.printer.note(&format!(
            "note: calls of `{name}` are denied until `{}` says where they run:{}",
            config.path().display(),
            lines.collect::<String>()
        ));
    }
}
