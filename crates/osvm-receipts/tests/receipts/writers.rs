//! Several writers at once, files that end, directories that go away.

use crate::support::{check, receipts, record};
use osvm_receipts::{Kind, ReceiptError, Receipts, files, lines};
use osvm_runtime::Ledger as _;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn writers_at_once_make_one_chain() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("receipts");
    // Each has its own descriptors and its own idea of the newest line, as a process has.
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                let receipts = Receipts::new(dir).with_file_len(8 * 1024);
                for number in 0..40 {
                    receipts.append(&record(&format!("{writer}-{number}"), 0)).unwrap();
                }
            });
        }
    });
    let verdict = check(&dir);
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert_eq!((verdict.lines, verdict.recoveries.len()), (320, 0));
    let numbers = files(&dir).unwrap();
    assert!(numbers.len() > 10);
    assert!(numbers.iter().copied().eq((1..).take(numbers.len())), "{numbers:?}");
}

#[test]
fn a_line_tells_what_the_record_said() {
    let (_home, dir) = receipts(0, u64::MAX);
    Receipts::new(&dir).append(&record("echo", 2)).unwrap();
    let lines = lines(&dir, 1).unwrap();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let Some(Kind::Call(receipt)) = &line.kind else { panic!("{line:?}") };
    assert_eq!(
        (receipt.seq, receipt.server.as_str(), receipt.tool.as_str()),
        (1, "system", "echo")
    );
    assert_eq!((receipt.client.as_str(), receipt.decision.as_str()), ("test/1", "allow"));
    assert_eq!(receipt.reaches, record("", 2).reaches);
    assert!(receipt.time.ends_with('Z') && receipt.arguments.starts_with("sha256:"));
}

#[test]
fn a_record_of_any_size_is_a_line_of_bounded_size() {
    let (_home, dir) = receipts(0, u64::MAX);
    let mut record = record(&"ä".repeat(1_000_000), 100_000);
    record.reason = Some("\u{1}".repeat(1_000_000));
    record.reaches_left_out = 7;
    Receipts::new(&dir).append(&record).unwrap();
    let lines = lines(&dir, 1).unwrap();
    let Some(Kind::Call(receipt)) = &lines[0].kind else { panic!("no receipt") };
    assert_eq!(receipt.reaches.len() as u64 + receipt.reaches_left_out, 100_007);
    assert!(check(&dir).is_clean());
}

#[test]
fn files_are_the_users_alone() {
    let (_home, dir) = receipts(1, u64::MAX);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["00000001.jsonl", "head", "key", "lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_directory_that_was_moved_away_is_not_written_to() {
    let (home, dir) = receipts(0, u64::MAX);
    let receipts = Receipts::new(&dir);
    receipts.append(&record("before", 0)).unwrap();
    std::fs::rename(&dir, home.path().join("old")).unwrap();
    assert_eq!(receipts.append(&record("after", 0)).unwrap(), 1);
    assert_eq!(check(&dir).lines, 1);
    assert_eq!(check(&home.path().join("old")).lines, 1);
}

#[test]
fn without_its_key_a_chain_is_not_continued() {
    let (_home, dir) = receipts(2, u64::MAX);
    std::fs::remove_file(dir.join("key")).unwrap();
    let receipts = Receipts::new(&dir);
    let error = receipts.append(&record("t", 0)).unwrap_err();
    assert!(matches!(error, ReceiptError::KeyMissing { .. }), "{error}");
    assert!(receipts.ready().unwrap_err().hint().is_some());
    std::fs::remove_file(dir.join("head")).unwrap();
    assert!(receipts.ready().is_err(), "files without a head are receipts too");
}

#[test]
fn a_directory_that_others_may_write_to_keeps_no_receipts() {
    let (_home, dir) = receipts(1, u64::MAX);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Receipts::new(&dir).ready().is_err());
}
