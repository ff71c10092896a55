//! Files of one user: opened without following links, checked, replaced as a whole.

use crate::error::SecretsError;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use zeroize::Zeroizing;

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> SecretsError {
    move |source| SecretsError::Io { what, path: path.to_owned(), source }
}

/// Makes the store's directory, for its user alone.
pub(crate) fn make_dir(dir: &Path) -> Result<(), SecretsError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(io_error("make", dir))
}

/// Reads a file that belongs to this user and that nobody else may read or write.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Zeroizing<Vec<u8>>>, SecretsError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened.map_err(io::Error::from).map_err(io_error("open", path))?,
    };
    let stat = fstat(&file).map_err(io::Error::from).map_err(io_error("look at", path))?;
    let no = |why| Err(SecretsError::Unsafe { path: path.to_owned(), why });
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return no("is not a regular file");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return no("belongs to another user");
    }
    if stat.st_mode & 0o077 != 0 {
        return no("can be read or changed by others");
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if max < size {
        return no("is longer than any that osvm writes");
    }
    // With room for all of it at once, no copy is left behind by a buffer that grows.
    let room = usize::try_from(size.min(max)).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let read = File::from(file).take(max).read_to_end(&mut bytes);
    read.map_err(io_error("read", path))?;
    Ok(Some(bytes))
}

/// Puts a file in the place of the old one; it is there as a whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), SecretsError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    make_dir(dir)?;
    let write = || -> io::Result<()> {
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(io_error("write", path))
}

/// Holds other writers off until it is dropped.
pub(crate) fn lock(path: &Path) -> Result<File, SecretsError> {
    make_dir(path.parent().unwrap_or(Path::new("/")))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(io::Error::from).map_err(io_error("open", path))?;
    let file = File::from(file);
    file.lock().map_err(io_error("lock", path))?;
    Ok(file)
}
