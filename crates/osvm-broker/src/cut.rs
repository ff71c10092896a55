//! Cuts secrets out of what comes back from a server.
//!
//! A server that is sent a secret knows it and could send it back in a form nobody thought of; it is
//! trusted with it. This is for servers that merely repeat what they were sent: the value itself,
//! its Base64 at any position of a longer text, its hexadecimal, percent and JSON forms, also where
//! one is spread over several pieces of a body.

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::fmt;
use std::sync::Arc;
use zeroize::{Zeroize as _, Zeroizing};

/// Shortest encoded form that is looked for, in bytes: less is found in any text.
const MIN_FORM: usize = 6;

/// Finds the secrets of one call.
pub(crate) struct Cutter {
    finder: AhoCorasick,
    /// What each pattern is replaced by.
    labels: Vec<Arc<str>>,
    longest: usize,
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cutter").finish_non_exhaustive()
    }
}

impl Cutter {
    /// A cutter for these names and values; none if there are none.
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut forms: Vec<(Zeroizing<Vec<u8>>, Arc<str>)> = Vec::new();
        for (name, value) in secrets {
            let label: Arc<str> = format!("[secret {name} removed]").into();
            for form in forms_of(value) {
                if !forms.iter().any(|(other, _)| *other == form) {
                    forms.push((form, Arc::clone(&label)));
                }
            }
        }
        let longest = forms.iter().map(|(form, _)| form.len()).max()?;
        let finder = AhoCorasick::new(forms.iter().map(|(form, _)| form.as_slice())).ok()?;
        Some(Self { finder, labels: forms.into_iter().map(|(_, label)| label).collect(), longest })
    }

    /// A whole text without the secrets.
    pub(crate) fn cut(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut cut = Cut::new(Arc::clone(self));
        cut.push(text, &mut out);
        cut.finish(&mut out);
        out
    }
}

/// One text that arrives in pieces.
pub(crate) struct Cut {
    cutter: Arc<Cutter>,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut").finish_non_exhaustive()
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

impl Cut {
    pub(crate) fn new(cutter: Arc<Cutter>) -> Self {
        Self { cutter, held: Vec::new() }
    }

    /// Takes a piece, and adds to `out` what is known to hold no secret.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(piece);
        // A secret that begins before this place is here as a whole.
        let sure = (self.held.len() + 1).saturating_sub(self.cutter.longest);
        self.emit(sure, out);
    }

    /// The rest: nothing follows.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.emit(self.held.len(), out);
    }

    /// Adds to `out` what stands before `sure`, and drops it, together with a secret that begins
    /// there and ends behind.
    fn emit(&mut self, sure: usize, out: &mut Vec<u8>) {
        let mut done = 0;
        // Matches come by their ends. Those that overlap are one.
        let mut found: Vec<(usize, usize, usize)> = self
            .cutter
            .finder
            .find_overlapping_iter(&self.held)
            .map(|found| (found.start(), found.end(), found.pattern().as_usize()))
            .filter(|(start, ..)| *start < sure)
            .collect();
        found.sort_unstable_by_key(|(start, end, _)| (*start, std::cmp::Reverse(*end)));
        for (start, end, pattern) in found {
            if done <= start {
                out.extend_from_slice(self.held.get(done..start).unwrap_or_default());
                let label = self.cutter.labels.get(pattern);
                out.extend_from_slice(label.map_or(b"", |label| label.as_bytes()));
            }
            done = done.max(end);
        }
        out.extend_from_slice(self.held.get(done..sure).unwrap_or_default());
        self.held.drain(..done.max(sure).min(self.held.len()));
    }
}

