//! Records to write, and a directory to write them to.

use osvm_receipts::{PublicKey, Receipts, Verdict, verify};
use osvm_runtime::{ClientName, Decision, Digest, Isolation, Reach, Record, RunMode};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A record with `reaches` requests in it.
pub(crate) fn record(tool: &str, reaches: usize) -> Record {
    let reach = Reach::Http {
        method: "POST".into(),
        host: "rpc.example.com".into(),
        port: 443,
        path: "/v1".into(),
        status: Some(200),
        sent_bytes: 100,
        received_bytes: 1000,
        refused: None,
    };
    Record {
        call: "01M80GHH8C6KV0ZENYVJ8WR8WW".parse().unwrap(),
        client: ClientName::new("test/1"),
        server: "system".into(),
        tool: tool.into(),
        arguments: Digest::of(b"{}"),
        result: Some(Digest::of(b"1")),
        decision: Decision::Allow,
        rule: None,
        origin: "built-in default".into(),
        isolation: Isolation::none(RunMode::Unikernel),
        isolation_failure: None,
        exit: "result".into(),
        reason: None,
        reaches: vec![reach; reaches],
        reaches_left_out: 0,
    }
}

/// A directory with `count` receipts, in files of about `file_len` bytes.
pub(crate) fn receipts(count: usize, file_len: u64) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("receipts");
    let receipts = Receipts::new(&dir).with_file_len(file_len);
    for number in 0..count {
        receipts.append(&record(&format!("tool-{number}"), 0)).unwrap();
    }
    (home, dir)
}

pub(crate) fn check(dir: &Path) -> Verdict {
    verify(dir, &PublicKey::open(dir).unwrap(), None).unwrap()
}
