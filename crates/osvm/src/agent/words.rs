//! Text of agents, models and tools, made safe to show, and cut into lines.

use crate::printer::escape;
use unicode_width::UnicodeWidthChar as _;

/// Bytes of one text that are shown.
pub(crate) const SHOWN: usize = 64 * 1024;

/// What may go to a terminal: no control characters, line breaks of one kind, blanks for tabs.
pub(crate) fn clean(text: &str) -> String {
    escape(&text.replace("\r\n", "\n")).replace('\t', "    ")
}

/// The same on one line of at most `longest` letters.
pub(crate) fn brief(text: &str, longest: usize) -> String {
    let mut line = String::new();
    for word in clean(text).split_whitespace() {
        if longest <= line.chars().count() {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() <= longest {
        return line;
    }
    let cut: String = line.chars().take(longest.saturating_sub(1)).collect();
    format!("{cut}…")
}

/// The beginning of a text that is too long to be shown, and what is left out of it.
pub(crate) fn beginning(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let shown = text.get(..text.floor_char_boundary(SHOWN)).unwrap_or_default();
    format!("{shown}\n[{} more bytes are not shown]", text.len() - shown.len())
}

/// Cuts a text into lines of at most `width` columns, at blanks where there are some.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        wrap_line(line, width.max(1), &mut lines);
    }
    lines
}

fn wrap_line(line: &str, width: usize, lines: &mut Vec<String>) {
    let (mut current, mut columns) = (String::new(), 0);
    // Bytes of `current` up to the last blank, and the columns of what follows it.
    let (mut blank, mut after) = (None, 0);
    for letter in line.chars() {
        let wide = letter.width().unwrap_or(0);
        // Twice where the word that moves on is as long as a line.
        while width < columns + wide && !current.is_empty() {
            let rest = match blank {
                Some(at) => current.split_off(at),
                None => String::new(),
            };
            columns = if blank.is_some() { after } else { 0 };
            lines.push(current.trim_end().to_owned());
            (current, blank, after) = (rest, None, 0);
        }
        current.push(letter);
        columns += wide;
        after += wide;
        if letter == ' ' {
            (blank, after) = (Some(current.len()), 0);
        }
    }
    lines.push(current);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_blanks_and_words_that_are_too_long_anywhere() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("ab", 0), ["a", "b"]);
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        let text = "aaa bbbbbbbb c dd\u{301}d 日本語日本語 \u{200b}e";
        for width in 2..20 {
            for line in wrap(text, width) {
                let columns: usize = line.chars().map(|c| c.width().unwrap_or(0)).sum();
                assert!(columns <= width, "{line:?} at {width}");
            }
        }
    }

    #[test]
    fn what_a_tool_wrote_moves_no_cursor() {
        assert_eq!(clean("a\r\nb\tc\u{1b}[2J"), "a\nb    c\\u001b[2J");
        assert_eq!(brief("  a\n  b  ", 9), "a b");
        assert_eq!(brief("abcdef", 4), "abc…");
    }

    #[test]
    fn a_text_that_is_too_long_says_what_is_left_out() {
        let shown = beginning(&"é".repeat(SHOWN));
        assert!(shown.ends_with(&format!("[{SHOWN} more bytes are not shown]")), "{}", shown.len());
    }
}
