//! Servers from git repositories, at one commit.
//!
//! git checks out and nothing else: no hooks, submodules, filters or templates, and no
//! configuration but its own. A full commit id is asked for, because a branch is no version.

use crate::error::BuildError;
use crate::jail::{Step, Yard};
use crate::programs;
use osvm_image::linux::{Source, SourceKind};
use std::path::{Path, PathBuf};

/// Settings that keep a repository from running anything or reaching anything else.
const SAFE: &[&str] = &[
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.symlinks=true",
    "-c",
    "protocol.allow=never",
    "-c",
    "protocol.https.allow=always",
    "-c",
    "protocol.file.allow=always",
    "-c",
    "submodule.recurse=false",
    "-c",
    "safe.directory=*",
    "-c",
    "credential.helper=",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "advice.detachedHead=false",
];

/// Checks out `spec` (`URL@COMMIT`). Returns the folder and where it is from.
pub(crate) fn check_out(yard: &Yard, spec: &str) -> Result<(PathBuf, Source), BuildError> {
    let (url, commit) = split(spec)?;
    let program = programs::find("git", "check out repositories", "git")?;
    let dir = yard.sub("app")?;
    let step = |what: &str| {
        let mut step =
            yard.step(what, &program).with_network().within(&dir).args(SAFE.iter().copied());
        step.read.extend(programs::prefix(&program));
        isolated(step, url)
    };
    yard.run(step("make a repository").args(["init", "--quiet", "--template="]))?;
    // One commit, if the server gives single ones; else all of them.
    let fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
    let shallow = step("fetch the commit").args(fetch).args(["--depth=1", "--", url, commit]);
    if yard.run(shallow).is_err() {
        let all = ["--", url, "+refs/heads/*:refs/remotes/o/*", "+refs/tags/*:refs/tags/*"];
        yard.run(step("fetch the repository").args(fetch).args(all))?;
    }
    yard.run(
        step("check out the commit").args(["checkout", "--quiet", "--force", "--detach", commit]),
    )?;
    let found = yard.run(step("read the commit").args(["rev-parse", "HEAD"]))?;
    if String::from_utf8_lossy(&found).trim() != commit {
        return Err(BuildError::refused(
            format!("repository `{url}`"),
            "it checked out another commit",
        ));
    }
    let source = Source {
        kind: SourceKind::Git,
        name: url.to_owned(),
        version: commit.to_owned(),
        digest: None,
    };
    Ok((dir, source))
}

fn isolated(step: Step, url: &str) -> Step {
    let step = step.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let step = step.env("GIT_TERMINAL_PROMPT", "0").env("GIT_LFS_SKIP_SMUDGE", "1");
    let local = url.strip_prefix("file://").unwrap_or(url);
    if local.starts_with('/') { step.reading(Path::new(local)) } else { step }
}

/// `URL@COMMIT`, with an `https://` or `file://` address or an absolute path.
fn split(spec: &str) -> Result<(&str, &str), BuildError> {
    let bad = |reason: &str| BuildError::recipe(format!("`{}` {reason}", spec.escape_debug()));
    let (url, commit) = spec.rsplit_once('@').ok_or_else(|| bad("has no `@COMMIT`"))?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if commit.len() != 40 || !commit.bytes().all(hex) {
        return Err(bad("does not end with a full commit id, 40 hexadecimal digits"));
    }
    let known = ["https://", "file:///", "/"].iter().any(|start| url.starts_with(start));
    if !known || url.contains(char::is_control) {
        return Err(bad("is not at an `https://` or `file://` address"));
    }
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    if host.is_some_and(|host| host.contains('@')) {
        return Err(bad("has credentials in its address, which would end up in the image"));
    }
    Ok((url, commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_repository_has_an_address_and_a_full_commit() {
        for url in ["https://host/a/b.git", "file:///srv/x", "/srv/x", "https://host/a@b"] {
            assert_eq!(split(&format!("{url}@{COMMIT}")).unwrap(), (url, COMMIT));
        }
        for spec in [
            "https://host/x",
            "https://host/x@main",
            &format!("ssh://host/x@{COMMIT}"),
            &format!("--upload-pack=x@{COMMIT}"),
            &format!("ext::sh@{COMMIT}"),
            &format!("https://user:token@host/x@{COMMIT}"),
            &format!("http://host/x@{COMMIT}"),
            &format!("https://host/x@{}", COMMIT.to_uppercase()),
        ] {
            assert!(split(spec).is_err(), "{spec}");
        }
    }
}
