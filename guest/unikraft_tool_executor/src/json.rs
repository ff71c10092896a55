//! Writes JSON where it is sent from.
//!
//! Without `std`, `serde_json` can only write into a buffer of its own, which would then be
//! copied into the frame. Answers are written member by member instead, straight into the frame.
//!
//! # Invariants
//!
//! - Whatever the calls, the text is one well-formed JSON value: an object or array is closed when
//!   its closure returns, and commas are this module's business.
//! - Names of members are literals of this crate and need no escape. Strings are escaped.

use alloc::string::String;
use osvm_protocol::frame::{Builder, HEADER_LEN};
use serde_json::value::RawValue;

/// Writes the members of one object.
pub(crate) struct Object<'a> {
    out: &'a mut Builder,
    first: bool,
}

/// Writes the elements of one array.
pub(crate) struct Array<'a> {
    out: &'a mut Builder,
    first: bool,
}

/// Writes one object, and returns what its closure does.
pub(crate) fn object<R>(out: &mut Builder, members: impl FnOnce(&mut Object<'_>) -> R) -> R {
    out.push(b"{");
    let outcome = members(&mut Object { out, first: true });
    out.push(b"}");
    outcome
}

/// The text of one object; `None` when it is too long for a frame.
pub(crate) fn text_of(members: impl FnOnce(&mut Object<'_>)) -> Option<String> {
    let mut out = Builder::with_capacity(256);
    object(&mut out, members);
    let bytes = out.finish().ok()?;
    String::from_utf8(bytes.get(HEADER_LEN..)?.to_vec()).ok()
}

impl Object<'_> {
    /// A string member.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        string(self.out, value);
    }

    /// A string, or `null` when there is none.
    pub(crate) fn optional_text(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        number(self.out, value);
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out.push(if value { b"true" } else { b"false" });
    }

    /// A whole number, or `null` when there is none.
    pub(crate) fn optional_number(&mut self, name: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    /// JSON as it is.
    pub(crate) fn raw(&mut self, name: &str, value: &RawValue) {
        self.name(name);
        self.out.push(value.get().as_bytes());
    }

    /// `null`.
    pub(crate) fn null(&mut self, name: &str) {
        self.name(name);
        self.out.push(b"null");
    }

    /// A nested object.
    pub(crate) fn object<R>(
        &mut self,
        name: &str,
        members: impl FnOnce(&mut Object<'_>) -> R,
    ) -> R {
        self.name(name);
        object(self.out, members)
    }

    /// A nested array.
    pub(crate) fn array<R>(&mut self, name: &str, elements: impl FnOnce(&mut Array<'_>) -> R) -> R {
        self.name(name);
        self.out.push(b"[");
        let outcome = elements(&mut Array { out: self.out, first: true });
        self.out.push(b"]");
        outcome
    }

    // Kept out of line, as `push`, `string` and `number`: answers are long lists of such calls, and
    // copies of them would double the image.
    #[inline(never)]
    fn name(&mut self, name: &str) {
        self.out.push(if self.first { b"\"" } else { b",\"" });
        self.first = false;
        self.out.push(name.as_bytes());
        self.out.push(b"\":");
    }
}

impl Array<'_> {
    /// A string.
    pub(crate) fn text(&mut self, value: &str) {
        self.next();
        string(self.out, value);
    }

    /// A whole number.
    pub(crate) fn number(&mut self, value: u64) {
        self.next();
        number(self.out, value);
    }

    /// A string, or `null` when there is none.
    pub(crate) fn optional_text(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.text(value),
            None => {
                self.next();
                self.out.push(b"null");
            }
        }
    }

    /// JSON as it is.
    pub(crate) fn raw(&mut self, value: &RawValue) {
        self.next();
        self.out.push(value.get().as_bytes());
    }

    /// An object.
    pub(crate) fn object<R>(&mut self, members: impl FnOnce(&mut Object<'_>) -> R) -> R {
        self.next();
        object(self.out, members)
    }

    /// A nested array.
    pub(crate) fn array(&mut self, elements: impl FnOnce(&mut Array<'_>)) {
        self.next();
        self.out.push(b"[");
        elements(&mut Array { out: self.out, first: true });
        self.out.push(b"]");
    }

    fn next(&mut self) {
        if !self.first {
            self.out.push(b",");
        }
        self.first = false;
    }
}

#[inline(never)]
fn number(out: &mut Builder, mut value: u64) {
    let mut digits = [0; 20];
    let mut used = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' | (value % 10).to_le_bytes()[0];
        value /= 10;
        used = at;
        if value == 0 {
            break;
        }
    }
    out.push(digits.get(used..).unwrap_or_default());
}

/// RFC 8259, section 7: quotation mark, reverse solidus and the control characters are escaped.
#[inline(never)]
fn string(out: &mut Builder, value: &str) {
    out.push(b"\"");
    let mut rest = value.as_bytes();
    loop {
        let (plain, tail) = rest.split_at_checked(plain_len(rest)).unwrap_or((rest, &[]));
        let Some((byte, tail)) = tail.split_first() else { break };
        out.push(plain);
        escape(out, *byte);
        rest = tail;
    }
    out.push(rest);
    out.push(b"\"");
}

/// How many bytes at the front need no escape.
///
/// Eight at a time: an interpreted guest pays for every instruction, and answers are long.
fn plain_len(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let escapes = escapes_in(u64::from_le_bytes(*word));
        if escapes != 0 {
            return index * 8 + (escapes.trailing_zeros() / 8) as usize;
        }
    }
    let in_tail = tail.iter().position(|byte| must_escape(*byte));
    bytes.len() - tail.len() + in_tail.unwrap_or(tail.len())
}

/// The lowest bit that is set says which byte of `word` is the first to be escaped; the bits above
/// it mean nothing. A byte below `n` is one whose top bit is clear and gets set by subtracting `n`:
/// "haszero" and "hasless" of Sean Eron Anderson's Bit Twiddling Hacks.
fn escapes_in(word: u64) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, n: u64| word.wrapping_sub(EACH * n) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (EACH << 7)
}

fn must_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn escape(out: &mut Builder, byte: u8) {
    match byte {
        b'"' => out.push(b"\\\""),
        b'\\' => out.push(b"\\\\"),
        b'\n' => out.push(b"\\n"),
        b'\r' => out.push(b"\\r"),
        b'\t' => out.push(b"\\t"),
        // The short forms, so that text which came as JSON never grows on its way back.
        0x08 => out.push(b"\\b"),
        0x0c => out.push(b"\\f"),
        _ => {
            out.push(if byte < 0x10 { b"\\u000" } else { b"\\u001" });
            out.push(&[hex_digit(byte & 0xf)]);
        }
    }
}

/// The digit for a value below 16.
fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) }
}

#[cfg(test)]
mod tests;
