//! Options that are text: names, paths, commands, variables.
//!
//! Each `check_…` says in words why a text cannot be meant, or nothing.

use crate::env::Env;
use crate::json::{Node, Path, Reader};
use crate::model::KraftConfig;
use osvm_protocol::boot::{BootPage, BootPageError, MAX_BODY};
use std::borrow::Cow;
use std::path::PathBuf;

/// Longest name of a server, tool or image, in bytes.
const MAX_NAME: usize = 128;

/// A name of a server or tool, as MCP allows them and a little more.
pub(super) fn check_name(name: &str, no_patterns: &'static str) -> Result<(), &'static str> {
    match name {
        "" => Err("it is empty"),
        name if MAX_NAME < name.len() => Err("it is longer than 128 bytes"),
        name if name.chars().any(|c| c.is_control() || c.is_whitespace()) => {
            Err("it has white space or control characters")
        }
        name if name.contains(['*', '?']) => Err(no_patterns),
        _ => Ok(()),
    }
}

/// The name of an image in the store.
pub(super) fn image_name<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    checked(&node, reader, |name| match name {
        "" => Err("an image has a name"),
        name if name.contains('/') => {
            Err("an image is named without a path: `unikernel_dir` says where images are")
        }
        name if name.starts_with(['.', '-']) => Err("an image name does not begin with `.` or `-`"),
        name if MAX_NAME < name.len() => Err("an image name is at most 128 bytes long"),
        name if !name.chars().all(plain) => {
            Err("an image name has only letters, digits, `.`, `_` and `-`")
        }
        _ => Ok(()),
    })
}

/// A directory on the host, `~` expanded.
pub(super) fn host_path<'a>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    env: &Env,
) -> Option<PathBuf> {
    let path = checked(node, reader, |path| match path {
        path if !path.starts_with(['/', '~']) => Err("a host path is absolute or begins with `~/`"),
        path if path.starts_with('~') && path != "~" && !path.starts_with("~/") => {
            Err("only your own home directory can be written with `~`")
        }
        path => check_path(path),
    })?;
    Some(env.expand(&path))
}

/// What host and guest paths have in common.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    /// `PATH_MAX` of Linux, without the byte that ends the text.
    const MAX_PATH: usize = 4095;
    match path {
        path if MAX_PATH < path.len() => Err("a path is at most 4095 bytes long"),
        path if path.chars().any(char::is_control) => Err("a path has no control characters"),
        path if path.split('/').any(|part| part == "..") => {
            Err("a path is written without `..`, so that it says where it leads")
        }
        _ => Ok(()),
    }
}

/// Environment variables in the order of the file, together small enough for a boot page.
pub(super) fn env_vars<'a>(
    node: Node<'a, '_>,
    reader: &mut Reader<'a>,
) -> Option<Vec<(String, String)>> {
    let mut vars = Vec::new();
    for member in node.members(reader)? {
        let path = Path::Member(&node.path, &member.name);
        let value = member.node(path);
        if let Err(reason) = check_variable(&member.name) {
            reader.bad_name(&member, &node.path, reason);
        } else if let Some(text) = value.string(reader) {
            if text.contains('\0') {
                // The value is not shown: it may be a secret.
                value.invalid(reader, "…", "a variable cannot hold a NUL character");
            } else {
                vars.push((member.name.into_owned(), text.into_owned()));
            }
        }
    }
    let page = BootPage {
        env: vars.iter().map(|(n, v)| (n.as_str().into(), v.as_str().into())).collect(),
    };
    match page.encode() {
        Ok(_) => Some(vars),
        Err(BootPageError::BadLength { len }) => {
            let reason = format!("a guest is told at most {MAX_BODY} bytes of them");
            node.invalid(reader, &format!("{len} bytes of variables"), reason);
            None
        }
        Err(BootPageError::NoHeader | BootPageError::BadBody) => {
            node.invalid(reader, "…", "the variables do not fit a boot page");
            None
        }
    }
}

fn check_variable(name: &str) -> Result<(), &'static str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(word)
    {
        return Err("a variable has letters, digits and `_`, and does not begin with a digit");
    }
    Ok(())
}

/// A program and its arguments: a list, or one text that is split as a shell splits words,
/// with quotes but without variables, globs or anything else a shell does.
pub(super) fn command<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<Vec<String>> {
    let words = if node.kind() == "a string" {
        let text = node.string(reader)?;
        let Some(words) = shlex::split(&text) else {
            node.invalid(reader, &text, "a quote is not closed");
            return None;
        };
        words
    } else {
        let items = node.items(reader)?;
        // All of them are read before any is missed, so that every problem is found.
        let words: Vec<_> = items.iter().map(|item| item.string(reader)).collect();
        words.into_iter().map(|word| word.map(Cow::into_owned)).collect::<Option<_>>()?
    };
    if words.first().is_none_or(String::is_empty) {
        node.invalid(reader, "", "a command names a program");
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        node.invalid(reader, "…", "a command has no NUL character");
        return None;
    }
    Some(words)
}

/// What the `kraft` backend is told. Its values become arguments of a program, so they must not
/// look like options.
pub(super) fn kraft<'a>(node: Node<'a, '_>, reader: &mut Reader<'a>) -> Option<KraftConfig> {
    const PLATFORMS: &[(&str, &str)] =
        &[("auto", "auto"), ("qemu", "qemu"), ("fc", "fc"), ("xen", "xen")];
    const ARCHITECTURES: &[(&str, &str)] = &[("x86_64", "x86_64"), ("arm64", "arm64")];
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let mut fields = node.fields(reader)?;
    let runtime = fields.take(reader, "runtime", |node, reader| {
        checked(&node, reader, |name| match name {
            "" => Err("a runtime has a name"),
            name if name.starts_with('-') => Err("a runtime does not begin with `-`"),
            name if 2 * MAX_NAME < name.len() => Err("a runtime is at most 256 bytes long"),
            name if !name.chars().all(plain) => {
                Err("a runtime has only letters, digits and `._-/:@`")
            }
            _ => Ok(()),
        })
    });
    let plat = fields.take(reader, "plat", |node, reader| node.word(reader, PLATFORMS));
    let arch = fields.take(reader, "arch", |node, reader| node.word(reader, ARCHITECTURES));
    fields.finish(reader);
    Some(KraftConfig { runtime, plat: plat.map(Into::into), arch: arch.map(Into::into) })
}

/// A text that passes `check`.
pub(super) fn checked<'a>(
    node: &Node<'a, '_>,
    reader: &mut Reader<'a>,
    check: impl FnOnce(&str) -> Result<(), &'static str>,
) -> Option<String> {
    let text = node.string(reader)?;
    match check(&text) {
        Ok(()) => Some(text.into_owned()),
        Err(reason) => {
            node.invalid(reader, &text, reason);
            None
        }
    }
}
