//! How Firecracker gets what it is to run: by descriptors, or in the jailer's folder.
//!
//! ```text
//! plain:  guard ─▶ firecracker      files are /proc/self/fd/N, nothing on disk but two sockets
//! jailed: guard ─▶ jailer ─▶ firecracker   chroot, own user id; files are copied into the chroot
//! ```
//!
//! The jailer closes every descriptor and changes the root, so nothing can be handed over but
//! files in its folder. That folder goes the way of the sockets. The lock on the CID can't be
//! handed over either: a jailed guest's CID is free a moment before the kernel has ended the
//! guest of an osvm that was killed. Its vsock is its own, so nobody can be taken for it.
//!
//! # Not here
//!
//! - Starting anything: [`crate::machine`].

use crate::config::{Guest, fd, fd_path, text};
use crate::sockets::Paths;
use osvm_protocol::Cid;
use osvm_vmm::MachineSpec;
use rustix::fs::{MemfdFlags, StatVfsMountFlags, memfd_create, statvfs};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};

/// First of the user and group ids that jailed guests run under; the CID is added, so that no two
/// guests share one.
const FIRST_UID: u32 = 300_000;

/// Where jails are made when the runtime directory allows no devices or programs.
const JAILS: &str = "/srv/jailer";

/// What is ready to be started.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Arguments of the guard.
    pub(crate) args: Vec<OsString>,
    /// Descriptors for it but the console, and their numbers.
    pub(crate) fds: Vec<(OwnedFd, i32)>,
    /// Where the sockets will be.
    pub(crate) paths: Paths,
    /// Firecracker's log.
    pub(crate) log: File,
    /// Firecracker's metrics.
    pub(crate) metrics: File,
}

/// What a Firecracker outside of a jail gets by descriptors.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The file it boots from. Without one it waits for orders.
    pub(crate) config: Option<&'a str>,
    /// Descriptors of its own, and their numbers.
    pub(crate) fds: Vec<(OwnedFd, i32)>,
    /// Which of these is a file with a path, that the guard would not let it open.
    pub(crate) file: Option<i32>,
    /// The lock on the guest's CID.
    pub(crate) lease: Option<&'a OwnedFd>,
}

/// Delivers a unikernel by descriptors.
pub(crate) fn unikernel(
    firecracker: &Path,
    runtime_dir: &Path,
    spec: &MachineSpec,
) -> io::Result<Delivery> {
    let paths = Paths::new(runtime_dir, Path::new(""))?;
    let config = text(Guest {
        memory: spec.memory,
        cid: spec.cid,
        vsock: &paths.vsock(),
        image: Path::new(&fd_path(fd::IMAGE)),
        initrd: Path::new(&fd_path(fd::INITRD)),
        kernel_line: "",
        root: None,
    })?;
    let fds = vec![
        (spec.image.file.try_clone()?.into(), fd::IMAGE),
        (memory_file("osvm-boot-page", &spec.boot_page)?.into(), fd::INITRD),
    ];
    let lease = spec.lease.as_deref();
    plain(firecracker, paths, Parts { config: Some(&config), fds, file: None, lease })
}

/// Delivers by descriptors.
pub(crate) fn plain(firecracker: &Path, paths: Paths, parts: Parts<'_>) -> io::Result<Delivery> {
    let log = memory_file("firecracker-log", b"")?;
    let metrics = memory_file("firecracker-metrics", b"")?;
    let Parts { config, mut fds, file, lease } = parts;
    fds.push((log.try_clone()?.into(), fd::LOG));
    fds.push((metrics.try_clone()?.into(), fd::METRICS));
    if let Some(lease) = lease {
        fds.push((lease.try_clone()?, fd::LEASE));
    }
    let mut args = guard();
    if let Some(file) = file {
        args.extend(["--read".into(), fd_path(file).into()]);
    }
    args.extend(["--write".into(), paths.folder().into(), firecracker.into()]);
    args.extend(firecracker_args(&paths.api(), &fd_path(fd::LOG), &fd_path(fd::METRICS)));
    if let Some(config) = config {
        fds.push((memory_file("firecracker-config", config.as_bytes())?.into(), fd::CONFIG));
        args.extend(["--config-file".into(), fd_path(fd::CONFIG).into()]);
    }
    Ok(Delivery { args, fds, paths, log, metrics })
}

