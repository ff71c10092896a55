//! Asking QEMU to save a guest, over its private machine protocol socket.
//!
//! Memory stays where it is, in the file that is shared with QEMU; only the state of processor and
//! devices is written.

use osvm_vmm::GuestStream;
use osvm_vmm::linux::SnapshotError;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What switches commands on. Written before QEMU starts; its answer is skipped later.
pub(super) const GREETING: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// What makes a copy take the state from the descriptor it inherits. Written before QEMU starts.
pub(super) fn incoming(fd: i32) -> Vec<u8> {
    let mut commands = GREETING.to_vec();
    commands.extend_from_slice(&command(0, IGNORE_SHARED));
    let take = format!(r#""migrate-incoming","arguments":{{"uri":"fd:{fd}"}}"#);
    commands.extend_from_slice(&command(0, &take));
    commands
}

/// Leaves out memory that is in a shared file.
const IGNORE_SHARED: &str = concat!(
    r#""migrate-set-capabilities","arguments":{"capabilities":"#,
    r#"[{"capability":"x-ignore-shared","state":true}]}"#
);

/// Longest line kept, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Time between two questions whether it is done.
const PAUSE: Duration = Duration::from_millis(1);

/// QEMU's end of the conversation, as far as it matters.
#[derive(Debug, Deserialize)]
struct Line {
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Returned>,
    error: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Returned {
    status: Option<String>,
    #[serde(rename = "error-desc")]
    why: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

/// Stops the guest and returns its state without memory. It is not to run on afterwards.
pub(super) fn save(socket: BorrowedFd<'_>, deadline: Instant) -> Result<File, SnapshotError> {
    let state = File::from(memfd_create("osvm-guest-state", flags()).map_err(io::Error::from)?);
    let mut talk = Talk::new(socket)?;
    talk.ask(IGNORE_SHARED, None, deadline)?;
    talk.ask(r#""getfd","arguments":{"fdname":"state"}"#, Some(state.as_fd()), deadline)?;
    talk.ask(r#""migrate","arguments":{"uri":"fd:state"}"#, None, deadline)?;
    loop {
        let Returned { status, why } = talk.ask(r#""query-migrate""#, None, deadline)?;
        match status.as_deref() {
            Some("completed") => return Ok(state),
            Some("failed" | "cancelled") => {
                let reason = why.unwrap_or_else(|| "it gave no reason".into());
                return Err(SnapshotError::Refused { reason });
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn flags() -> MemfdFlags {
    MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING
}

fn command(id: u64, execute: &str) -> Vec<u8> {
    format!("{{\"id\":{id},\"execute\":{execute}}}\n").into_bytes()
}

/// Commands and their answers.
struct Talk {
    stream: GuestStream,
    line: Vec<u8>,
    last: u64,
}

impl Talk {
    fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let stream = GuestStream::new(socket.try_clone_to_owned()?);
        Ok(Self { stream, line: Vec::new(), last: 0 })
    }

    fn ask(
        &mut self,
        execute: &str,
        file: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Returned, SnapshotError> {
        self.last += 1;
        let command = command(self.last, execute);
        let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("no room for a descriptor").into());
        }
        let pieces = [IoSlice::new(&command)];
        let sent = sendmsg(&self.stream, &pieces, &mut ancillary, SendFlags::NOSIGNAL);
        // A command is far shorter than the buffer of a socket that is otherwise idle.
        if sent.map_err(io::Error::from)? != command.len() {
            return Err(io::Error::other("a command was cut").into());
        }
        self.answer(deadline)
    }

    fn answer(&mut self, deadline: Instant) -> Result<Returned, SnapshotError> {
        loop {
            while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Line { id: Some(id), error: Some(error), .. }) if id == self.last => {
                        return Err(SnapshotError::Refused { reason: error.desc });
                    }
                    Ok(Line { id: Some(id), returned, .. }) if id == self.last => {
                        return Ok(returned.unwrap_or_default());
                    }
                    // Events, the greeting, answers to what nobody waits for.
                    _ => {}
                }
            }
            self.read(deadline)?;
        }
    }

    fn read(&mut self, deadline: Instant) -> Result<(), SnapshotError> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece, deadline) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) if MAX_LINE < self.line.len() => {
                Err(io::Error::other("a line of the VM process is too long").into())
            }
            Ok(len) => {
                self.line.extend_from_slice(piece.get(..len).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(SnapshotError::Deadline),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn conversation(answers: &'static [&'static str]) -> Result<File, SnapshotError> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let qemu = std::thread::spawn(move || {
            let mut theirs = UnixStream::from(theirs);
            for answer in answers {
                let mut command = [0; 4096];
                let _len = theirs.read(&mut command).unwrap();
                theirs.write_all(answer.as_bytes()).unwrap();
            }
        });
        let saved = save(ours.as_fd(), Instant::now() + Duration::from_secs(5));
        qemu.join().unwrap();
        saved
    }

    #[test]
    fn events_and_late_answers_do_not_confuse() {
        let saved = conversation(&[
            "{\"QMP\":{}}\n{\"return\":{}}\n{\"id\":1,\"return\":{}}\n",
            "{\"event\":\"STOP\"}\n{\"id\":2,\"return\":{}}\n",
            "{\"id\":3,\"return\":{}}\n",
            "{\"id\":4,\"return\":{\"status\":\"active\"}}\n",
            "{\"id\":5,\"return\":{\"status\":\"completed\"}}\n",
        ]);
        assert!(saved.is_ok(), "{saved:?}");
    }

    #[test]
    fn a_refusal_is_passed_on_in_its_own_words() {
        let refused = conversation(&["{\"id\":1,\"error\":{\"class\":\"x\",\"desc\":\"no\"}}\n"]);
        let words = refused.unwrap_err().to_string();
        assert_eq!(words, "the VM process could not save the guest: no");
    }

    #[test]
    fn a_qemu_that_is_gone_is_an_error() {
        assert!(matches!(conversation(&[]), Err(SnapshotError::Io(_))));
    }
}
