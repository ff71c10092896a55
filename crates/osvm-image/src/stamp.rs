//! Whether files have changed, told without reading them.
//!
//! Replacing a file changes its inode, writing to it changes its times, and nobody but the kernel
//! sets the time of the last change. So equal stamps mean that whatever was read is still what
//! there is, as long as the host's clock is not turned back on purpose.

use crate::ImageError;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What the file system says about an image and the index of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp([FileStamp; 2]);

/// What the file system says about one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of([image, index]: [PathBuf; 2]) -> Result<Self, ImageError> {
        Ok(Self([FileStamp::of(&image)?, FileStamp::of(&index)?]))
    }
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self, ImageError> {
        let metadata = path.metadata().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ImageError::NotFound { path: path.into() },
            _ => ImageError::Io { path: path.into(), source },
        })?;
        Ok(Self::of_metadata(&metadata))
    }

    /// The stamp of a file that is open.
    pub(crate) fn of_metadata(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// One line to compare with later: equal lines are equal stamps.
    pub(crate) fn line(&self) -> String {
        let Self { device, inode, size, written, changed } = self;
        format!("{device} {inode} {size} {written:?} {changed:?}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_was_replaced_or_written_to_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let paths = || [dir.path().join("image"), dir.path().join("index")];
        paths().iter().for_each(|path| fs::write(path, "old").unwrap());
        let before = Stamp::of(paths()).unwrap();
        assert_eq!(Stamp::of(paths()).unwrap(), before);
        fs::write(dir.path().join("new"), "old").unwrap();
        fs::rename(dir.path().join("new"), &paths()[0]).unwrap();
        let replaced = Stamp::of(paths()).unwrap();
        assert_ne!(replaced, before);
        fs::write(&paths()[1], "longer").unwrap();
        assert_ne!(Stamp::of(paths()).unwrap(), replaced);
    }

    #[test]
    fn a_missing_image_is_named() {
        let missing = PathBuf::from("/nonexistent/x.img");
        let error = Stamp::of([missing.clone(), missing]).unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    }
}
