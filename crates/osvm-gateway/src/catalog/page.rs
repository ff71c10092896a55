//! Lists in pages: all on one, unless it would be very long.
//!
//! A cursor names the last entry that was shown and where it stood. When the list has changed
//! meanwhile, the next page begins behind that entry; when the entry is gone, the cursor is no
//! good any more.

use super::{Catalog, Shown};
use crate::message::Defect;
use crate::words::Era;
use serde_json::value::RawValue;
use std::fmt::Write as _;

/// Bytes of definitions on one page, unless one alone is longer.
const MAX_PAGE: usize = 4 * 1024 * 1024;

/// Longest cursor that is read, in bytes: twice the longest key, and its place.
const MAX_CURSOR: usize = 16 * 1024;

/// Which list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    /// The list that a method asks for.
    pub(crate) fn of(method: &str) -> Option<Self> {
        Some(match method {
            "tools/list" => Self::Tools,
            "prompts/list" => Self::Prompts,
            "resources/list" => Self::Resources,
            "resources/templates/list" => Self::Templates,
            _ => return None,
        })
    }

    /// The member of the result that has the entries.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }
}

/// A piece of a list.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) entries: Vec<&'a RawValue>,
    /// What to ask for the next piece, if there is one.
    pub(crate) next: Option<String>,
}

impl Catalog {
    /// The page behind `cursor`, the first one without.
    pub(crate) fn page(
        &self,
        list: List,
        era: Era,
        cursor: Option<&str>,
    ) -> Result<Page<'_>, Defect> {
        let entries: Vec<(&str, &Shown)> = match list {
            List::Tools => self.tools.values().map(|t| (t.name.as_str(), &t.shown)).collect(),
            List::Prompts => self.prompts.values().map(|e| (e.key.as_str(), &e.shown)).collect(),
            List::Resources => self.resources.iter().map(|e| (e.key.as_str(), &e.shown)).collect(),
            List::Templates => self.templates.iter().map(|e| (e.key.as_str(), &e.shown)).collect(),
        };
        page(&entries, era, cursor, MAX_PAGE)
    }
}

fn page<'a>(
    entries: &[(&str, &'a Shown)],
    era: Era,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page<'a>, Defect> {
    let start = match cursor {
        None => 0,
        Some(cursor) => behind(entries, cursor).ok_or_else(|| {
            Defect::params("`cursor` is none of ours, or the list has changed: begin anew")
        })?,
    };
    let mut page = Page { entries: Vec::new(), next: None };
    let mut bytes = 0;
    for (at, (_, shown)) in entries.iter().enumerate().skip(start) {
        let raw = shown.to(era);
        bytes += raw.get().len();
        if bytes > limit && !page.entries.is_empty() {
            page.next =
                at.checked_sub(1).and_then(|last| Some(written(last, entries.get(last)?.0)));
            break;
        }
        page.entries.push(raw);
    }
    Ok(page)
}

/// A cursor for the entries behind the one at `at`.
fn written(at: usize, key: &str) -> String {
    let mut cursor = format!("{at:x}.");
    for byte in key.bytes() {
        let _ = write!(cursor, "{byte:02x}");
    }
    cursor
}

/// Where the entries behind a cursor begin.
fn behind(entries: &[(&str, &Shown)], cursor: &str) -> Option<usize> {
    let (at, key) = cursor.split_once('.').filter(|_| cursor.len() <= MAX_CURSOR)?;
    let at = usize::from_str_radix(at, 16).ok()?;
    let key = read_hex(key)?;
    let is = |entry: &(&str, &Shown)| entry.0 == key;
    let at = if entries.get(at).is_some_and(is) { at } else { entries.iter().position(is)? };
    Some(at + 1)
}

fn read_hex(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    let bytes: Vec<u8> = bytes.collect::<Option<_>>().filter(|_| rest.is_empty())?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Shown {
        Shown { modern: RawValue::from_string(text.into()).unwrap(), legacy: None }
    }

    /// All pages of up to `limit` bytes, each as the texts on it.
    fn pages(entries: &[(&str, &Shown)], limit: usize) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let next = page(entries, Era::Stateless, cursor.as_deref(), limit).unwrap();
            pages.push(next.entries.iter().map(|raw| raw.get().to_owned()).collect());
            let Some(next) = next.next else { return pages };
            cursor = Some(next);
        }
    }

    #[test]
    fn a_list_that_is_too_long_for_one_page_is_on_several_and_whole() {
        let all = [shown("11"), shown("2222"), shown("333"), shown("4")];
        let keys = ["a", "ä", "a", ""];
        let entries: Vec<_> = keys.into_iter().zip(&all).collect();
        assert_eq!(pages(&entries, 100), [["11", "2222", "333", "4"]]);
        assert_eq!(pages(&entries, 6), [vec!["11", "2222"], vec!["333", "4"]]);
        assert_eq!(pages(&entries, 1), [["11"], ["2222"], ["333"], ["4"]]);
        assert_eq!(pages(&[], 1), [Vec::<String>::new()]);
    }

    #[test]
    fn a_cursor_outlives_changes_but_not_its_entry() {
        let all = [shown("1"), shown("2"), shown("3")];
        let before: Vec<_> = ["a", "b", "c"].into_iter().zip(&all).collect();
        let cursor = page(&before, Era::Stateless, None, 1).unwrap().next.unwrap();
        let after: Vec<_> = ["0", "a", "b"].into_iter().zip(&all).collect();
        let next = page(&after, Era::Stateless, Some(&cursor), 100).unwrap();
        assert_eq!(next.entries.len(), 1);
        let gone: Vec<_> = ["b", "c"].into_iter().zip(&all).collect();
        assert!(page(&gone, Era::Stateless, Some(&cursor), 100).is_err());
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let all = [shown("1"), shown("2")];
        let entries: Vec<_> = ["a", "b"].into_iter().zip(&all).collect();
        for cursor in ["", "x", "0", "0.", "0.6", "0.zz", "0.c3", "-1.61", "9.9"] {
            assert!(page(&entries, Era::Stateless, Some(cursor), 1).is_err(), "{cursor}");
        }
    }
}
