//! Results too large for a model's context: their beginning is shown, the rest is kept.

use std::collections::BTreeMap;

/// Bytes of kept results, together. The oldest go first.
const MOST_KEPT: usize = 64 * 1024 * 1024;

/// The tool of the agent's own by which a model reads on.
pub(crate) const READ_ON: &str = "osvm_read_result";

/// Kept results of one session.
#[derive(Debug, Default)]
pub(crate) struct Results {
    kept: BTreeMap<u64, String>,
    bytes: usize,
    last: u64,
}

impl Results {
    /// What the model is shown of a result: all of it, or its beginning and how to read on.
    pub(crate) fn show(&mut self, text: String, longest: usize) -> String {
        if text.len() <= longest {
            return text;
        }
        let beginning = piece(&text, 0, longest).to_owned();
        let (shown, all) = (beginning.len(), text.len());
        if MOST_KEPT < all {
            return format!(
                "{beginning}\n[cut: {shown} of {all} bytes are shown; the rest is too long to keep]"
            );
        }
        self.last += 1;
        self.bytes += all;
        self.kept.insert(self.last, text);
        while MOST_KEPT < self.bytes
            && let Some((_, oldest)) = self.kept.pop_first()
        {
            self.bytes -= oldest.len();
        }
        let number = self.last;
        format!(
            "{beginning}\n[cut: bytes 0 to {shown} of {all} are shown; call {READ_ON} with \
             {{\"result\":{number},\"offset\":{shown}}} for more]"
        )
    }

    /// A later piece of a result.
    pub(crate) fn read_on(
        &self,
        number: u64,
        offset: usize,
        longest: usize,
    ) -> Result<String, String> {
        let text = self.kept.get(&number).ok_or_else(|| format!("there is no result {number}"))?;
        if text.len() <= offset {
            return Err(format!("result {number} has {} bytes", text.len()));
        }
        let piece = piece(text, offset, longest);
        let end = offset + piece.len();
        let all = text.len();
        Ok(if end < all {
            format!("{piece}\n[bytes {offset} to {end} of {all}]")
        } else {
            format!("{piece}\n[bytes {offset} to {end} of {all}: the end]")
        })
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }
}

/// At most `longest` bytes from `offset` on, moved to where letters begin.
fn piece(text: &str, offset: usize, longest: usize) -> &str {
    let from = text.floor_char_boundary(offset);
    let to = text.floor_char_boundary(from.saturating_add(longest));
    text.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_result_is_shown_whole() {
        assert_eq!(Results::default().show("abc".into(), 3), "abc");
    }

    #[test]
    fn a_long_result_can_be_paged_through_to_its_end() {
        let mut results = Results::default();
        let text = "äbcdefghij".repeat(10);
        let shown = results.show(text.clone(), 40);
        assert!(shown.contains("[cut: bytes 0 to 40 of 110"), "{shown}");
        let mut all = text.get(..40).unwrap().to_owned();
        while all.len() < text.len() {
            let more = results.read_on(1, all.len(), 40).unwrap();
            all.push_str(more.split_once("\n[").unwrap().0);
        }
        assert_eq!(all, text);
        assert!(results.read_on(1, 110, 40).is_err());
        assert!(results.read_on(2, 0, 40).is_err());
    }

    #[test]
    fn old_results_make_place_for_new_ones() {
        let mut results = Results::default();
        for _ in 0..5 {
            results.show("x".repeat(20 * 1024 * 1024), 10);
        }
        assert!(results.read_on(1, 0, 10).is_err());
        assert!(results.read_on(5, 0, 10).is_ok());
        assert!(results.bytes <= MOST_KEPT);
    }
}
