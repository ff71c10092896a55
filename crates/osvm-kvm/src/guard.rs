//! The guard: ties another hypervisor to osvm's lifeline, locks it in, and becomes it.
//!
//! ```text
//! osvm-vm guard [--stdout FD] [--read FILE]… [--write DIR]… [--jailer] PROGRAM ARG…
//! osvm-vm guard --server [--stdout FD] [--data N] [--files N] [--file-size N] PROGRAM ARG…
//! ```
//!
//! Standard output is the lifeline. With `--stdout` the program gets descriptor FD as its standard
//! output instead, and keeps the lifeline under another number: closing it would end the tie.
//! With `--jailer`, for a program that closes all but the standard descriptors and changes its
//! root itself, the lifeline becomes standard input, and Landlock stays off: it forbids to mount.
//! With `--server`, for a program that the user runs without a virtual machine, the process leads
//! its group and the lifeline ends all of the group; Landlock stays off, and what the program may
//! take is limited: bytes of its own memory, open files, bytes of a file.
//!
//! # Invariants
//!
//! - The program runs only with the lifeline armed. It keeps this process's id, so the kernel's
//!   signal finds it after the exec too.
//! - It may read and run what the system installed, use the devices of virtualisation, read the
//!   files named by `--read` and write below the folders named by `--write`; the user's other files
//!   are out of its reach where the host has Landlock. A file may be named by a descriptor
//!   (`/proc/self/fd/N`), and then its name does not matter. QEMU and Firecracker filter their
//!   system calls themselves.
//!
//! # Not here
//!
//! - Closing descriptors: osvm hands over just those the program is to have.

use crate::vm_process::lifeline;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The word that chooses this part of the program.
pub const WORD: &str = "guard";

/// What the system installed: programs, libraries, firmware.
const READABLE: [&str; 9] =
    ["/usr", "/lib", "/lib64", "/bin", "/opt", "/etc/ld.so.cache", "/etc/qemu", "/proc", "/sys"];

/// Devices a hypervisor works with.
const DEVICES: [&str; 5] =
    ["/dev/kvm", "/dev/vhost-vsock", "/dev/null", "/dev/urandom", "/dev/random"];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    stdout: Option<i32>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    jailer: bool,
    server: bool,
    limits: Vec<(Resource, u64)>,
    program: PathBuf,
    args: Vec<OsString>,
}

/// Becomes the program named by `args`, the words after [`WORD`].
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(order) = parse(args) else { return ExitCode::from(2) };
    // It returns only if it failed; standard error is the report that osvm reads.
    let error = run(&order);
    let words = format!("cannot become `{}`: {error}\n", order.program.display());
    let _written = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
    ExitCode::FAILURE
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Order> {
    let mut order = Order::default();
    loop {
        let word = args.next()?;
        match word.to_str() {
            Some("--stdout") => order.stdout = Some(args.next()?.to_str()?.parse().ok()?),
            Some("--read") => order.read.push(args.next()?.into()),
            Some("--write") => order.write.push(args.next()?.into()),
            Some("--jailer") => order.jailer = true,
            Some("--server") => order.server = true,
            Some("--data") => order.limits.push((Resource::Data, number(args.next()?)?)),
            Some("--files") => order.limits.push((Resource::Nofile, number(args.next()?)?)),
            Some("--file-size") => order.limits.push((Resource::Fsize, number(args.next()?)?)),
            _ => {
                order.program = word.into();
                order.args = args.collect();
                return Some(order);
            }
        }
    }
}

fn number(word: OsString) -> Option<u64> {
    word.to_str()?.parse().ok()
}

/// Returns why the program could not be started.
fn run(order: &Order) -> io::Error {
    match tie(order) {
        Ok(()) => Command::new(&order.program).args(&order.args).exec(),
        Err(error) => error,
    }
}

fn tie(order: &Order) -> io::Result<()> {
    if order.server {
        lifeline::arm_group(rustix::stdio::stdout())?;
    } else {
        lifeline::arm(rustix::stdio::stdout())?;
    }
    if let Some(fd) = order.stdout {
        // Kept open for good, across the exec: see the header.
        if order.jailer {
            rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
        } else {
            let kept = fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0)?;
            fcntl_setfd(&kept, FdFlags::empty())?;
            let _number = kept.into_raw_fd();
        }
        // SAFETY: osvm opened `fd` for this process, and nothing here closes it.
        let console = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::stdio::dup2_stdout(console)?;
    }
    set_no_new_privs(true)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    for (resource, most) in &order.limits {
        // What the host grants already is never raised.
        let most = getrlimit(*resource).maximum.map_or(*most, |maximum| maximum.min(*most));
        setrlimit(*resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    if order.jailer || order.server { Ok(()) } else { confine(order).map_err(io::Error::other) }
}

/// Best effort, as far as the host's Landlock goes.
fn confine(order: &Order) -> Result<(), RulesetError> {
    let abi = ABI::V6;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let readable = READABLE.iter().map(Path::new).chain(order.program.parent());
    let rules = allow(rules, readable, AccessFs::from_read(abi))?;
    let rules = allow(rules, DEVICES.iter().map(Path::new), AccessFs::from_file(abi))?;
    let files = order.read.iter().map(PathBuf::as_path);
    let rules = allow(rules, files, AccessFs::ReadFile.into())?;
    let writable = order.write.iter().map(PathBuf::as_path);
    allow(rules, writable, AccessFs::from_all(abi))?.restrict_self()?;
    Ok(())
}

/// Allows `access` below those of `paths` that exist.
fn allow<'a>(
    rules: RulesetCreated,
    paths: impl Iterator<Item = &'a Path>,
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let open = paths.filter_map(|path| PathFd::new(path).ok());
    rules.add_rules(open.map(|fd| Ok::<_, RulesetError>(PathBeneath::new(fd, access))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Order> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_end_at_the_program() {
        let expected = Order {
            stdout: Some(6),
            read: vec!["/proc/self/fd/7".into()],
            write: vec!["/run/a".into()],
            program: "/usr/bin/vmm".into(),
            args: vec!["--stdout".into(), "7".into()],
            ..Order::default()
        };
        assert_eq!(
            parsed("--stdout 6 --read /proc/self/fd/7 --write /run/a /usr/bin/vmm --stdout 7"),
            Some(expected)
        );
    }

    #[test]
    fn a_server_comes_with_its_limits() {
        let limits = vec![(Resource::Data, 8 << 30), (Resource::Nofile, 64)];
        let expected = Order { server: true, limits, program: "npx".into(), ..Order::default() };
        assert_eq!(parsed("--server --data 8589934592 --files 64 npx"), Some(expected));
    }

    #[test]
    fn a_line_without_a_program_is_refused() {
        for line in ["", "--stdout 6", "--stdout x /p", "--write", "--data x /p"] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
