//! The directory of images: load, install, list.

use crate::image::Tools;
use crate::index::{self, Index, replace};
use crate::schema::Schema;
use crate::stamp::Stamp;
use crate::{
    Digest, Entry, Executor, FileEntry, Image, ImageError, MAX_IMAGE, check_name, elf, sealed,
};
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::note::ImageNote;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A directory of guest images.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// One image of the store, as `osvm doctor` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name of the image.
    pub name: String,
    /// The bootable image's file.
    pub path: PathBuf,
    /// What the index says; `None` for a file that was never installed.
    pub entry: Option<Entry>,
    /// The bootable image against the index.
    pub image: FileState,
    /// The executor program against the index; `None` when there is none, as expected.
    pub executor: Option<FileState>,
}

/// A file of the store against the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// It is what was installed.
    Ok,
    /// It is something else.
    Altered {
        /// Its digest.
        found: Digest,
    },
    /// It was installed and is gone.
    Missing,
    /// It was never installed.
    NotIndexed,
    /// It can't be read; the text says why.
    Unreadable(String),
}

impl Store {
    /// The store in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the bootable image `name` lies.
    pub fn image_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.img"))
    }

    /// Where the executor program of image `name` lies.
    pub fn executor_path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reads an image and checks that it is the one that was installed.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being booted: see [`ImageError`].
    pub fn load(&self, name: &str) -> Result<Image, ImageError> {
        check_name(name)?;
        let path = self.image_path(name);
        let (index, file) = self.locked(FlockOperation::LockShared, || open(&path))?;
        let bytes = read(file, &path)?;
        let entry = entry(&index, name, &path)?;
        let digest = matching(&bytes, entry.digest, &path)?;
        let (note, tools) = describe(&bytes, &path)?;
        let file = sealed::data(name, &bytes);
        let file = file.map_err(|source| ImageError::Io { path: path.clone(), source })?;
        Ok(Image {
            name: name.into(),
            digest,
            size: bytes.len() as u64,
            note,
            tools,
            file: Arc::new(file),
            path,
        })
    }

    /// What tells later whether image `name` is still the one that [`Store::load`] read.
    ///
    /// To be taken before the image is loaded: a change in between then shows.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or a file of the image is missing.
    pub fn stamp(&self, name: &str) -> Result<Stamp, ImageError> {
        check_name(name)?;
        Stamp::of([self.image_path(name), self.dir.join(index::FILE)])
    }

    /// Reads the executor program of image `name` and checks that it is the one installed.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being run: see [`ImageError`].
    pub fn executor(&self, name: &str) -> Result<Executor, ImageError> {
        check_name(name)?;
        let path = self.executor_path(name);
        let (index, file) = self.locked(FlockOperation::LockShared, || open(&path))?;
        let bytes = read(file, &path)?;
        let entry = entry(&index, name, &path)?.executor;
        let entry = entry.ok_or_else(|| ImageError::NotIndexed { path: path.clone() })?;
        let digest = matching(&bytes, entry.digest, &path)?;
        // The program may carry its tool definitions like an image does; it need not.
        let tools = elf::read(&bytes).ok().and_then(|parts| parts.tools).map(Tools::new);
        let file = sealed::program(name, &bytes);
        let file = file.map_err(|source| ImageError::Io { path: path.clone(), source })?;
        Ok(Executor { digest, tools, file: Arc::new(file), path })
    }

    /// Copies an image, and the executor program that goes with it, into the store as `name`.
    ///
    /// Files and index change together under the store's lock. Without an executor, an earlier
    /// one of that name is removed: it would not belong to the new image.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when `image` is none, or the store can't be written.
    pub fn install(
        &self,
        name: &str,
        image: &Path,
        executor: Option<&Path>,
    ) -> Result<Entry, ImageError> {
        check_name(name)?;
        let bytes = read(open(image)?, image)?;
        let (note, tools) = describe(&bytes, image)?;
        check_schemas(&tools, image)?;
        let program = executor.map(|path| read(open(path)?, path)).transpose()?;
        let now = SystemTime::now();
        let entry = Entry {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            protocol: note.protocol,
            build: note.build.into_owned(),
            installed: humantime::format_rfc3339_seconds(now).to_string(),
            executor: program
                .as_deref()
                .map(|bytes| FileEntry { digest: Digest::of(bytes), size: bytes.len() as u64 }),
        };
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ImageError::Io { path, source }
        };
        std::fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
        let (image_path, executor_path) = (self.image_path(name), self.executor_path(name));
        self.locked(FlockOperation::LockExclusive, || {
            let mut index = index::read(&self.dir)?;
            replace(&image_path, 0o755, &bytes).map_err(io(&image_path))?;
            match &program {
                Some(bytes) => replace(&executor_path, 0o755, bytes).map_err(io(&executor_path))?,
                None => remove(&executor_path).map_err(io(&executor_path))?,
            }
            index.insert(name.into(), entry.clone());
            index::write(&self.dir, &index)
        })?;
        Ok(entry)
    }

    /// Compares every image of the store, installed or not, with the index.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the index or the directory can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let index = index::read(&self.dir)?;
        let mut names: Vec<String> = index.keys().cloned().collect();
        names.extend(self.images_on_disk()?.into_iter().filter(|name| !index.contains_key(name)));
        names.sort_unstable();
        let listed = names.into_iter().map(|name| {
            let entry = index.get(&name).cloned();
            let path = self.image_path(&name);
            let image = state(&path, entry.as_ref().map(|entry| entry.digest));
            let expected = entry.as_ref().and_then(|entry| entry.executor);
            let executor = expected.map(|executor| executor.digest);
            let executor = match state(&self.executor_path(&name), executor) {
                FileState::Missing if expected.is_none() => None,
                state => Some(state),
            };
            Listed { name, path, entry, image, executor }
        });
        Ok(listed.collect())
    }

    fn images_on_disk(&self) -> Result<Vec<String>, ImageError> {
        let io = |source| ImageError::Io { path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(io)?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".img"));
            names.extend(name.filter(|name| check_name(name).is_ok()).map(str::to_owned));
        }
        Ok(names)
    }

    /// Reads the index and does `act` while nobody installs (shared) or reads (exclusive).
    ///
    /// A store that does not exist has an empty index and nothing to lock.
    fn locked<T>(
        &self,
        kind: FlockOperation,
        act: impl FnOnce() -> Result<T, ImageError>,
    ) -> Result<(Index, T), ImageError> {
        let io = |source| ImageError::Io { path: self.dir.clone(), source };
        let lock = match File::open(&self.dir) {
            Ok(dir) => {
                flock(&dir, kind).map_err(|error| io(error.into()))?;
                Some(dir)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        let outcome = act()?;
        let index = index::read(&self.dir)?;
        drop(lock);
        Ok((index, outcome))
    }
}

fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ImageError::NotFound { path: path.into() },
        _ => ImageError::Io { path: path.into(), source },
    })
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, ImageError> {
    let io = |source| ImageError::Io { path: path.into(), source };
    let too_long = || ImageError::TooLong { path: path.into(), limit: MAX_IMAGE };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX_IMAGE {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // The file may grow while it is read: never take more than the limit.
    file.take(MAX_IMAGE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_IMAGE { Err(too_long()) } else { Ok(bytes) }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn entry<'a>(index: &'a Index, name: &str, path: &Path) -> Result<&'a Entry, ImageError> {
    index.get(name).ok_or_else(|| ImageError::NotIndexed { path: path.into() })
}

fn matching(bytes: &[u8], expected: Digest, path: &Path) -> Result<Digest, ImageError> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(found);
    }
    Err(ImageError::Altered { path: path.into(), expected, found })
}

