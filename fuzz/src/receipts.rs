//! Receipts and their head: any bytes in their files are checked without a panic, and nothing that
//! osvm did not sign passes for a receipt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_receipts::{PublicKey, files, lines, verify};
use std::fs;

/// A key whose secret nobody has: that of the first test of RFC 8032, section 7.1.
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fuzz_target!(|bytes: &[u8]| {
    let dir = std::env::temp_dir().join(format!("osvm-fuzz-receipts-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (head, text) = bytes.split_at(bytes.len().min(512));
    fs::write(dir.join("head"), head).unwrap();
    fs::write(dir.join("00000001.jsonl"), text).unwrap();
    let verdict = verify(&dir, &PublicKey::parse(KEY).unwrap(), None).unwrap();
    assert_eq!(verdict.lines, 0);
    assert!(verdict.newest.is_none());
    for number in files(&dir).unwrap() {
        let _ = lines(&dir, number).unwrap();
    }
});
