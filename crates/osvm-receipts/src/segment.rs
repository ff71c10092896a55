//! The files that lines are in: numbered from 1, each at most a little over 16 MiB long.

use crate::error::ReceiptError;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Length from which on a file gets no further lines, in bytes.
pub(crate) const MAX_LEN: u64 = 16 * 1024 * 1024;

/// Name of a file.
pub(crate) fn name(number: u32) -> String {
    format!("{number:08}.jsonl")
}

/// The numbers of all files in a directory, in order.
pub(crate) fn list(dir: &Path) -> Result<Vec<u32>, ReceiptError> {
    let io = |source| ReceiptError::Io { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let file = entry.map_err(io)?.file_name();
        let number = file.to_str().and_then(|file| file.strip_suffix(".jsonl")?.parse().ok());
        numbers.extend(number.filter(|number| file.to_str() == Some(name(*number).as_str())));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A file, for appending and reading.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl Segment {
    /// Opens a file; makes it if it is not there.
    pub(crate) fn open(dir: &Path, number: u32) -> Result<Self, ReceiptError> {
        let path = dir.join(name(number));
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
        let io = |error: rustix::io::Errno| ReceiptError::Io {
            path: path.clone(),
            source: error.into(),
        };
        Ok(Self { number, file: file.map_err(io)?.into(), path })
    }

    pub(crate) fn io(&self, source: io::Error) -> ReceiptError {
        ReceiptError::Io { path: self.path.clone(), source }
    }

    pub(crate) fn len(&self) -> Result<u64, ReceiptError> {
        Ok(self.file.metadata().map_err(|error| self.io(error))?.len())
    }
}
