//! Templates on disk, so that a process can copy a server that another one started.
//!
//! ```text
//! ~/.osvm/snapshots/<key>/memory           guest memory, with holes where it is empty
//!                         state            everything else of the machine
//!                         template.json    name, greeting, and what the other two files were
//! ```
//!
//! # Invariants
//!
//! - A template has the name of its [`Recipe::key`]: another kernel, image, command, hypervisor or
//!   processor is another key.
//! - It has that name only when all of it is on the disk, and is used only while its files are the
//!   very ones that were written: inode, length and time of the last change. Anything else counts as
//!   no template.
//! - What is copied from is never a file on disk, but a sealed copy of it in memory: no guest can
//!   change what the next one starts from.

use crate::recipe::Recipe;
use crate::template::{Exercise, Template, Times};
use osvm_image::Digest;
use osvm_vmm::MemoryMib;
use osvm_vmm::linux::{Snapshot, seal};
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Version of the shape of `template.json`.
const FORMAT: u32 = 1;

/// Letters of a key that name a folder.
const NAME: usize = 32;

/// Longest `template.json` that is read, in bytes.
const MAX_META: u64 = 4 << 20;

/// Copied at once, in bytes.
const PIECE: u64 = 1 << 20;

/// A folder of templates.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
}

/// A template on disk.
#[derive(Clone, Debug, Serialize)]
pub struct Saved {
    /// The first letters of its key.
    pub key: String,
    /// The server.
    pub name: String,
    /// Memory of its guests, in MiB.
    pub memory_mb: u32,
    /// Bytes it takes on the disk.
    pub bytes: u64,
    /// When it was made.
    pub made: SystemTime,
    /// Whether its files are the ones that were written.
    pub whole: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    key: String,
    name: String,
    memory_mb: u32,
    greeting: Option<Box<RawValue>>,
    with_call: bool,
    kernel_ms: u64,
    initialized_ms: u64,
    saved_ms: u64,
    memory: Stamp,
    state: Stamp,
}

/// Tells a file from every other one, and from itself after it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let data = file.metadata()?;
        let changed = (data.ctime(), data.ctime_nsec());
        Ok(Self { inode: data.ino(), size: data.size(), changed })
    }
}

impl Snapshots {
    /// The templates in `dir`, which is made when something is saved.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Whether there is one of that key, as far as its name tells.
    pub fn has(&self, key: &Digest) -> bool {
        self.place(key).is_dir()
    }

    /// The template of that key, if there is one that can be used.
    pub(crate) fn load(&self, key: &Digest, recipe: &Recipe) -> Option<Template> {
        let place = self.place(key);
        match read(&place, key, recipe) {
            Ok(template) => template,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %place.display(), "a template is not used: {error}");
                None
            }
        }
    }

    /// Keeps a template, and forgets those that were made of the same server before.
    ///
    /// # Errors
    ///
    /// What the host answered; nothing is kept then.
    pub(crate) fn save(&self, key: &Digest, template: &Template) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let place = self.place(key);
        let fresh = self.dir.join(format!(".new-{}-{}", std::process::id(), short(key)));
        let _none = fs::remove_dir_all(&fresh);
        let kept = write(&fresh, key, template).and_then(|()| {
            // One that is there already was found useless, or is as good.
            let _none = fs::remove_dir_all(&place);
            fs::rename(&fresh, &place)
        });
        if kept.is_err() {
            let _none = fs::remove_dir_all(&fresh);
            return kept;
        }
        for other in self.list()? {
            if other.name == template.name && other.key != short(key) {
                self.remove(&other.key)?;
            }
        }
        Ok(())
    }

    /// All of them, by name. What is no template is left out.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub fn list(&self) -> io::Result<Vec<Saved>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            all.extend(saved(&entry?.path()));
        }
        all.sort_by(|a, b| (&a.name, &a.key).cmp(&(&b.name, &b.key)));
        Ok(all)
    }

    /// Removes the template whose folder has that name, as [`Saved::key`] tells it.
    ///
    /// # Errors
    ///
    /// There is none, or it can't be removed.
    pub fn remove(&self, key: &str) -> io::Result<()> {
        if key.len() != NAME || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        fs::remove_dir_all(self.dir.join(key))
    }

    fn place(&self, key: &Digest) -> PathBuf {
        self.dir.join(short(key))
    }
}

