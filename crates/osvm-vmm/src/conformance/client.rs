//! A guest under test and the few words spoken to it. Every failure is a sentence.

use super::Subject;
use crate::{ConnectError, GuestImage, GuestStream, Machine, MachineSpec, MemoryMib};
use osvm_protocol::boot::BootPage;
use osvm_protocol::frame::{self, HEADER_LEN};
use osvm_protocol::message::{self, Id, Message, RpcError};
use osvm_protocol::{Cid, PORT};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More than a guest needs for a small answer on a busy host that interprets every instruction.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// What counts as at once on a busy host. `OSVM_SLOW_HOST` says that the host's own processor is
/// emulated, where everything takes many times as long.
pub(super) fn at_once() -> Duration {
    Duration::from_secs(if std::env::var_os("OSVM_SLOW_HOST").is_some() { 20 } else { 2 })
}

/// After how long a guest that may have gone silent has: enough for its boot and what it does then.
pub(super) fn silence() -> Duration {
    at_once().min(Duration::from_secs(5))
}

/// A booted guest.
pub(super) struct Guest {
    pub(super) machine: Box<dyn Machine>,
    /// What it wrote to its console.
    pub(super) console: File,
}

/// What differs between the guests of the suite.
pub(super) struct Wish<'a> {
    pub(super) image: &'a GuestImage,
    pub(super) memory_mib: u32,
    pub(super) cid: u32,
    pub(super) env: &'a [(&'a str, &'a str)],
    pub(super) lease: Option<Arc<OwnedFd>>,
}

impl Subject<'_> {
    /// The executor with 64 MiB and nothing else.
    pub(super) fn wish(&self) -> Wish<'_> {
        Wish { image: &self.guests.executor, memory_mib: 64, cid: 299, env: &[], lease: None }
    }

    /// Boots what is wished.
    pub(super) fn boot(&self, wish: Wish<'_>) -> Result<Guest, String> {
        let text =
            |(name, value): &(&str, &str)| ((*name).to_owned().into(), (*value).to_owned().into());
        let page = BootPage { env: wish.env.iter().map(text).collect() };
        let console =
            File::from(memfd_create("console", MemfdFlags::CLOEXEC).or_say("memory file")?);
        let spec = MachineSpec {
            image: wish.image.clone(),
            memory: MemoryMib::new(wish.memory_mib).or_say("memory size")?,
            cid: Cid::new(wish.cid).or_say("CID")?,
            boot_page: page.encode().or_say("boot page")?,
            console: console.try_clone().or_say("console")?,
            lease: wish.lease,
        };
        let machine = self.backend.boot(&spec).or_say("the guest did not boot")?;
        Ok(Guest { machine, console })
    }
}

impl Guest {
    /// Connects to the port of the executor.
    pub(super) fn connect(&mut self) -> Result<Stream, String> {
        let stream = self.try_connect(PATIENCE).or_say("the guest was not reached")?;
        Ok(Stream::over(stream))
    }

    pub(super) fn try_connect(&mut self, patience: Duration) -> Result<GuestStream, ConnectError> {
        self.machine.connect(PORT, Instant::now() + patience)
    }

    /// Destroys the guest; fails if its process is still there.
    pub(super) fn destroy(self) -> Result<(), String> {
        let pid = self.machine.vm_pid();
        drop(self);
        if process_exists(pid) {
            Err(format!("VM process {pid} outlived its machine"))
        } else {
            Ok(())
        }
    }
}

/// Whether there is a process with this id, a zombie included.
pub(super) fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A connection to a guest's executor.
pub(super) struct Stream {
    pub(super) stream: GuestStream,
    next_id: u64,
}

impl Stream {
    pub(super) fn over(stream: GuestStream) -> Self {
        Self { stream, next_id: 1 }
    }

    /// Calls a method and returns its result.
    pub(super) fn call(
        &mut self,
        server: Option<&str>,
        method: &str,
        arguments: &Value,
    ) -> Result<Value, String> {
        let id = Id::from(self.next_id);
        self.next_id += 1;
        let arguments = serde_json::to_string(arguments).or_say("arguments")?;
        let arguments = RawValue::from_string(arguments).or_say("arguments")?;
        let request = message::request(&id, server, method, Some(&arguments)).or_say("request")?;
        self.send(&request)?;
        let payload = self.frame()?;
        match message::parse(&payload).or_say("the answer is no message")? {
            Message::Response(answer) if answer.id.as_ref() == Some(&id) => match answer.outcome {
                Ok(result) => serde_json::from_str(result.get()).or_say("the result is no JSON"),
                Err(error) => Err(format!("`{method}` answered with error {}", error.code)),
            },
            other => Err(format!("`{method}` was not answered but met with {other:?}")),
        }
    }

    /// `system echo`, which must return what it was given.
    pub(super) fn echo(&mut self, text: &str) -> Result<(), String> {
        let result = self.call(Some("system"), "echo", &serde_json::json!({ "text": text }))?;
        match result.get("text").and_then(Value::as_str) {
            Some(echo) if echo == text => Ok(()),
            _ => Err(format!("{} bytes of text came back changed", text.len())),
        }
    }

    /// `system guest_info`.
    pub(super) fn guest_info(&mut self) -> Result<Value, String> {
        self.call(Some("system"), "guest_info", &serde_json::json!({}))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes, Instant::now() + 3 * PATIENCE).or_say("sending failed")
    }

    /// The payload of the next frame.
    pub(super) fn frame(&mut self) -> Result<Vec<u8>, String> {
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header)?;
        let len = frame::payload_len(header).or_say("the guest broke the framing")?;
        let mut payload = vec![0; len];
        self.fill(&mut payload)?;
        Ok(payload)
    }

    /// The error member of the next frame.
    pub(super) fn error(&mut self) -> Result<RpcError, String> {
        let payload = self.frame()?;
        match message::parse(&payload).or_say("the answer is no message")? {
            Message::Response(answer) => match answer.outcome {
                Err(error) => Ok(error),
                Ok(result) => Err(format!("instead of an error came {result}")),
            },
            other => Err(format!("instead of an error came {other:?}")),
        }
    }

    /// Reads until `buffer` is full.
    pub(super) fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), String> {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !buffer.is_empty() {
            match self.stream.read(buffer, deadline).or_say("receiving failed")? {
                0 => return Err(format!("the guest hung up {} bytes early", buffer.len())),
                len => buffer = buffer.get_mut(len..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Reads whatever comes until the guest hangs up, for at most `patience`.
    pub(super) fn drain(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer, deadline) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(format!("the stream did not hang up: {error}")),
            }
        }
    }
}

/// Turns any failure into a sentence.
pub(super) trait OrSay<T> {
    fn or_say(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::error::Error> OrSay<T> for Result<T, E> {
    fn or_say(self, what: &str) -> Result<T, String> {
        self.map_err(|error| {
            let mut sentence = format!("{what}: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                sentence.push_str(&format!(": {error}"));
                cause = error.source();
            }
            sentence
        })
    }
}
