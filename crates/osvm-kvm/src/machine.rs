//! One running guest, seen from osvm.

use crate::control::{BootTimes, Control, Counts, End, Event, Jail, MAX_EVENT, MAX_TEXT, Order};
use osvm_vmm::linux::SnapshotError;
use osvm_vmm::process::VmProcess;
use osvm_vmm::{ConnectError, Death, GuestStream, Killer, Machine, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long [`Machine::death`] waits for a guest that may be about to end by itself: a guest
/// closes its streams before it shuts down.
const GRACE: Duration = Duration::from_millis(50);

/// A guest on the embedded VMM.
#[derive(Debug)]
pub struct KvmMachine {
    // Declared first, so it drops first: the process is gone before its memory is given back.
    process: VmProcess,
    control: Control<OwnedFd>,
    memory: Arc<File>,
    begun: u64,
    boot: Option<(Jail, BootTimes)>,
    next_token: u64,
    counts: Option<Counts>,
    ended: Option<End>,
}

impl KvmMachine {
    pub(crate) fn new(
        process: VmProcess,
        control: Control<OwnedFd>,
        memory: Arc<File>,
        begun: u64,
    ) -> Self {
        let (boot, counts, ended) = (None, None, None);
        Self { process, control, memory, begun, boot, next_token: 0, counts, ended }
    }

    pub(crate) fn started(&mut self, jail: Jail, times: BootTimes) {
        self.boot = Some((jail, times));
    }

    /// What keeps the VM process in, as it said.
    pub fn jail(&self) -> Option<Jail> {
        self.boot.map(|(jail, _)| jail)
    }

    /// When osvm began to start the VM process, and when that process's steps ended.
    pub fn boot_times(&self) -> Option<(u64, BootTimes)> {
        self.boot.map(|(_, times)| (self.begun, times))
    }

    /// What the guest cost until its first payload bytes, with `count` set in the backend.
    /// Waits until `deadline` for a guest that has not sent any.
    pub fn counts(&mut self, deadline: Instant) -> Option<Counts> {
        while self.counts.is_none() && self.ended.is_none() {
            let event = self.event_before(deadline).ok()??;
            self.note(event);
        }
        self.counts
    }

    /// The next message; `None` when the VM process has ended and has no more to say.
    pub(crate) fn event(&mut self, deadline: Instant) -> io::Result<Option<Event>> {
        let mut buffer = [0; MAX_EVENT];
        loop {
            match self.control.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(None) => return Ok(None),
                Ok(Some(received)) => {
                    let bytes = buffer.get(..received.len).unwrap_or_default();
                    let event = serde_json::from_slice(bytes);
                    return event.map(Some).map_err(|_| io::ErrorKind::InvalidData.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&self.control, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Like [`Self::event`], but what comes after `deadline` is only noted, so a VM process that
    /// never stops sending can't keep osvm waiting.
    fn event_before(&mut self, deadline: Instant) -> io::Result<Option<Event>> {
        match self.event(deadline)? {
            Some(late) if deadline <= Instant::now() => {
                self.note(late);
                Err(io::ErrorKind::TimedOut.into())
            }
            event => Ok(event),
        }
    }

    /// Keeps what an event says that nobody waits for right now.
    fn note(&mut self, event: Event) {
        match event {
            Event::Counted(counts) => self.counts = Some(counts),
            Event::Ended(end) => self.ended = Some(end),
            // Answers to a `connect` that has given up, or words out of turn.
            Event::Accepted { .. }
            | Event::Refused { .. }
            | Event::Ready { .. }
            | Event::Saved
            | Event::NotSaved { .. }
            | Event::NotStarted(_) => {}
        }
    }

    fn answer(&mut self, token: u64, port: u32, deadline: Instant) -> Result<(), ConnectError> {
        loop {
            match self.event_before(deadline) {
                Ok(Some(Event::Accepted { token: of })) if of == token => return Ok(()),
                Ok(Some(Event::Refused { token: of })) if of == token => {
                    return Err(ConnectError::Refused { port });
                }
                Ok(Some(Event::Ended(end))) => {
                    self.ended = Some(end);
                    return Err(ConnectError::Died(self.death()));
                }
                Ok(Some(other)) => self.note(other),
                Ok(None) => return Err(ConnectError::Died(self.death())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(ConnectError::Deadline { port });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has a Linux guest written to `state` and stopped, and waits until its VM process is gone.
    /// What the guest's memory holds then belongs to that state.
    pub(crate) fn save(&mut self, state: &File, deadline: Instant) -> Result<(), SnapshotError> {
        let refused = |reason| SnapshotError::Refused { reason };
        match self.control.send(&Order::Save, &[state.as_fd()]) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        loop {
            match self.event_before(deadline) {
                Ok(Some(Event::Saved)) => break,
                Ok(Some(Event::NotSaved { reason })) => {
                    return Err(refused(osvm_vmm::clean(reason.as_bytes(), MAX_TEXT)));
                }
                Ok(Some(Event::Ended(end))) => {
                    self.ended = Some(end);
                    return Err(refused(self.death().to_string()));
                }
                Ok(Some(other)) => self.note(other),
                Ok(None) => return Err(refused(self.death().to_string())),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(SnapshotError::Deadline);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.process.end()?;
        Ok(())
    }

    /// The guest's memory, which the VM process holds too.
    pub(crate) fn memory(&self) -> &Arc<File> {
        &self.memory
    }

    pub(crate) fn process(&mut self) -> &mut VmProcess {
        &mut self.process
    }

    /// Why a VM process ended that did not say so itself.
    pub(crate) fn epitaph(&mut self) -> String {
        match self.process.end() {
            Ok(status) => self.obituary(status).to_string(),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    fn obituary(&mut self, status: ExitStatus) -> Death {
        let report = self.process.report();
        match status.signal() {
            Some(libc::SIGSYS) => {
                let reason = "it made a system call that its jail forbids".to_owned();
                Death::VmmFailed { reason: with(reason, &report) }
            }
            Some(signal) => Death::Killed { signal },
            None => Death::VmmFailed { reason: with(format!("it ended with {status}"), &report) },
        }
    }
}

fn with(reason: String, report: &str) -> String {
    if report.is_empty() { reason } else { format!("{reason}: {report}") }
}

impl Machine for KvmMachine {
    fn vm_pid(&self) -> u32 {
        self.process.pid()
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)?;
        let token = self.next_token;
        self.next_token += 1;
        match self.control.send(&Order::Connect { token, port }, &[theirs.as_fd()]) {
            Ok(()) => {}
            // It has ended; the answer will be its last words.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error.into()),
        }
        drop(theirs);
        self.answer(token, port, deadline)?;
        Ok(GuestStream::new(ours))
    }

    fn killer(&self) -> Killer {
        self.process.killer()
    }

    fn usage(&self) -> Usage {
        // In units of 512 bytes, whatever the file system's block size.
        let blocks =
            rustix::fs::fstat(&*self.memory).ok().map(|stat| stat.st_blocks.unsigned_abs());
        Usage { guest_memory_kb: blocks.map(|blocks| blocks / 2) }
    }

    fn death(&mut self) -> Death {
        let deadline = Instant::now() + GRACE;
        while self.ended.is_none() {
            match self.event_before(deadline) {
                Ok(Some(event)) => self.note(event),
                Ok(None) | Err(_) => break,
            }
        }
        let status = self.process.end();
        // It may have ended by itself just then: what it said last is still to be read.
        let now = Instant::now();
        while self.ended.is_none()
            && let Ok(Some(event)) = self.event(now)
        {
            self.note(event);
        }
        match (self.ended.take(), status) {
            (Some(end), _) => Death::from(end),
            (None, Ok(status)) => self.obituary(status),
            (None, Err(error)) => {
                Death::VmmFailed { reason: format!("it cannot be waited for: {error}") }
            }
        }
    }
}
