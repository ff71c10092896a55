//! Names, paths and text of a file as they stand in messages to its author.

use std::path::Path;

/// `name` below `parent`, as `parent.name`, or `parent["na me"]` where a dot would mislead.
pub fn member_pointer(parent: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match (name.is_empty() || !name.chars().all(plain), parent.is_empty()) {
        (true, _) => format!("{parent}[\"{}\"]", printable(name)),
        (false, true) => name.to_owned(),
        (false, false) => format!("{parent}.{name}"),
    }
}

/// Text of a file as it may appear in a message: no control characters, no longer than a line.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            out.push('…');
            break;
        }
        // Direction marks and other invisible characters could make a message lie.
        match c {
            '\'' | '"' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// A path as one word of a shell command, so that a hint works when pasted.
pub fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
