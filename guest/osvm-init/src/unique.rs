//! Making a copy of this guest unlike its original: kernel, clock, and programs that keep random
//! state of their own.
//!
//! ```text
//! program ──connect──▶ /run/osvm/wake.sock        once it has loaded its hook
//! PID 1   ──letter──▶ program                     see [`Word`]
//! program ──letter──▶ PID 1                       the same one, when it has done it
//! ```
//!
//! The hooks, one for Node and one for Python, stand beside this file and say what they do. They
//! are loaded through `NODE_OPTIONS` and `PYTHONPATH`, so the image needs nothing.
//!
//! # Invariants
//!
//! - Kernel first, then the clock, then programs: OpenSSL draws from the kernel as soon as it sees
//!   that the clock has jumped.
//! - A program that had a hook and does not answer makes the wake fail. An answer says what it
//!   answers, so one that comes late is not taken for another.

use crate::Error;
use crate::random;
use osvm_protocol::linux::Wake;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::AsFd;
use rustix::fs::{Mode, chmod};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

const SOCKET: &str = "/run/osvm/wake.sock";
const NODE_FILE: &str = "/run/osvm/wake.cjs";
const PYTHON_DIR: &str = "/run/osvm/python";
const NODE_HOOK: &str = include_str!("../hooks/wake.cjs");
const PYTHON_HOOK: &str = include_str!("../hooks/sitecustomize.py");

/// Programs and threads that may register.
const MAX: usize = 256;

/// What programs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Word {
    /// This is a copy: seed your generators.
    Wake = b'w',
    /// Do all that a wake takes, so that what is compiled for it is compiled in the original.
    Rehearse = b'r',
    /// Do what a first request may take: a copy begins with no code translated.
    Exercise = b'x',
}

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The programs that want to know of a wake.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    listener: Option<UnixListener>,
    programs: Vec<Program>,
}

#[derive(Debug)]
struct Program {
    stream: UnixStream,
    owes: Option<Word>,
}

impl Hooks {
    /// Puts the hooks into the root file system, if they are wanted.
    pub(crate) fn new(wanted: bool) -> Result<Self, Error> {
        if !wanted {
            return Ok(Self::default());
        }
        let put = || -> std::io::Result<UnixListener> {
            fs::create_dir_all(PYTHON_DIR)?;
            fs::write(NODE_FILE, NODE_HOOK)?;
            fs::write(format!("{PYTHON_DIR}/sitecustomize.py"), PYTHON_HOOK)?;
            let listener = UnixListener::bind(SOCKET)?;
            listener.set_nonblocking(true)?;
            // The server is another user.
            chmod(SOCKET, Mode::from_raw_mode(0o666))?;
            Ok(listener)
        };
        let listener = put().map_err(Error::during("put the hooks in place"))?;
        Ok(Self { listener: Some(listener), programs: Vec::new() })
    }

    /// What makes programs load their hook.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        if self.listener.is_none() {
            return Vec::new();
        }
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("NODE_OPTIONS", format!("--require={NODE_FILE}")),
            pair("PYTHONPATH", PYTHON_DIR.to_owned()),
        ]
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = self.listener.iter().map(AsFd::as_fd);
        let programs = self.programs.iter().map(|program| program.stream.as_fd());
        listener.chain(programs).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
    }

    /// Takes what programs have to say.
    pub(crate) fn serve(&mut self) {
        self.programs.retain_mut(Program::hear);
        let Some(listener) = &self.listener else { return };
        while let Ok((stream, _)) = listener.accept() {
            if self.programs.len() < MAX && stream.set_nonblocking(true).is_ok() {
                self.programs.push(Program { stream, owes: None });
            }
        }
    }

    /// Tells every program; returns how many there are.
    pub(crate) fn tell(&mut self, word: Word) -> usize {
        self.serve();
        self.programs.retain_mut(|program| {
            program.owes = Some(word);
            program.stream.write(&[word as u8]).is_ok()
        });
        self.programs.len()
    }

    /// Programs that have not answered yet.
    pub(crate) fn owing(&self) -> usize {
        self.programs.iter().filter(|program| program.owes.is_some()).count()
    }
}

impl Program {
    /// False once it is gone.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; 16];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                let said = bytes.get(..len).unwrap_or_default();
                self.owes.take_if(|word| said.contains(&(*word as u8)));
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

/// Does to the kernel what `wake` asks for.
pub(crate) fn renew(wake: &Wake) -> Result<(), Error> {
    if let Some(entropy) = wake.entropy {
        random::reseed(entropy).map_err(Error::during("give the kernel new randomness"))?;
    }
    if let Some(unix_ns) = wake.unix_ns {
        let seconds = i64::try_from(unix_ns / SECOND).map_err(Error::during("set the clock"))?;
        let nanoseconds =
            i64::try_from(unix_ns % SECOND).map_err(Error::during("set the clock"))?;
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        clock_settime(ClockId::Realtime, time).map_err(Error::during("set the clock"))?;
    }
    Ok(())
}

/// Sets the clock back, before there is anything that could notice.
pub(crate) fn set_back(secs: u32) -> Result<(), Error> {
    if secs == 0 {
        return Ok(());
    }
    let now = clock_gettime(ClockId::Realtime);
    let time = Timespec { tv_sec: now.tv_sec.saturating_sub(secs.into()).max(0), ..now };
    clock_settime(ClockId::Realtime, time).map_err(Error::during("set the clock back"))
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(now.tv_sec).saturating_mul(SECOND).saturating_add(part(now.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks() -> (Hooks, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let program = Program { stream: ours, owes: None };
        (Hooks { listener: None, programs: vec![program] }, theirs)
    }

    #[test]
    fn a_program_owes_an_answer_until_it_gives_one() {
        let (mut hooks, mut program) = hooks();
        assert_eq!((hooks.tell(Word::Wake), hooks.owing()), (1, 1));
        let mut byte = [0];
        program.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"w");
        program.write_all(b"w").unwrap();
        hooks.serve();
        assert_eq!(hooks.owing(), 0);
    }

    #[test]
    fn an_answer_to_what_was_said_before_does_not_count() {
        let (mut hooks, mut program) = hooks();
        hooks.tell(Word::Rehearse);
        hooks.tell(Word::Wake);
        program.write_all(b"r").unwrap();
        hooks.serve();
        assert_eq!(hooks.owing(), 1);
        program.write_all(b"w").unwrap();
        hooks.serve();
        assert_eq!(hooks.owing(), 0);
    }

    #[test]
    fn a_program_that_is_gone_owes_nothing() {
        let (mut hooks, program) = hooks();
        assert_eq!(hooks.tell(Word::Wake), 1);
        drop(program);
        hooks.serve();
        assert_eq!((hooks.owing(), hooks.tell(Word::Wake)), (0, 0));
    }

    #[test]
    fn without_hooks_the_environment_stays_as_it_is() {
        assert!(Hooks::new(false).unwrap().env().is_empty());
    }
}
