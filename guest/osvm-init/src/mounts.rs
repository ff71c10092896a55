//! File systems: the kernel's own, the root (read-only image below, memory above), and the way
//! from the initial RAM disk into it.

use crate::Error;
use osvm_protocol::linux::Orders;
use rustix::fs::{Gid, Mode, Uid, chmod, chown};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use rustix::time::{ClockId, clock_gettime};
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The root image.
const DISK: &str = "/dev/vda";

/// Says whom programs ask for names.
const RESOLVER: &str = "/etc/resolv.conf";

/// How long the disk may take to appear.
const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// No mount in a guest honours device files or set-user-id programs, but the device folder's own.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Time since the kernel started.
pub(crate) fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(secs, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// What PID 1 itself needs.
pub(crate) fn early() -> Result<(), Error> {
    mount_at("proc", "/proc", "proc", PLAIN | MountFlags::NOEXEC, "")?;
    mount_at("sysfs", "/sys", "sysfs", PLAIN | MountFlags::NOEXEC | MountFlags::RDONLY, "")?;
    mount_at("dev", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")
}

/// Makes the image the root, with a layer in memory for what is written.
pub(crate) fn switch_root(orders: &Orders) -> Result<(), Error> {
    wait_for_disk()?;
    let size = orders.writable_mib;
    mount_at(DISK, "/image", "erofs", PLAIN | MountFlags::RDONLY, "")?;
    mount_at("memory", "/layer", "tmpfs", PLAIN, &format!("size={size}m,mode=0755"))?;
    make_dir("/layer/upper")?;
    make_dir("/layer/work")?;
    let options = "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work";
    mount_at("root", "/new", "overlay", PLAIN, options)?;
    for name in ["proc", "sys", "dev"] {
        make_dir(&format!("/new/{name}"))?;
        let to = format!("/new/{name}");
        let moved = mount_move(format!("/{name}"), &to);
        moved.map_err(Error::during(format!("move `/{name}` to `{to}`")))?;
    }
    // The RAM disk's memory is given back; this program lives on without its name.
    let _gone = fs::remove_file("/init");
    let enter = || -> rustix::io::Result<()> {
        chdir("/new")?;
        mount_move(".", "/")?;
        chroot(".")?;
        chdir("/")
    };
    enter().map_err(Error::during("enter the root file system"))?;
    furnish(orders)
}

/// What programs expect of a root beyond its image.
fn furnish(orders: &Orders) -> Result<(), Error> {
    let size = orders.writable_mib;
    mount_at(
        "pts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "ptmxmode=0666",
    )?;
    mount_at("shm", "/dev/shm", "tmpfs", PLAIN, &format!("size={size}m,mode=1777"))?;
    for (from, to) in
        [("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")]
    {
        // Programs do without them if they have to.
        let _there = std::os::unix::fs::symlink(from, format!("/dev/{to}"));
    }
    make_dir("/tmp")?;
    chmod("/tmp", Mode::from_raw_mode(0o1777)).map_err(Error::during("open `/tmp` to all"))?;
    make_dir("/run/osvm")?;
    if orders.network {
        name_resolver()?;
    }
    for place in &orders.places {
        let options = format!("size={size}m,mode=0755");
        mount_at("workspace", &place.path, "tmpfs", PLAIN, &options)?;
    }
    for path in &orders.own {
        make_dir(path)?;
        let (user, group) = (Uid::from_raw(orders.uid), Gid::from_raw(orders.uid));
        let given = chown(path.as_str(), Some(user), Some(group));
        given.map_err(Error::during(format!("give `{path}` to the server")))?;
    }
    Ok(())
}

/// Names are asked of PID 1. The image's own file may be a link to anywhere.
fn name_resolver() -> Result<(), Error> {
    make_dir("/etc")?;
    let _was_there = fs::remove_file(RESOLVER);
    let text = "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n";
    fs::write(RESOLVER, text).map_err(Error::during(format!("write `{RESOLVER}`")))
}

fn wait_for_disk() -> Result<(), Error> {
    let deadline = Instant::now() + DISK_DEADLINE;
    while !Path::new(DISK).exists() {
        if deadline < Instant::now() {
            return Err(Error::new(format!("find `{DISK}`"), "it did not appear in time"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn mount_at(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Error> {
    make_dir(target)?;
    let during = || format!("mount {kind} at `{target}`");
    let options = CString::new(options).map_err(Error::during(during()))?;
    mount(source, target, kind, flags, options.as_c_str()).map_err(Error::during(during()))
}

fn make_dir(path: &str) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::during(format!("make folder `{path}`")))
}
