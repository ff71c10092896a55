//! Starting programs, with errors that name them.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, pipe};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// `cargo`, the one that runs this program, in `directory`.
pub(crate) fn cargo(directory: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(directory);
    command
}

/// Runs `command` to its end; failing is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    succeeded(&shown, status)
}

/// Runs `command` and returns what it wrote to stdout.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run `{shown}`"))?;
    succeeded(&shown, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not write UTF-8"))
}

/// Runs `command` quietly; true when it succeeded. A program that is not there has not.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs `command`, hands each line of both its outputs to `see` as it comes, and returns how it
/// ended.
///
/// Takes the command by value: it holds the writing ends of the pipe, which must be closed for the
/// lines to end.
pub(crate) fn watch(mut command: Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = show(&command);
    let (reader, writer) = pipe().context("cannot make a pipe")?;
    let second = writer.try_clone().context("cannot duplicate a pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    drop(command);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).with_context(|| format!("cannot read `{shown}`"))? > 0
    {
        see(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    child.wait().with_context(|| format!("cannot wait for `{shown}`"))
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn succeeded(shown: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_seen_and_the_status_returned() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let mut seen = Vec::new();
        let status = watch(command, |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(seen, ["out", "err"]);
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed: exit status: 3");
    }
}