/// Delivers into the folder of `jailer`, which needs root.
pub(crate) fn jailed(
    jailer: &Path,
    firecracker: &Path,
    runtime_dir: &Path,
    spec: &MachineSpec,
) -> io::Result<Delivery> {
    let id = format!("osvm-{}-{}", std::process::id(), spec.cid);
    let name = firecracker.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let chroot: PathBuf = [Path::new(name), Path::new(&id), Path::new("root")].iter().collect();
    let paths = Paths::new(&jails(runtime_dir)?, &chroot)?;
    let root = paths.sockets_in();
    fs::create_dir_all(&root)?;
    let config = text(Guest {
        memory: spec.memory,
        cid: spec.cid,
        vsock: Path::new("/vsock"),
        image: Path::new("/image"),
        initrd: Path::new("/boot-page"),
        kernel_line: "",
        root: None,
    })?;
    let mut image = File::options().write(true).create_new(true).open(root.join("image"))?;
    copy(&spec.image.file, &mut image)?;
    fs::write(root.join("boot-page"), &spec.boot_page)?;
    fs::write(root.join("config"), config)?;
    let uid = uid(spec.cid);
    let writable = |name| {
        let path = root.join(name);
        let file = File::options().read(true).append(true).create_new(true).open(&path)?;
        chown(&path, Some(uid), Some(uid))?;
        io::Result::Ok(file)
    };
    let (log, metrics) = (writable("log")?, writable("metrics")?);
    chown(&root, Some(uid), Some(uid))?;
    let mut args = guard();
    args.extend(["--jailer".into(), jailer.into(), "--id".into(), id.into()]);
    args.extend(["--exec-file".into(), firecracker.into()]);
    args.extend(["--uid".into(), uid.to_string().into(), "--gid".into(), uid.to_string().into()]);
    args.extend(["--chroot-base-dir".into(), paths.folder().into(), "--".into()]);
    args.extend(firecracker_args(Path::new("/api"), "/log", "/metrics"));
    args.extend(["--config-file".into(), "/config".into()]);
    Ok(Delivery { args, fds: Vec::new(), paths, log, metrics })
}

/// Copies a file whose position is shared with other boots of the same image.
fn copy(from: &File, to: &mut File) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    let mut at = 0;
    loop {
        let len = from.read_at(&mut buffer, at)?;
        if len == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..len).unwrap_or_default())?;
        at += len as u64;
    }
}

fn uid(cid: Cid) -> u32 {
    FIRST_UID.saturating_add(cid.get())
}

/// The runtime directory, if devices and programs work there.
fn jails(runtime_dir: &Path) -> io::Result<PathBuf> {
    let flags = statvfs(runtime_dir)?.f_flag;
    if flags.intersects(StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC) {
        fs::create_dir_all(JAILS)?;
        return Ok(JAILS.into());
    }
    // The jailer wants to see no symlink in it.
    runtime_dir.canonicalize()
}

/// The guard with the guest's console as the program's standard output.
fn guard() -> Vec<OsString> {
    vec!["guard".into(), "--stdout".into(), fd::CONSOLE.to_string().into()]
}

fn firecracker_args(api: &Path, log: &str, metrics: &str) -> [OsString; 8] {
    [
        "--api-sock".into(),
        api.into(),
        "--log-path".into(),
        log.into(),
        "--level".into(),
        "Warn".into(),
        "--metrics-path".into(),
        metrics.into(),
    ]
}

fn memory_file(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
