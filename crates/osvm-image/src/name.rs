//! Names of images: what may stand in the index and in a path.

use crate::ImageError;

/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// Accepts letters, digits, `_`, `-` and `.`, at most 64 of them, not beginning with a dot.
///
/// So a name can never leave the store's directory or stand for something else in it.
///
/// # Errors
///
/// [`ImageError::BadName`].
pub fn check_name(name: &str) -> Result<(), ImageError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fits = (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.');
    if fits && name.bytes().all(plain) {
        return Ok(());
    }
    let name = name.chars().take(MAX_NAME).flat_map(char::escape_debug).collect();
    Err(ImageError::BadName { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_accepted() {
        for name in ["unikraft_tool_executor", "a", "hello-1.2", &"x".repeat(MAX_NAME)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".lock", "a b", "a\n", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name(&"x".repeat(MAX_NAME + 1)).is_err());
    }
}