fn short(key: &Digest) -> String {
    key.hex().chars().take(NAME).collect()
}

fn saved(place: &Path) -> Option<Saved> {
    let meta = meta(place).ok()?;
    let key = place.file_name()?.to_str()?.to_owned();
    if !meta.key.starts_with(&key) {
        return None;
    }
    let of = |name: &str| File::open(place.join(name)).ok();
    let is = |file: &Option<File>, stamp: Stamp| {
        file.as_ref().is_some_and(|file| Stamp::of(file).is_ok_and(|is| is == stamp))
    };
    let (memory, state) = (of("memory"), of("state"));
    let whole = is(&memory, meta.memory) && is(&state, meta.state);
    let blocks = |file: &Option<File>| file.as_ref()?.metadata().ok().map(|data| data.blocks());
    let blocks = blocks(&memory).unwrap_or(0).saturating_add(blocks(&state).unwrap_or(0));
    let made = fs::metadata(place.join("template.json")).ok()?.modified().ok()?;
    let (name, memory_mb) = (meta.name, meta.memory_mb);
    Some(Saved { key, name, memory_mb, bytes: blocks.saturating_mul(512), made, whole })
}

fn meta(place: &Path) -> io::Result<Meta> {
    let mut text = Vec::new();
    File::open(place.join("template.json"))?.take(MAX_META).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn read(place: &Path, key: &Digest, recipe: &Recipe) -> io::Result<Option<Template>> {
    let meta = meta(place)?;
    let fits = meta.format == FORMAT
        && meta.key == key.hex()
        && meta.memory_mb == recipe.memory.mib()
        && meta.memory.size == recipe.memory.bytes();
    if !fits {
        return Ok(None);
    }
    let load = |name: &str, stamp: Stamp| -> io::Result<Option<Arc<File>>> {
        let file = File::open(place.join(name))?;
        if Stamp::of(&file)? != stamp {
            return Ok(None);
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = File::from(memfd_create(format!("osvm-{name}"), flags)?);
        transfer(&file, &copy, stamp.size)?;
        seal(&copy)?;
        Ok(Some(Arc::new(copy)))
    };
    let (memory, state) = (load("memory", meta.memory)?, load("state", meta.state)?);
    let (Some(memory), Some(state)) = (memory, state) else {
        return Err(io::Error::other("its files were changed"));
    };
    let snapshot = Snapshot { memory, state, size: recipe.memory, root: Arc::clone(&recipe.root) };
    let times = Times {
        kernel: Duration::from_millis(meta.kernel_ms),
        initialized: Duration::from_millis(meta.initialized_ms),
        saved: Duration::from_millis(meta.saved_ms),
    };
    let exercise = if meta.with_call { Exercise::WithCall } else { Exercise::Plain };
    let (name, greeting) = (recipe.name.clone(), meta.greeting);
    Ok(Some(Template { name, snapshot, greeting, exercise, times }))
}

fn write(fresh: &Path, key: &Digest, template: &Template) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(fresh)?;
    let create = |name: &str| {
        File::options().write(true).create_new(true).mode(0o600).open(fresh.join(name))
    };
    let keep = |name: &str, from: &File| -> io::Result<Stamp> {
        let to = create(name)?;
        transfer(from, &to, from.metadata()?.size())?;
        to.sync_all()?;
        Stamp::of(&to)
    };
    let Template { name, snapshot, greeting, exercise, times } = template;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let meta = Meta {
        format: FORMAT,
        key: key.hex(),
        name: name.clone(),
        memory_mb: MemoryMib::mib(snapshot.size),
        greeting: greeting.clone(),
        with_call: *exercise == Exercise::WithCall,
        kernel_ms: ms(times.kernel),
        initialized_ms: ms(times.initialized),
        saved_ms: ms(times.saved),
        memory: keep("memory", &snapshot.memory)?,
        state: keep("state", &snapshot.state)?,
    };
    let mut file = create("template.json")?;
    file.write_all(&serde_json::to_vec(&meta)?)?;
    file.sync_all()
}

/// Copies a file of `size` bytes, but not its holes.
fn transfer(from: &File, to: &File, size: u64) -> io::Result<()> {
    to.set_len(size)?;
    // Descriptors of its own: others may read the same file at the same time.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(from));
    let mut from = File::open(path)?;
    let mut to = to;
    let mut at = 0;
    while at < size {
        let data = match seek(&from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&from, SeekFrom::Hole(data))?.min(size);
        from.seek(io::SeekFrom::Start(data))?;
        to.seek(io::SeekFrom::Start(data))?;
        at = data;
        while at < end {
            let piece = (end - at).min(PIECE);
            let copied = io::copy(&mut (&from).take(piece), &mut to)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += copied;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_vmm::linux::sealed;

    #[test]
    fn holes_stay_holes_and_data_stays_data() {
        let mut from = tempfile::tempfile().unwrap();
        from.set_len(8 << 20).unwrap();
        from.seek(io::SeekFrom::Start(3 << 20)).unwrap();
        from.write_all(b"data").unwrap();
        let to = tempfile::tempfile().unwrap();
        transfer(&from, &to, 8 << 20).unwrap();
        let mut all = Vec::new();
        (&to).seek(io::SeekFrom::Start(0)).unwrap();
        (&to).read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 8 << 20);
        assert_eq!(&all[3 << 20..(3 << 20) + 4], b"data");
        assert_eq!(all.iter().filter(|byte| **byte != 0).count(), 4);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_template_is_kept_until_one_of_its_files_changes() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(dir.path().join("snapshots"));
        let recipe = crate::recipe::tests::recipe();
        let key = recipe.key("qemu 1");
        let memory = sealed("memory", &vec![7; 128 << 20]).unwrap();
        let snapshot = Snapshot {
            memory: Arc::new(memory),
            state: Arc::new(sealed("state", b"state").unwrap()),
            size: recipe.memory,
            root: Arc::clone(&recipe.root),
        };
        let zero = Duration::ZERO;
        let times = Times { kernel: zero, initialized: zero, saved: zero };
        let greeting = RawValue::from_string("{\"a\": 1}".into()).ok();
        let template = Template {
            name: "demo".into(),
            snapshot,
            greeting,
            exercise: Exercise::WithCall,
            times,
        };
        assert!(snapshots.load(&key, &recipe).is_none());
        snapshots.save(&key, &template).unwrap();
        let loaded = snapshots.load(&key, &recipe).unwrap();
        assert!(loaded.snapshot_is_sealed());
        assert_eq!(loaded.greeting.unwrap().get(), "{\"a\": 1}");
        assert!(snapshots.load(&recipe.key("qemu 2"), &recipe).is_none());
        // A newer one of the same server takes the place of the old one.
        snapshots.save(&recipe.key("qemu 2"), &template).unwrap();
        let listed = snapshots.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].whole && listed[0].name == "demo");
        let place = dir.path().join("snapshots").join(&listed[0].key).join("state");
        fs::write(place, b"stale").unwrap();
        assert!(snapshots.load(&recipe.key("qemu 2"), &recipe).is_none());
        assert!(!snapshots.list().unwrap()[0].whole);
        snapshots.remove(&listed[0].key).unwrap();
        assert!(snapshots.list().unwrap().is_empty());
        assert!(snapshots.remove("../x").is_err());
    }
}
