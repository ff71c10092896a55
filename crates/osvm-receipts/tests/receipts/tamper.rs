//! Whatever is done to receipts by somebody without their key is found, and its place named.

use crate::support::{check, receipts, record};
use osvm_receipts::{Anchor, Finding, Flaw, PublicKey, Receipts, verify};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

const COUNT: usize = 24;

/// Receipts in three files, made once: each test changes a copy.
fn original() -> &'static Path {
    static ORIGINAL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    &ORIGINAL.get_or_init(|| receipts(COUNT, 7000)).1
}

fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(original()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> =
        entries.filter(|path| path.extension() == Some("jsonl".as_ref())).collect();
    names.sort();
    names
}

/// All lines, with their file and number.
fn all_lines(dir: &Path) -> Vec<(PathBuf, u64, String)> {
    let of_file = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.into_iter().zip(1..).map(move |(line, number)| (path.clone(), number, line))
    };
    names(dir).into_iter().flat_map(of_file).collect()
}

fn rewrite(dir: &Path, lines: &[(PathBuf, u64, String)]) {
    for path in names(dir) {
        let of_file = lines.iter().filter(|(file, ..)| *file == path);
        let text: String = of_file.map(|(.., line)| format!("{line}\n")).collect();
        std::fs::write(path, text).unwrap();
    }
}

fn first(dir: &Path) -> Finding {
    check(dir).findings.into_iter().next().expect("nothing was found")
}

