//! The guest of a [`super::Fake`]: a thread per stream, bound to the life of a process.

use super::locked;
use crate::{Console, Death, Killer};
use osvm_protocol::frame;
use osvm_protocol::message::{self, Id, Message, Request, RpcError};
use osvm_protocol::{PROTOCOL_VERSION, code, info};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// How a guest behaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    Good,
    /// Ends as soon as it has booted, like this.
    Dies(fn() -> Death),
    /// Accepts no stream.
    Deaf,
    /// As above, and writes to its console all the time.
    FloodsConsole,
    /// Accepts, and never sends.
    Mute,
    HangsUp,
    Announces4Gib,
    DiesMidFrame,
    Floods,
    WrongId,
    RubbishJson,
    IgnoresCredit,
}

impl Behaviour {
    /// By the names of the image `hostile`.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "spin_at_boot" | "never_accept" => Self::Deaf,
            "flood_console" => Self::FloodsConsole,
            "triple_fault" => Self::Dies(|| Death::TripleFault),
            "panic" | "stack_overflow" | "null_read" | "write_text" | "execute_data" => {
                Self::Dies(|| Death::Panicked { last_words: "as asked".into() })
            }
            "outside_memory" | "outside_memory_write" => {
                Self::Dies(|| Death::OutOfBounds { address: 1 << 40 })
            }
            "vsock_ignore_credit" => Self::IgnoresCredit,
            "hang_up" => Self::HangsUp,
            "announce_4gib" => Self::Announces4Gib,
            "die_mid_frame" => Self::DiesMidFrame,
            "flood" => Self::Floods,
            "wrong_id" => Self::WrongId,
            "rubbish_json" => Self::RubbishJson,
            _ if name == "spin" || name.starts_with("vsock_") => Self::Mute,
            _ if name == "rubbish_rings" || name.starts_with("rings_") => Self::Dies(abuse),
            _ => Self::Good,
        }
    }

    /// It accepts no stream while it lives.
    pub(super) fn is_deaf(self) -> bool {
        matches!(self, Self::Deaf | Self::FloodsConsole)
    }
}

fn abuse() -> Death {
    Death::DeviceAbuse { device: "vsock device", reason: "as asked".into() }
}

/// What a guest is and knows.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) image: String,
    pub(super) memory: u64,
    /// Kinds of virtio devices.
    pub(super) devices: Vec<u32>,
    /// Names of environment variables.
    pub(super) env: Vec<String>,
    pub(super) behaviour: Behaviour,
    pub(super) changes_bytes: bool,
    pub(super) keeps_whole_console: bool,
    pub(super) killer: Killer,
    pub(super) death: Mutex<Option<Death>>,
}

impl Guest {
    /// What happens before anybody connects.
    pub(super) fn begin(&self, console: &File) {
        match self.behaviour {
            Behaviour::Dies(death) => self.die(death()),
            Behaviour::FloodsConsole => {
                let Ok(mut file) = console.try_clone() else { return };
                let text = [b'x'; 2 * 64 * 1024];
                if self.keeps_whole_console {
                    // As much as fits; a full disk is no concern of a fake.
                    let _written = file.write_all(&text);
                } else {
                    Console::new(file).append(&text);
                }
            }
            _ => {}
        }
    }

    pub(super) fn ended(&self) -> bool {
        locked(&self.death).is_some()
    }

    fn die(&self, death: Death) {
        *locked(&self.death) = Some(death);
        self.killer.kill();
    }

    /// Serves one stream until it hangs up or the VM process ends.
    pub(super) fn serve(&self, socket: &OwnedFd, process: &OwnedFd) {
        let mut received = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return,
                Ok((len, _)) => received.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(socket, process, PollFlags::IN) => {}
                Err(_) => return,
            }
            while let Ok(Some(frame)) = frame::split(&received) {
                let rest = frame.rest.len();
                let sent = self.answer(frame.payload, socket, process);
                received.drain(..received.len() - rest);
                if !sent {
                    return;
                }
            }
        }
    }

    /// Answers one request; false when the stream is over.
    fn answer(&self, payload: &[u8], socket: &OwnedFd, process: &OwnedFd) -> bool {
        let answer = match message::parse(payload) {
            Ok(Message::Request(request)) => self.run(&request),
            Ok(Message::Response(_)) => return true,
            Err(error) => message::error(None, &RpcError::new(error.code(), error.to_string())),
        };
        let Ok(mut answer) = answer else { return false };
        if self.changes_bytes {
            answer.iter_mut().filter(|byte| **byte == b'f').for_each(|byte| *byte = b'g');
        }
        match self.behaviour {
            Behaviour::Mute => true,
            Behaviour::HangsUp => false,
            Behaviour::Announces4Gib => all_sent(&[0xff; 4], socket, process),
            Behaviour::DiesMidFrame => {
                all_sent(answer.get(..6).unwrap_or_default(), socket, process);
                self.die(Death::ShutDown);
                false
            }
            Behaviour::Floods => {
                while all_sent(&[b'x'; 64 * 1024], socket, process) {}
                false
            }
            Behaviour::RubbishJson => all_sent(b"\x04\0\0\0,,,,", socket, process),
            Behaviour::IgnoresCredit => {
                self.die(abuse());
                false
            }
            _ => all_sent(&answer, socket, process),
        }
    }

    fn run(&self, request: &Request<'_>) -> Result<Vec<u8>, frame::FrameError> {
        let id = match self.behaviour {
            Behaviour::WrongId => Id::from(u64::MAX),
            _ => request.id.clone().unwrap_or(Id::from(0)),
        };
        let params = request.params.map_or("{}", |params| params.get());
        match (request.server_id.as_deref(), &*request.method) {
            (None, info::METHOD) => message::result(&id, &self.info()),
            // The arguments are what the result looks like.
            (Some("system"), "echo") => message::result(&id, params),
            (Some("system"), "guest_info") => message::result(&id, &self.guest_info()),
            _ => message::error(Some(&id), &RpcError::new(code::METHOD_NOT_FOUND, "no such tool")),
        }
    }

    fn info(&self) -> String {
        let image = &self.image;
        format!(r#"{{"protocol":{PROTOCOL_VERSION},"name":"{image}","build":"fake"}}"#)
    }

    fn guest_info(&self) -> String {
        let devices =
            self.devices.iter().map(|kind| format!(r#"{{"address":null,"kind":{kind}}}"#));
        let devices: Vec<_> = devices.collect();
        let Self { image, memory, env, .. } = self;
        let devices = devices.join(",");
        format!(
            r#"{{"platform":"fake","protocol":{PROTOCOL_VERSION},"name":"{image}","build":"fake","memory_bytes":{memory},"devices":[{devices}],"command_line":"","env":{env:?}}}"#
        )
    }
}

fn all_sent(mut bytes: &[u8], socket: &OwnedFd, process: &OwnedFd) -> bool {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if wait(socket, process, PollFlags::OUT) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Waits for the socket; false when the process has ended first.
fn wait(socket: &OwnedFd, process: &OwnedFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(socket, events)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    fds.first().is_some_and(|process| process.revents().is_empty())
}
