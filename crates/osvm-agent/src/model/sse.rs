//! Server-sent events, as far as providers use them: the `data` of each event.
//!
//! WHATWG HTML, section 9.2. Lines end in `\n`, `\r\n` or `\r`; `data` lines of one event are
//! joined by line breaks; comments and other fields are skipped.

use crate::limits::MAX_TURN;

/// What has come so far of the next event.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: String,
    data: Option<String>,
    after_return: bool,
}

impl Events {
    /// The events that are complete with this piece.
    pub(super) fn take(&mut self, piece: &str) -> Vec<String> {
        let mut events = Vec::new();
        for letter in piece.chars() {
            let half = std::mem::replace(&mut self.after_return, letter == '\r');
            match letter {
                '\n' if half => {}
                '\n' | '\r' => events.extend(self.end_of_line()),
                // A line without end is cut: its event is no JSON any more, and is refused as such.
                letter if self.line.len() < MAX_TURN => self.line.push(letter),
                _ => {}
            }
        }
        events
    }

    fn end_of_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        if let Some(value) = line.strip_prefix("data") {
            let value = match value.strip_prefix(':') {
                Some(value) => value.strip_prefix(' ').unwrap_or(value),
                None if value.is_empty() => value,
                // Another field whose name begins alike.
                None => return None,
            };
            match &mut self.data {
                Some(data) if data.len() < MAX_TURN => {
                    data.push('\n');
                    data.push_str(value);
                }
                Some(_) => {}
                none => *none = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_are_told_apart_whatever_ends_their_lines() {
        let mut events = Events::default();
        let text =
            ": hello\ndata: a\n\nevent: x\r\ndata:b\r\ndata: c\r\n\r\ndatabase: no\rdata\r\r";
        assert_eq!(events.take(text), ["a", "b\nc", ""]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(text in "[a-d:\r\n ]{0,60}", at in 0_usize..60) {
            let mut whole = Events::default();
            let expected = whole.take(&text);
            let at = text.floor_char_boundary(at);
            let mut cut = Events::default();
            let mut found = cut.take(&text[..at]);
            found.extend(cut.take(&text[at..]));
            prop_assert_eq!(found, expected);
        }
    }
}