/// The note and the tools of an image of this osvm's protocol, from the bytes of its file.
///
/// # Errors
///
/// [`ImageError`] with `path` when the bytes are no such image.
pub fn describe(bytes: &[u8], path: &Path) -> Result<(ImageNote<'static>, Tools), ImageError> {
    let not_an_image = |reason| ImageError::NotAnImage { path: path.into(), reason };
    let parts = elf::read(bytes).map_err(not_an_image)?;
    let note = parts.note.ok_or_else(|| not_an_image("it has no osvm note".into()))?;
    if note.protocol != PROTOCOL_VERSION {
        return Err(ImageError::WrongProtocol {
            path: path.into(),
            found: note.protocol,
            expected: PROTOCOL_VERSION,
        });
    }
    let tools = parts.tools.ok_or_else(|| not_an_image("it has no tool definitions".into()))?;
    let note = ImageNote {
        protocol: note.protocol,
        name: note.name.into_owned().into(),
        build: note.build.into_owned().into(),
    };
    Ok((note, Tools::new(tools)))
}

/// Finds a schema that osvm can't check when the image is installed, not at the first call.
fn check_schemas(tools: &Tools, path: &Path) -> Result<(), ImageError> {
    for tool in tools.iter() {
        Schema::parse(tool.input_schema.get()).map_err(|error| {
            let reason = format!("argument schema of `{}/{}`: {error}", tool.server, tool.name);
            ImageError::NotAnImage { path: path.into(), reason }
        })?;
    }
    Ok(())
}

fn state(path: &Path, expected: Option<Digest>) -> FileState {
    let found = open(path).and_then(|file| read(file, path)).map(|bytes| Digest::of(&bytes));
    match (expected, found) {
        (Some(_) | None, Err(ImageError::NotFound { .. })) => FileState::Missing,
        (_, Err(error)) => FileState::Unreadable(error.to_string()),
        (None, Ok(_)) => FileState::NotIndexed,
        (Some(expected), Ok(found)) if expected == found => FileState::Ok,
        (Some(_), Ok(found)) => FileState::Altered { found },
    }
}

#[cfg(test)]
mod tests;