#[test]
fn untouched_receipts_are_clean() {
    let verdict = check(original());
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert_eq!((verdict.lines, names(original()).len()), (COUNT as u64, 3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_line_is_named(at in 0..COUNT, byte in any::<prop::sample::Index>(), to in 0x20..0x7f_u8) {
        let copy = copy();
        let mut lines = all_lines(copy.path());
        let (file, line, text) = &mut lines[at];
        let mut bytes = text.clone().into_bytes();
        let byte = byte.index(bytes.len());
        prop_assume!(bytes[byte] != to);
        bytes[byte] = to;
        *text = String::from_utf8(bytes).unwrap();
        let place = (file.clone(), *line);
        rewrite(copy.path(), &lines);
        let findings = check(copy.path()).findings;
        prop_assert_eq!(findings.len(), 1, "{:?}", findings);
        prop_assert!(matches!(findings[0].flaw, Flaw::NotGenuine | Flaw::NoReceipt));
        prop_assert_eq!((findings[0].place.file.clone(), findings[0].place.line), place);
    }

    #[test]
    fn removed_lines_are_named(from in 0..COUNT, count in 1..COUNT) {
        let copy = copy();
        let mut lines = all_lines(copy.path());
        let to = (from + count).min(COUNT);
        lines.drain(from..to);
        rewrite(copy.path(), &lines);
        let flaw = if to == COUNT {
            Flaw::NewestMissing { last: from as u64, head: COUNT as u64 }
        } else {
            Flaw::Missing { from: from as u64 + 1, to: to as u64 }
        };
        prop_assert_eq!(first(copy.path()).flaw, flaw);
    }

    #[test]
    fn lines_in_another_order_are_named(one in 0..COUNT, other in 0..COUNT) {
        prop_assume!(one < other);
        let copy = copy();
        let mut lines = all_lines(copy.path());
        let (left, right) = lines.split_at_mut(other);
        std::mem::swap(&mut left[one].2, &mut right[0].2);
        let place = (lines[one].0.clone(), lines[one].1);
        rewrite(copy.path(), &lines);
        let finding = first(copy.path());
        prop_assert_eq!((finding.place.file, finding.place.line), place);
    }

    #[test]
    fn a_line_that_is_there_twice_is_named(which in 0..COUNT, at in 0..COUNT) {
        let copy = copy();
        let mut lines = all_lines(copy.path());
        let text = lines[which].2.clone();
        let file = lines[at].0.clone();
        lines.insert(at, (file, 0, text));
        rewrite(copy.path(), &lines);
        prop_assert!(!check(copy.path()).is_clean());
    }

    #[test]
    fn any_bytes_anywhere_are_found_and_harm_nobody(
        file in 0..3_usize,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let copy = copy();
        let path = names(copy.path())[file].clone();
        let mut text = std::fs::read(&path).unwrap();
        let at = at.index(text.len());
        text.splice(at..at, bytes);
        std::fs::write(&path, text).unwrap();
        prop_assert!(!check(copy.path()).is_clean());
    }
}

#[test]
fn a_forged_line_is_named() {
    let copy = copy();
    let (other_home, other) = receipts(COUNT + 1, u64::MAX);
    let forged = all_lines(&other).pop().unwrap().2;
    drop(other_home);
    let path = names(copy.path()).pop().unwrap();
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(&format!("{forged}\n"));
    std::fs::write(&path, text).unwrap();
    assert_eq!(first(copy.path()).flaw, Flaw::NotGenuine);
    // The next writer goes on behind it, leaves it where it is and says so.
    Receipts::new(copy.path()).append(&record("t", 0)).unwrap();
    let verdict = check(copy.path());
    assert_eq!(verdict.findings.len(), 1, "{:?}", verdict.findings);
    assert_eq!(verdict.recoveries[0].1.foreign_lines, 1);
}

#[test]
fn a_missing_file_is_named() {
    for (at, path) in names(original()).into_iter().enumerate() {
        let copy = copy();
        std::fs::remove_file(copy.path().join(path.file_name().unwrap())).unwrap();
        let finding = first(copy.path());
        match at {
            2 => assert!(matches!(finding.flaw, Flaw::NewestMissing { .. }), "{finding:?}"),
            _ => {
                assert_eq!(finding.flaw, Flaw::NoFile);
                assert_eq!(finding.place.file.file_name(), path.file_name());
            }
        }
    }
}

#[test]
fn newest_lines_that_were_removed_are_missed_even_after_further_calls() {
    let copy = copy();
    let mut lines = all_lines(copy.path());
    lines.truncate(COUNT - 2);
    rewrite(copy.path(), &lines);
    Receipts::new(copy.path()).append(&record("t", 0)).unwrap();
    let verdict = check(copy.path());
    let (from, to) = (COUNT as u64 - 1, COUNT as u64);
    assert_eq!(verdict.findings[0].flaw, Flaw::Missing { from, to });
    assert!(verdict.recoveries[0].1.lines_lost);
}

#[test]
fn a_head_that_is_gone_or_forged_is_found_also_after_further_calls() {
    for forged in [None, Some(b"{\"seq\":1}")] {
        let copy = copy();
        let head = copy.path().join("head");
        match forged {
            None => std::fs::remove_file(&head).unwrap(),
            Some(bytes) => std::fs::write(&head, bytes).unwrap(),
        }
        assert!(matches!(first(copy.path()).flaw, Flaw::NoHead | Flaw::HeadNotGenuine));
        Receipts::new(copy.path()).append(&record("t", 0)).unwrap();
        let verdict = check(copy.path());
        assert!(verdict.is_clean(), "{:?}", verdict.findings);
        assert!(verdict.recoveries[0].1.head_lost);
    }
}

#[test]
fn an_anchor_kept_elsewhere_shows_that_all_was_replaced() {
    let key = PublicKey::open(original()).unwrap();
    let anchor = verify(original(), &key, None).unwrap().newest.unwrap();
    assert!(verify(original(), &key, Some(anchor)).unwrap().is_clean());
    // An earlier state as a whole, with the head that it had.
    let (_home, earlier) = receipts(3, u64::MAX);
    let own = PublicKey::open(&earlier).unwrap();
    let flaw = &verify(&earlier, &own, Some(anchor)).unwrap().findings[0].flaw;
    assert_eq!(*flaw, Flaw::NotTheAnchor { seq: COUNT as u64 });
    let other = Anchor { seq: 2, ..anchor };
    let flaw = &verify(original(), &key, Some(other)).unwrap().findings[0].flaw;
    assert_eq!(*flaw, Flaw::NotTheAnchor { seq: 2 });
    // Another history under another key.
    assert!(!verify(&earlier, &key, None).unwrap().is_clean());
}
