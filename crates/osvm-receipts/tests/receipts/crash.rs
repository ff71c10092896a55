//! A writer that is killed at any moment loses at most the line that it was writing.

use crate::support::{check, record};
use osvm_receipts::{PublicKey, Receipts, verify};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DIR: &str = "OSVM_TEST_RECEIPTS";

/// Files so short that writers are killed while they begin new ones, too.
const FILE_LEN: u64 = 256 * 1024;

/// The program that is killed: this very test, started with a directory to write to. It says
/// which receipts it knows to be written.
#[test]
fn append_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let receipts = Receipts::new(Path::new(&dir)).with_file_len(FILE_LEN);
    let mut out = std::io::stdout();
    for number in 0_usize.. {
        // Long lines take the kernel several steps.
        let seq = receipts.append(&record("t", if number % 4 == 0 { 300 } else { 0 })).unwrap();
        out.write_all(&seq.to_le_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn two_hundred_kills_lose_no_receipt_that_was_written() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("receipts");
    let mut acknowledged = 0;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..200 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::append_until_killed", "--nocapture", "--quiet"])
            .env(DIR, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random >> 32 & 0x7FFF));
        child.kill().unwrap();
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        child.wait().unwrap();
        // Whatever the test's own harness prints comes first.
        let numbers = said.rchunks_exact(8).next().map(|last| last.try_into().unwrap());
        let last = numbers.map(u64::from_le_bytes).filter(|seq| *seq < 1 << 32).unwrap_or(0);
        acknowledged = acknowledged.max(last);
        if round % 40 == 39 {
            let newest = check(&dir).newest.map_or(0, |newest| newest.seq);
            assert!(acknowledged <= newest, "{acknowledged} was acknowledged, {newest} is kept");
        }
    }
    // The next writer makes good what the last one left.
    let receipts = Receipts::new(&dir).with_file_len(FILE_LEN);
    let last = receipts.append(&record("last", 0)).unwrap();
    let verdict = verify(&dir, &PublicKey::open(&dir).unwrap(), None).unwrap();
    assert_eq!(verdict.findings, []);
    assert_eq!((verdict.newest.unwrap().seq, verdict.lines), (last, last));
    assert!(acknowledged < last && acknowledged > 200, "{acknowledged} of {last}");
    assert_eq!(verdict.torn_bytes, 0);
    for (place, recovered) in verdict.recoveries {
        assert!(recovered.torn_bytes > 0, "{place:?}: {recovered:?}");
        assert!(!recovered.lines_lost && !recovered.head_lost && recovered.foreign_lines == 0);
    }
}

#[test]
fn a_torn_line_is_removed_and_a_line_says_so() {
    let (_home, dir) = crate::support::receipts(3, u64::MAX);
    let path = dir.join("00000001.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(br#"{"seq":4,"kind":"ca"#).unwrap();
    let verdict = check(&dir);
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert_eq!(verdict.torn_bytes, 19);
    assert_eq!(Receipts::new(&dir).append(&record("t", 0)).unwrap(), 5);
    let verdict = check(&dir);
    assert_eq!((verdict.findings.len(), verdict.torn_bytes, verdict.lines), (0, 0, 5));
    let [(place, recovered)] = verdict.recoveries.as_slice() else { panic!("{verdict:?}") };
    assert_eq!((place.line, recovered.seq, recovered.torn_bytes), (4, 4, 19));
}

#[test]
fn a_head_that_is_one_line_late_is_made_good_in_silence() {
    let (_home, dir) = crate::support::receipts(3, u64::MAX);
    let head = std::fs::read(dir.join("head")).unwrap();
    Receipts::new(&dir).append(&record("t", 0)).unwrap();
    std::fs::write(dir.join("head"), head).unwrap();
    assert!(check(&dir).is_clean());
    assert_eq!(Receipts::new(&dir).append(&record("t", 0)).unwrap(), 5);
    let verdict = check(&dir);
    assert!(verdict.is_clean() && verdict.recoveries.is_empty(), "{verdict:?}");
}

#[test]
fn whoever_dies_before_the_first_head_leaves_no_alarm() {
    let (_home, dir) = crate::support::receipts(1, u64::MAX);
    std::fs::write(dir.join("head"), "").unwrap();
    assert!(check(&dir).is_clean());
    assert_eq!(Receipts::new(&dir).append(&record("t", 0)).unwrap(), 2);
    let verdict = check(&dir);
    assert!(verdict.is_clean() && verdict.recoveries.is_empty(), "{verdict:?}");
}
