//! Asks git what a branch or a tag of a repository is, without fetching or running anything of it.

use crate::failure::Failure;
use osvm_servers::source::{GitSource, find_commit};
use std::io::Read;
use std::process::{Command, Stdio};

/// Longest listing of references that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// The commit that the reference of `source` stands for; its own if it is one.
pub(super) fn resolve(source: &GitSource) -> Result<String, Failure> {
    if let Some(commit) = source.commit() {
        return Ok(commit.to_ascii_lowercase());
    }
    let listing = list(source)?;
    find_commit(&listing, source.reference.as_deref()).map_err(|error| {
        Failure::new("git", format!("cannot pin `{source}` to a commit")).caused_by(&error)
    })
}

fn list(source: &GitSource) -> Result<String, Failure> {
    let cannot = || Failure::new("git", format!("cannot list the references of `{source}`"));
    let mut command = Command::new("git");
    // A server that sends nothing must not hold osvm up, and nobody is there to be asked.
    command.args(["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=20"]);
    command.args(["ls-remote", "--quiet", "--", &source.url]);
    match &source.reference {
        None => command.arg("HEAD"),
        Some(name) => command.args([
            format!("refs/heads/{name}"),
            format!("refs/tags/{name}"),
            format!("refs/tags/{name}^{{}}"),
        ]),
    };
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut git = command
        .spawn()
        .map_err(|error| cannot().caused_by(&error).hint("install git, or name a full commit"))?;
    let mut listing = Vec::new();
    let mut complaint = Vec::new();
    let read = git.stdout.take().map(|out| out.take(LONGEST).read_to_end(&mut listing));
    // What it says of an error is a few lines; the rest stays in the pipe and ends with it.
    let complained = git.stderr.take().map(|out| out.take(4096).read_to_end(&mut complaint));
    let ended = git.wait().map_err(|error| cannot().caused_by(&error))?;
    if let Some(Err(error)) = read.or(complained) {
        return Err(cannot().caused_by(&error));
    }
    if !ended.success() {
        let complaint = String::from_utf8_lossy(&complaint);
        let mut failure = cannot();
        let line = complaint.lines().next().unwrap_or("git said nothing");
        failure.causes.push(line.chars().take(300).collect());
        return Err(failure);
    }
    Ok(String::from_utf8_lossy(&listing).into_owned())
}
