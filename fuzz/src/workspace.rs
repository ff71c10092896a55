//! What a guest says it has changed in folders of the host: nothing outside of them is touched, whatever
//! it says, nor one that it may only read, nor what git would run; and there is an answer.
//!
//! The input is cut into payloads: a byte that says how long one is, then its bytes behind the mark of files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_microvm::workspace::exercise;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const MARK: u8 = 2;

/// Folders with something in them, and one beside them that nobody was given.
fn folders() -> PathBuf {
    // In memory, where that can be had: each input makes them anew.
    let memory = Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir());
    let dir = memory.unwrap_or_else(std::env::temp_dir);
    let dir = dir.join(format!("osvm-fuzz-workspace-{}", std::process::id()));
    let _was_there = fs::remove_dir_all(&dir);
    for name in ["diff", "rw", "ro", "outside"] {
        fs::create_dir_all(dir.join(name).join("f")).unwrap();
        fs::write(dir.join(name).join("a"), "mine").unwrap();
        symlink("../outside", dir.join(name).join("l")).unwrap();
    }
    fs::create_dir_all(dir.join("rw/.git/hooks")).unwrap();
    dir
}

/// Everything below, with its text.
fn all(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        all.push((entry.path(), kind.is_file().then(|| fs::read(entry.path()).unwrap())));
        if kind.is_dir() {
            all.extend(self::all(&entry.path()));
        }
    }
    all.sort();
    all
}

fuzz_target!(|bytes: &[u8]| {
    let mut payloads = Vec::new();
    let mut rest = bytes;
    while let Some((len, more)) = rest.split_first() {
        let (payload, more) = more.split_at(usize::from(*len).min(more.len()));
        payloads.push([&[MARK], payload].concat());
        rest = more;
    }
    let dir = folders();
    let untouched = || ["diff", "ro", "outside", "rw/.git/hooks"].map(|name| all(&dir.join(name)));
    let before = untouched();
    let answer = exercise(&dir, payloads.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(untouched(), before);
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["id"], 1);
    let news = &answer["result"]["_meta"]["osvm/workspace"];
    assert!(news.is_object() != answer["error"]["message"].is_string(), "{answer}");
    for (path, _) in all(&dir.join("rw")) {
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        assert!(!kind.is_symlink() || path.ends_with("l"), "{}", path.display());
    }
});
