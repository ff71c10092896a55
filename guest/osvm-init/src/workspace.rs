//! Files of the host: taken in before the server may change them, and what it changed given back.
//!
//! # Invariants
//!
//! - Until all files are in their place the folders they are in are root's, so no program can lead a
//!   write elsewhere.
//! - What is read back is opened without following a link, and below its place.
//! - Bounded: places, files looked at, depth, and bytes that wait for the host.
//!
//! # Not here
//!
//! - What is worth telling the host of: it compares contents, this compares what the file system says.

mod place;

use crate::Error;
use crate::buffers::{Input, Outgoing};
use crate::channel::Stream;
use crate::control::{self, Order};
use osvm_protocol::frame;
use osvm_protocol::linux::workspace::{self as wire, CHUNK, MAX_PLACES, Place, Said};
use osvm_protocol::message::Id;
use place::{Files, Step};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;

/// Bytes that wait for the host before more is read.
const ENOUGH: usize = 1024 * 1024;

/// The places for files of the host.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// By number.
    places: Vec<Files>,
    /// The one that the host speaks of.
    current: u32,
    failed: Option<String>,
    /// Whether all is there, and the server may change it.
    there: bool,
    sending: Option<Sending>,
}

/// An answer that goes in pieces.
#[derive(Debug)]
struct Sending {
    id: Id<'static>,
    /// What is left, with the numbers of places.
    steps: VecDeque<(u32, Step)>,
    current: u32,
    /// A file of which so many bytes are still to go.
    file: Option<(File, u64)>,
    looked_at: usize,
}

impl Workspace {
    /// The places, whose folders are there, for user `uid`; nothing if there are none.
    pub(crate) fn new(places: &[Place], uid: u32) -> Result<Option<Self>, Error> {
        if places.is_empty() {
            return Ok(None);
        }
        let places = places.iter().take(MAX_PLACES).cloned().map(|place| Files::new(place, uid));
        let places = places.collect::<Result<_, _>>()?;
        let (failed, there, sending) = (None, false, None);
        Ok(Some(Self { places, current: 0, failed, there, sending }))
    }

    /// Whether the server has to wait for the files.
    pub(crate) fn is_first(&self) -> bool {
        self.places.iter().any(|files| files.place.first)
    }

    /// Waits until the host has sent all files. Nothing else is done for it meanwhile.
    pub(crate) fn fill_first(&mut self, stream: &Stream) -> Result<(), Error> {
        let failed = |why: &dyn std::fmt::Display| Error::new("wait for the files", why);
        let (mut inbox, mut outbox) = (Vec::new(), Outgoing::default());
        while !self.there || !outbox.is_empty() {
            let mut wanted = PollFlags::IN;
            wanted.set(PollFlags::OUT, !outbox.is_empty());
            let mut fds = [PollFd::new(stream, wanted)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(failed(&error)),
            }
            let before = inbox.len();
            let input = stream.read(&mut inbox).map_err(|error| failed(&error))?;
            let hung_up =
                fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) || input == Input::Ended;
            if hung_up && inbox.len() == before {
                return Err(failed(&"the host hung up"));
            }
            let mut used = 0;
            while let Some(one) = frame::split(inbox.get(used..).unwrap_or_default())
                .map_err(|error| failed(&error))?
            {
                let len = inbox.len() - used - one.rest.len();
                self.hear(one.payload, &mut outbox);
                used += len;
            }
            inbox.drain(..used);
            stream.write(&mut outbox).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn hear(&mut self, payload: &[u8], outbox: &mut Outgoing) {
        if let Some(said) = wire::read(payload) {
            return self.take(said);
        }
        let answer = match control::read(payload) {
            Ok((id, Order::WorkspaceReady)) => self.ready_answer(&id),
            Ok((id, _)) => control::failure(&id, "the server waits for its files"),
            Err(refusal) => refusal,
        };
        outbox.push(&answer);
    }

    /// Takes what the host says of one file. What fails is told when the host is ready.
    pub(crate) fn take(&mut self, said: Said<'_>) {
        // Once the server may change something, nothing more is put among it.
        if self.there || self.failed.is_some() {
            return;
        }
        if let Said::Place(number) = said {
            self.current = number;
        }
        let number = usize::try_from(self.current).ok();
        let put = match number.and_then(|number| self.places.get_mut(number)) {
            Some(files) => files.put(said),
            None => Err(format!("there is no place {}", self.current)),
        };
        self.failed = put.err();
    }

    /// The answer to a host that says that all is sent.
    pub(crate) fn ready_answer(&mut self, id: &Id<'_>) -> Vec<u8> {
        match self.ready() {
            Ok(()) => control::answer(id, &()),
            Err(why) => control::failure(id, why),
        }
    }

    fn ready(&mut self) -> Result<(), String> {
        if self.there {
            return Err("the files are there already".into());
        }
        if let Some(why) = self.failed.take() {
            return Err(why);
        }
        self.places.iter_mut().try_for_each(Files::ready)?;
        self.there = true;
        Ok(())
    }

    /// Begins to send what is not as it was; the answer comes last. `Err` holds a refusal.
    pub(crate) fn send_changes(&mut self, id: Id<'static>) -> Result<(), Vec<u8>> {
        if !self.there {
            return Err(control::failure(&id, "the files are not there yet"));
        }
        if self.sending.is_some() {
            return Err(control::failure(&id, "changes are on their way already"));
        }
        let (mut steps, mut looked_at) = (VecDeque::new(), 0);
        for (number, files) in (0..).zip(&mut self.places) {
            match files.changes() {
                Ok((some, looked)) => {
                    steps.extend(some.into_iter().map(|step| (number, step)));
                    looked_at += looked;
                }
                Err(why) => return Err(control::failure(&id, why)),
            }
        }
        self.sending = Some(Sending { id, steps, current: 0, file: None, looked_at });
        Ok(())
    }

    /// Whether there is more to send.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Sends as much as may wait for the host.
    pub(crate) fn serve(&mut self, outbox: &mut Outgoing) {
        while let Some(sending) = self.sending.as_mut().filter(|_| outbox.len() < ENOUGH) {
            match sending.next(&self.places) {
                // A path and a piece of a file fit a frame.
                Some(said) => outbox.push(&said.unwrap_or_default()),
                None => {
                    outbox.push(&control::answer(&sending.id, &sending.looked_at));
                    self.sending = None;
                }
            }
        }
    }
}

impl Sending {
    /// The next frame; nothing after the last one.
    fn next(&mut self, places: &[Files]) -> Option<Result<Vec<u8>, frame::FrameError>> {
        if let Some((file, left)) = &mut self.file {
            let mut bytes = vec![0; CHUNK.min(usize::try_from(*left).unwrap_or(CHUNK))];
            let len = file.read(&mut bytes).unwrap_or(0);
            bytes.truncate(len);
            *left = left.saturating_sub(len as u64);
            if len == 0 || *left == 0 {
                self.file = None;
            }
            return Some(wire::frame(Said::Data(&bytes)));
        }
        let (number, step) = self.steps.pop_front()?;
        if number != self.current {
            self.current = number;
            self.steps.push_front((number, step));
            return Some(wire::frame(Said::Place(number)));
        }
        let files = places.get(usize::try_from(number).ok()?)?;
        Some(match step {
            Step::Gone(path) => wire::frame(Said::Gone { path: &path }),
            Step::There(path, mark) => {
                let (said, file) = files.there(&path, mark);
                self.file = file;
                said
            }
        })
    }
}

#[cfg(test)]
mod tests;
