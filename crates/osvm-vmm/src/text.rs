//! Text from a guest or a VM process, made safe to show: cut, valid, without control characters.

/// Cuts `bytes` to its last `max` bytes and turns it into one line that can be printed anywhere.
///
/// The end is kept because that is where the last words stand. Line breaks become `; `, other
/// control characters (terminal escapes among them) become the replacement character.
pub fn clean(bytes: &[u8], max: usize) -> String {
    let start = bytes.len().saturating_sub(max);
    let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default());
    let mut line = String::with_capacity(text.len());
    for piece in text.split(['\n', '\r']).map(str::trim).filter(|piece| !piece.is_empty()) {
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.extend(piece.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_one() {
        assert_eq!(clean(b"first\r\n\n  second\n", 100), "first; second");
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(clean(b"\x1b[2Jhi\xff", 100), "\u{fffd}[2Jhi\u{fffd}");
    }

    #[test]
    fn the_end_is_what_is_kept() {
        assert_eq!(clean(b"long ago, last words", 10), "last words");
    }
}
