//! The file tree that the test host boots from: a cpio archive in the `newc` format.
//!
//! Test programs know files of this checkout by absolute path, so those files have the same paths
//! in the archive ([`Initramfs::keep`]).

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o755;

/// Files by path, without the leading slash. Sorted, so a folder comes before what is in it.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    File(Vec<u8>),
}

impl Initramfs {
    /// Adds a folder and those above it.
    pub(super) fn directory(&mut self, path: &Path) {
        for above in path.ancestors() {
            let name = above.to_string_lossy().trim_start_matches('/').to_owned();
            if !name.is_empty() {
                self.entries.entry(name).or_insert(Entry::Directory);
            }
        }
    }

    /// Adds a file with this text.
    pub(super) fn text(&mut self, path: &str, text: &str) {
        self.add(path, text.as_bytes().to_vec());
    }

    /// Adds a copy of a file of this machine.
    pub(super) fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        self.add(path, bytes);
        Ok(())
    }

    /// Adds a copy of a file or folder of this machine under the path it has here.
    pub(super) fn keep(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return self.copy(path, &path.to_string_lossy());
        }
        self.directory(path);
        let read = || format!("cannot read `{}`", path.display());
        for entry in path.read_dir().with_context(read)? {
            self.keep(&entry.with_context(read)?.path())?;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(parent);
        }
        self.entries.insert(path.trim_start_matches('/').to_owned(), Entry::File(bytes));
    }

    /// Writes the archive.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let wrote = || format!("cannot write `{}`", to.display());
        let mut archive = BufWriter::new(File::create(to).with_context(wrote)?);
        for (inode, (name, entry)) in (1..).zip(&self.entries) {
            let builder = Builder::new(name).ino(inode).nlink(1);
            let (builder, bytes) = match entry {
                Entry::Directory => {
                    let builder = builder.mode(DIRECTORY_MODE);
                    (builder.set_mode_file_type(ModeFileType::Directory), [].as_slice())
                }
                Entry::File(bytes) => {
                    let builder = builder.mode(FILE_MODE);
                    (builder.set_mode_file_type(ModeFileType::Regular), bytes.as_slice())
                }
            };
            let length = u32::try_from(bytes.len()).context("a file is over 4 GiB")?;
            let mut file = builder.write(&mut archive, length);
            file.write_all(bytes).with_context(wrote)?;
            file.finish().with_context(wrote)?;
        }
        trailer(&mut archive).with_context(wrote)?;
        archive.flush().with_context(wrote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut files = Initramfs::default();
        files.text("/a/b/c", "text");
        files.text("/init", "");
        let names: Vec<_> = files.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "init"]);
    }
}
