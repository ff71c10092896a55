//! The command that builds the image of a configured server, for whoever has none yet.

use osvm_servers::source::Source;
use osvm_servers::{Entry, Stdio, Target};

/// Flags of `npx` and `uvx` that take no value and change nothing about which package runs.
const PLAIN_FLAGS: [&str; 4] = ["-y", "--yes", "-q", "--quiet"];

/// `osvm image build …` for `image`, from where the entry says that the server comes from.
pub(super) fn of(image: &str, entry: &Entry) -> String {
    let (from, args) = source(entry).unwrap_or_else(|| (vec!["--help".into()], Vec::new()));
    let args = args.iter().flat_map(|arg| ["--arg", arg.as_str()]);
    let words = ["osvm", "image", "build", image].into_iter();
    let words = words.chain(from.iter().map(String::as_str)).chain(args);
    // Only a zero byte can't be quoted, and no entry has one.
    format!("build one: `{}`", shlex::try_join(words).unwrap_or_default())
}

type Words = Vec<String>;

fn source(entry: &Entry) -> Option<(Words, Words)> {
    let stdio = match &entry.target {
        Target::Stdio(stdio) => stdio,
        Target::Builtin | Target::Http(_) => return None,
    };
    let started = started(stdio);
    let written = entry.source.as_deref().and_then(|text| Source::parse(text).ok());
    let flag = |name: &str, value: String| vec![format!("--{name}"), value];
    let from = match written {
        Some(Source::Npm(package)) => flag("npm", pinned(&package, "@")),
        Some(Source::PyPi(package)) => flag("pypi", pinned(&package, "==")),
        Some(Source::Git(git)) => {
            let commit = git.reference.as_deref().unwrap_or("COMMIT");
            flag("git", format!("{}@{commit}", git.url))
        }
        _ => return started,
    };
    Some((from, started.map(|(_, args)| args).unwrap_or_default()))
}

/// What the command line says of the package, and the server's own arguments.
fn started(stdio: &Stdio) -> Option<(Words, Words)> {
    let command = stdio.command.as_deref()?;
    let program = command.rsplit('/').next().unwrap_or(command);
    let mut args = stdio.args.iter().skip_while(|arg| PLAIN_FLAGS.contains(&arg.as_str())).cloned();
    let first = args.next()?;
    let rest = args.collect();
    let from = match program {
        _ if first.starts_with('-') => return None,
        "npx" => vec!["--npm".into(), pinned(&first, "@")],
        "uvx" => vec!["--pypi".into(), pinned(&first.replacen('@', "==", 1), "==")],
        "node" | "python" | "python3" => {
            let (runtime, name) = if program == "node" {
                ("node", "/app/server.js")
            } else {
                ("python", "/app/server.py")
            };
            let command = format!("{program} {name}");
            let add = format!("{first}:{name}");
            ["--from", runtime, "--add", &add, "--command", &command].map(str::to_owned).to_vec()
        }
        _ => return None,
    };
    Some((from, rest))
}

/// An image is of one version, so there has to be one.
fn pinned(package: &str, separator: &str) -> String {
    let scope = usize::from(package.starts_with('@'));
    match package.get(scope..) {
        Some(rest) if rest.contains(separator) => package.to_owned(),
        _ => format!("{package}{separator}VERSION"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &[&str], source: Option<&str>, expected: &str) {
        let (command, args) = command.split_first().unwrap();
        let stdio = Stdio {
            command: Some((*command).into()),
            args: args.iter().map(|arg| (*arg).into()).collect(),
            ..Stdio::default()
        };
        let mut entry = Entry::new(Target::Stdio(stdio));
        entry.source = source.map(Into::into);
        assert_eq!(of("x", &entry), format!("build one: `osvm image build x {expected}`"));
    }

    #[test]
    fn packages_of_npm_and_pypi_are_built_from_there() {
        check(&["npx", "-y", "@a/b@1.2.3", "/srv"], None, "--npm @a/b@1.2.3 --arg /srv");
        check(&["npx", "-y", "@a/b"], None, "--npm @a/b@VERSION");
        check(&["uvx", "mcp-server-time@1"], None, "--pypi 'mcp-server-time==1'");
        check(&["/usr/bin/npx", "a@1", "x y"], Some("npx://a@1"), "--npm a@1 --arg 'x y'");
        check(&["uvx", "a@1"], Some("uvx://a==1"), "--pypi 'a==1'");
    }

    #[test]
    fn a_script_is_added_to_its_runtime() {
        let line = "--from node --add ./s.js:/app/server.js --command 'node /app/server.js' \
                    --arg -v";
        check(&["node", "./s.js", "-v"], None, line);
    }

    #[test]
    fn what_nobody_can_guess_is_left_to_the_user() {
        check(&["npx", "--package=a", "b"], None, "--help");
        check(&["./server"], None, "--help");
    }
}