/// The value, and what it becomes in the encodings that servers put it into.
fn forms_of(value: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let bytes = value.as_bytes();
    let mut forms = vec![Zeroizing::new(bytes.to_vec())];
    let mut add = |form: Vec<u8>| {
        let form = Zeroizing::new(form);
        if MIN_FORM <= form.len() {
            forms.push(form);
        }
    };
    let quoted = serde_json::to_string(value).unwrap_or_default();
    add(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().into());
    add(quoted
        .get(1..quoted.len().saturating_sub(1))
        .unwrap_or_default()
        .replace('/', "\\/")
        .into());
    let hex = |byte: &u8| format!("{byte:02x}");
    let lower: String = bytes.iter().map(hex).collect();
    add(lower.to_ascii_uppercase().into());
    add(lower.into());
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let percent = |upper: bool| -> String {
        let code = |byte: &u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
        bytes.iter().map(|b| if plain(b) { char::from(*b).into() } else { code(b) }).collect()
    };
    add(percent(true).into());
    add(percent(false).into());
    // Three positions in a group of three bytes; what the neighbours also decide is left out.
    for (before, skip) in [(0_usize, 0_usize), (1, 2), (2, 3)] {
        let mut text = Zeroizing::new(vec![0; before]);
        text.extend_from_slice(bytes);
        let whole = text.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(&*text));
            add(encoded.get(skip..whole).unwrap_or_default().into());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const VALUE: &str = "k3y/with+\"quotes\"=";
    const LABEL: &str = "[secret KEY removed]";

    fn cutter() -> Arc<Cutter> {
        Arc::new(Cutter::new([("KEY", VALUE), ("OTHER", "0therval")].into_iter()).unwrap())
    }

    fn in_pieces(text: &[u8], size: usize) -> Vec<u8> {
        let (mut out, mut cut) = (Vec::new(), Cut::new(cutter()));
        text.chunks(size).for_each(|piece| cut.push(piece, &mut out));
        cut.finish(&mut out);
        out
    }

    #[test]
    fn the_value_is_cut_out_in_every_form_and_over_every_border() {
        let json = serde_json::to_string(VALUE).unwrap();
        let hex: String = VALUE.bytes().map(|byte| format!("{byte:02X}")).collect();
        let forms =
            [VALUE, &json, &hex, "k3y%2Fwith%2B%22quotes%22%3D", "k3y%2fwith%2b%22quotes%22%3d"];
        for form in forms {
            let text = format!("before {form} after {form}");
            for size in 1..text.len() {
                let out = String::from_utf8(in_pieces(text.as_bytes(), size)).unwrap();
                assert_eq!(out.matches(LABEL).count(), 2, "{form} by {size}: {out}");
                assert!(out.starts_with("before ") && out.contains(" after "), "{out}");
            }
        }
    }

    #[test]
    fn base64_of_a_text_around_the_value_does_not_hold_it() {
        for before in ["", "a", "ab", "user:", "Bearer "] {
            for after in ["", "b", "bc", "bcd"] {
                let text = STANDARD.encode(format!("{before}{VALUE}{after}"));
                let out = String::from_utf8(in_pieces(text.as_bytes(), 5)).unwrap();
                assert!(out.contains(LABEL), "{before}{VALUE}{after}: {out}");
                assert!(out.len() < LABEL.len() + 20, "{out}");
            }
        }
    }

    #[test]
    fn two_secrets_are_told_apart() {
        let out = in_pieces(format!("0therval{VALUE}0therva").as_bytes(), 3);
        let expected = "[secret OTHER removed][secret KEY removed]0therva";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn text_without_a_secret_stays_as_it_is(text in "[a-z0]{0,200}", size in 1_usize..50) {
            prop_assume!(!text.contains("0therval"));
            prop_assert_eq!(in_pieces(text.as_bytes(), size), text.as_bytes());
        }

        #[test]
        fn nothing_is_left_of_a_secret(
            before in "[k3y0a ]{0,40}", after in "[k3y0a ]{0,40}", size in 1_usize..60,
        ) {
            let out = in_pieces(format!("{before}{VALUE}{after}").as_bytes(), size);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{before}{LABEL}{after}"));
        }
    }
}
