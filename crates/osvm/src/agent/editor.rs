//! The line that is being typed: a cursor, a history, pastes.
//!
//! # Invariants
//!
//! - The text has no control characters but line breaks, and at most [`MAX_PROMPT`] bytes.
//! - The cursor stands between two letters.

use super::words;
use osvm_agent::MAX_PROMPT;

/// Lines that are remembered.
const MOST: usize = 500;

/// What is being typed.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    text: String,
    /// In bytes.
    cursor: usize,
    history: Vec<String>,
    /// Which line of the history is shown, and what was typed before.
    shown: Option<(usize, String)>,
}

impl Editor {
    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Where the cursor is, in bytes.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Adds a line to the history.
    pub(crate) fn remember(&mut self, line: &str) {
        if self.history.last().is_none_or(|last| last != line) && !line.trim().is_empty() {
            self.history.push(line.to_owned());
        }
        if MOST < self.history.len() {
            self.history.remove(0);
        }
    }

    /// Inserts what was typed or pasted. Says what could not be taken as it was.
    pub(crate) fn insert(&mut self, text: &str) -> Option<String> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', "    ");
        let kept: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        let removed = text.chars().count().saturating_sub(kept.chars().count());
        let length = self.text.len().saturating_add(kept.len());
        if MAX_PROMPT < length {
            return Some(format!(
                "this would make {length} bytes, {MAX_PROMPT} are the limit: nothing was inserted"
            ));
        }
        self.text.insert_str(self.cursor, &kept);
        self.cursor += kept.len();
        self.shown = None;
        (0 < removed).then(|| format!("{removed} control characters were left out"))
    }

    /// Takes the text away, into the history.
    pub(crate) fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        (self.cursor, self.shown) = (0, None);
        // What nobody would scroll through is not kept.
        if text.len() <= words::SHOWN {
            self.remember(&text);
        }
        text
    }

    /// Empties it; false if there was nothing.
    pub(crate) fn clear(&mut self) -> bool {
        (self.cursor, self.shown) = (0, None);
        !std::mem::take(&mut self.text).is_empty()
    }

    /// Removes the letter before the cursor.
    pub(crate) fn backspace(&mut self) {
        let from = self.before();
        self.cut(from, self.cursor);
    }

    /// Removes the letter at the cursor.
    pub(crate) fn delete(&mut self) {
        let to = self.after();
        self.cut(self.cursor, to);
    }

    /// Removes the word before the cursor.
    pub(crate) fn backspace_word(&mut self) {
        let head = self.text.get(..self.cursor).unwrap_or_default().trim_end();
        let from = head.rfind(char::is_whitespace).map_or(0, |at| {
            at + head.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
        });
        self.cut(from, self.cursor);
    }

    /// Removes everything before the cursor on its line.
    pub(crate) fn cut_head(&mut self) {
        let from = self.line_start();
        self.cut(from, self.cursor);
    }

    /// Moves the cursor one letter back.
    pub(crate) fn left(&mut self) {
        self.cursor = self.before();
    }

    /// Moves the cursor one letter on.
    pub(crate) fn right(&mut self) {
        self.cursor = self.after();
    }

    /// Moves the cursor to the start of its line.
    pub(crate) fn home(&mut self) {
        self.cursor = self.line_start();
    }

    /// Moves the cursor to the end of its line.
    pub(crate) fn end(&mut self) {
        let rest = self.text.get(self.cursor..).unwrap_or_default();
        self.cursor += rest.find('\n').unwrap_or(rest.len());
    }

    /// Shows the line before in the history.
    pub(crate) fn older(&mut self) {
        let (at, typed) = match self.shown.take() {
            None => (self.history.len(), self.text.clone()),
            Some(shown) => shown,
        };
        let at = at.saturating_sub(1);
        if let Some(line) = self.history.get(at) {
            self.text.clone_from(line);
            self.cursor = self.text.len();
            self.shown = Some((at, typed));
        }
    }

    /// Shows the line after in the history; after the last one, what was typed.
    pub(crate) fn newer(&mut self) {
        let Some((at, typed)) = self.shown.take() else { return };
        if let Some(line) = self.history.get(at + 1) {
            self.text.clone_from(line);
            self.shown = Some((at + 1, typed));
        } else {
            self.text = typed;
        }
        self.cursor = self.text.len();
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to && self.text.is_char_boundary(from) && self.text.is_char_boundary(to) {
            self.text.replace_range(from..to, "");
            (self.cursor, self.shown) = (from, None);
        }
    }

    fn before(&self) -> usize {
        let head = self.text.get(..self.cursor).unwrap_or_default();
        self.cursor - head.chars().next_back().map_or(0, char::len_utf8)
    }

    fn after(&self) -> usize {
        let rest = self.text.get(self.cursor..).unwrap_or_default();
        self.cursor + rest.chars().next().map_or(0, char::len_utf8)
    }

    fn line_start(&self) -> usize {
        let head = self.text.get(..self.cursor).unwrap_or_default();
        head.rfind('\n').map_or(0, |at| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_several_bytes_are_one_letter() {
        let mut editor = Editor::default();
        assert_eq!(editor.insert("aä日"), None);
        editor.left();
        editor.backspace();
        assert_eq!((editor.text(), editor.cursor()), ("a日", 1));
        editor.delete();
        editor.delete();
        editor.right();
        assert_eq!((editor.text(), editor.cursor()), ("a", 1));
    }

    #[test]
    fn a_paste_keeps_its_lines_and_loses_its_control_characters() {
        let mut editor = Editor::default();
        let note = editor.insert("a\r\nb\u{1b}[2J\u{0}\tc").unwrap();
        assert_eq!(editor.text(), "a\nb[2J    c");
        assert_eq!(note, "2 control characters were left out");
    }

    #[test]
    fn a_paste_over_the_limit_is_refused_whole() {
        let mut editor = Editor::default();
        assert_eq!(editor.insert(&"x".repeat(MAX_PROMPT)), None);
        let note = editor.insert("y").unwrap();
        assert_eq!(
            note,
            "this would make 1048577 bytes, 1048576 are the limit: nothing was inserted"
        );
        assert_eq!(editor.take().len(), MAX_PROMPT);
    }

    #[test]
    fn the_history_gives_back_what_was_being_typed() {
        let mut editor = Editor::default();
        for line in ["one", "two"] {
            editor.insert(line);
            editor.take();
        }
        editor.insert("new");
        editor.older();
        editor.older();
        editor.older();
        assert_eq!(editor.text(), "one");
        editor.newer();
        assert_eq!(editor.text(), "two");
        editor.newer();
        editor.newer();
        assert_eq!(editor.text(), "new");
    }

    #[test]
    fn words_and_lines_are_cut() {
        let mut editor = Editor::default();
        editor.insert("one two \nthree four");
        editor.backspace_word();
        assert_eq!(editor.text(), "one two \nthree ");
        editor.cut_head();
        assert_eq!(editor.text(), "one two \n");
        editor.backspace_word();
        assert_eq!(editor.text(), "one ");
        assert!(editor.clear() && !editor.clear());
    }
}
