//! A guest that is ready and unused: booted, connected, and its code has run once.
//!
//! # Invariants
//!
//! - It has answered `osvm/info` as the image that was checked, and said nothing else.
//! - It holds a CID of its own from before its first instruction.
//! - It has been asked for no tool. Only [`crate::guest::Ready`] fits in here.

use crate::cancel::Cancel;
use crate::cids::{Cids, Lease};
use crate::error::{CallError, EndCause, GuestFault};
use crate::exchange::{Answer, Broken, answer};
use crate::guest::{Booted, Ready, from_wire};
use crate::recipe::Recipe;
use crate::wire::WireError;
use osvm_image::Image;
use osvm_protocol::info::{self, Info};
use osvm_protocol::message::{self, Id, Message};
use osvm_vmm::{BootError, Machine, clean};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::value::RawValue;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Id of the request for `osvm/info`; tools are asked from 1 on.
const INFO_ID: u64 = 0;

/// Longest name that is shown, in bytes.
const MAX_SHOWN: usize = 64;

/// Tells spares apart. Never used twice.
pub(super) type SpareId = u64;

/// A ready, unused guest.
#[derive(Debug)]
pub(crate) struct Spare {
    // In this order they go: the guest, then its address.
    ready: Ready,
    lease: Lease,
    console: File,
    process: OwnedFd,
    /// How long it took to get ready.
    pub(crate) boot: Duration,
    /// When it was ready.
    pub(super) since: Instant,
}

impl Spare {
    /// Boots a guest that `cancel` can kill, and lets it run its own code once.
    pub(super) fn boot(
        recipe: &Recipe,
        cids: &Cids,
        cancel: &Cancel,
        deadline: Instant,
    ) -> Result<Self, CallError> {
        let begun = Instant::now();
        let mut lease = cids.take_idle(&recipe.key.image)?;
        let console = console()?;
        let file = console.try_clone().map_err(|error| refused("a descriptor", error))?;
        let spec = recipe.spec(&lease, file)?;
        let guest = Booted::boot(&*recipe.backend, &spec, cancel)?;
        lease.set_vm_pid(guest.vm_pid());
        let mut ready = guest.connect(deadline)?;
        if recipe.backend.translates() {
            greet(&mut ready, recipe, Some(info::REHEARSE), deadline)?;
        }
        // What wakes a guest that waits is code too, and runs for the first time here.
        greet(&mut ready, recipe, None, deadline)?;
        let process = process(ready.vm_pid())?;
        let since = Instant::now();
        Ok(Self { ready, lease, console, process, boot: since - begun, since })
    }

    /// Whether it still lives and is silent, as it has to be.
    pub(super) fn is_fit(&self) -> bool {
        let mut fds = self.watched().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&NOW)).is_ok_and(|events| events == 0)
    }

    /// What becomes readable when it is no longer fit.
    pub(super) fn watched(&self) -> [BorrowedFd<'_>; 2] {
        [self.ready.stream(), self.process.as_fd()]
    }

    pub(super) fn cid(&self) -> u32 {
        self.lease.cid().get()
    }

    pub(super) fn vm_pid(&self) -> u32 {
        self.ready.vm_pid()
    }

    /// Hands it out. The console is a memory file from here on too.
    pub(crate) fn into_parts(self) -> (Ready, Lease, File) {
        (self.ready, self.lease, self.console)
    }
}

/// A console in memory: a guest that waits for a call has no log yet.
pub(crate) fn console() -> Result<File, CallError> {
    let file = memfd_create("osvm-console", MemfdFlags::CLOEXEC);
    Ok(file.map_err(|error| refused("a console in memory", error.into()))?.into())
}

fn refused(what: &'static str, source: io::Error) -> BootError {
    BootError::Host { what, source }
}

/// Asks for `osvm/info` and compares the answer with what was booted.
fn greet(
    ready: &mut Ready,
    recipe: &Recipe,
    params: Option<&str>,
    deadline: Instant,
) -> Result<(), CallError> {
    let (wire, machine) = ready.parts();
    let hung_up = |error: WireError, machine: &mut dyn Machine| {
        CallError::from(from_wire(error, || Some(EndCause::Guest(machine.death()))))
    };
    let params = params.and_then(|params| serde_json::from_str::<&RawValue>(params).ok());
    let request = message::request(&Id::from(INFO_ID), None, info::METHOD, params);
    let request = request.map_err(GuestFault::TooLong)?;
    if let Err(error) = wire.send(&request, deadline) {
        return Err(hung_up(error, machine));
    }
    let payload = match wire.next(deadline) {
        Ok(payload) => payload,
        Err(error) => return Err(hung_up(error, machine)),
    };
    check(payload, &recipe.image)?;
    if wire.is_drained() { Ok(()) } else { Err(GuestFault::Flood.into()) }
}

/// The guest's word is no proof of what it is, but one that says something else is out of order.
fn check(payload: &[u8], image: &Image) -> Result<(), GuestFault> {
    let Message::Response(response) = message::parse(payload).map_err(GuestFault::Rubbish)? else {
        return Err(stranger("a request"));
    };
    let answer = answer(response, INFO_ID).map_err(|broken| match broken {
        Broken::WrongId(id) => GuestFault::WrongId { id },
        Broken::Rubbish(error) => GuestFault::Rubbish(error),
        Broken::Wire(_) | Broken::Request(_) => stranger("nothing"),
    })?;
    let result = match &answer {
        Answer::Result(result) | Answer::Mcp(result) | Answer::McpError(result) => result,
        Answer::ToolError(error) => return Err(stranger(&error.message)),
    };
    let note = &image.note;
    match serde_json::from_str::<Info<'_>>(result.get()) {
        Ok(info) if info.protocol == note.protocol && info.build == note.build => Ok(()),
        Ok(info) => Err(stranger(&format!("{} of build {}", info.name, info.build))),
        Err(_) => Err(stranger(result.get())),
    }
}

fn stranger(what: &str) -> GuestFault {
    GuestFault::Stranger { what: clean(what.as_bytes(), MAX_SHOWN) }
}

/// The VM process, to be told of its end. Its machine lives, so nobody has reaped it yet and its
/// number is still its own.
fn process(pid: u32) -> Result<OwnedFd, CallError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
    let fd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    Ok(fd.map_err(|error| refused("a handle of the VM process", error.into()))?)
}
