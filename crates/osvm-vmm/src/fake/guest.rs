//! The guest of a [`super::Fake`]: a thread per stream, bound to the life of a process.

use super::locked;
use crate::{Death, Killer};
use osvm_protocol::frame;
use osvm_protocol::message::{self, Id, Message, Request, RpcError};
use osvm_protocol::{PROTOCOL_VERSION, code, info};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// How a guest behaves, by the names of the image `hostile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Good,
    Spin,
    NeverAccept,
    TripleFault,
    Panic,
    RubbishRings,
    OutsideMemory,
    Announce4Gib,
    DieMidFrame,
    Flood,
    WrongId,
}

impl Behaviour {
    pub(super) fn named(name: &str) -> Self {
        match name {
            "spin" => Self::Spin,
            "never_accept" => Self::NeverAccept,
            "triple_fault" => Self::TripleFault,
            "panic" => Self::Panic,
            "rubbish_rings" => Self::RubbishRings,
            "outside_memory" => Self::OutsideMemory,
            "announce_4gib" => Self::Announce4Gib,
            "die_mid_frame" => Self::DieMidFrame,
            "flood" => Self::Flood,
            "wrong_id" => Self::WrongId,
            _ => Self::Good,
        }
    }

    /// It accepts no stream while it lives.
    pub(super) fn is_deaf(self) -> bool {
        matches!(self, Self::Spin | Self::NeverAccept)
    }
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
    pub(super) killer: Killer,
    pub(super) death: Mutex<Option<Death>>,
}

impl Guest {
    /// What happens before anybody connects.
    pub(super) fn begin(&self) {
        match self.behaviour {
            Behaviour::TripleFault => self.die(Death::TripleFault),
            Behaviour::Panic => self.die(Death::Panicked { last_words: "as asked".into() }),
            Behaviour::RubbishRings => {
                self.die(Death::DeviceAbuse { device: "vsock device", reason: "as asked".into() });
            }
            Behaviour::OutsideMemory => self.die(Death::OutOfBounds { address: 1 << 40 }),
            Behaviour::Good
            | Behaviour::Spin
            | Behaviour::NeverAccept
            | Behaviour::Announce4Gib
            | Behaviour::DieMidFrame
            | Behaviour::Flood
            | Behaviour::WrongId => {}
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
            Behaviour::Announce4Gib => all_sent(&[0xff; 4], socket, process),
            Behaviour::DieMidFrame => {
                all_sent(answer.get(..6).unwrap_or_default(), socket, process);
                self.die(Death::ShutDown);
                false
            }
            Behaviour::Flood => {
                while all_sent(&[b'x'; 64 * 1024], socket, process) {}
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
