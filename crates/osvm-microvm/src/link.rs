//! A guest as the pipe that `osvm-upstream` wants: newline-delimited JSON in both directions.
//!
//! # Invariants
//!
//! - What is written is cut into lines, one frame each; a line over the limit ends the writing.
//! - Reading ends when the server has ended, whatever was said before that.
//! - The answer of a call goes on only when what the call did to a workspace is kept.
//! - Ending goes in this order: stdin is closed, then SIGTERM, then SIGKILL, all by PID 1; then the
//!   machine is destroyed.

use crate::guest::Guest;
use crate::outside::Egress;
use crate::talk::{self, Gone, Heard, Talk};
use crate::workspace::{Files, Incoming};
use osvm_protocol::linux::{MAX_LINE, Stop, method, net, workspace, wrap};
use osvm_runtime::{Listed, LongGuest};
use osvm_upstream::EndLink;
use osvm_vmm::GuestStream;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Milliseconds a server has to end by itself, and again after SIGTERM.
const GRACE_MS: u32 = 2000;

/// How long a guest may leave the stream full before its link is given up.
const STUCK: Duration = Duration::from_secs(60);

/// A wait that does not end by itself: whoever ends the guest ends it.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The three parts of a link to `guest`.
pub(crate) fn split(guest: Guest) -> io::Result<(Lines, Writer, End)> {
    let writer = Arc::new(Mutex::new(guest.talk.writer()?));
    let cid = guest.cid();
    let egress = guest.outside.clone().map(|(outside, persistent)| {
        let egress = Egress::new(outside, persistent, Arc::clone(&writer));
        let listed = egress.guests().add(cid, Arc::clone(&egress) as Arc<dyn LongGuest>);
        (egress, listed)
    });
    let files = guest.files.clone();
    let (guest, talk) = guest.without_talk();
    let fate = Arc::new(Mutex::new(None));
    let out = egress.as_ref().map(|(egress, _)| Arc::clone(egress));
    let lines = Lines {
        talk,
        bytes: Vec::new(),
        at: 0,
        fate: Arc::clone(&fate),
        egress: out,
        files: files.clone(),
        writer: Arc::clone(&writer),
        next_id: FIRST_ID + 1,
    };
    let writer = Writer { stream: writer, line: Vec::new(), files };
    Ok((lines, writer, End { guest: Some(guest), fate, last_words: None, egress }))
}

/// Ids of requests to PID 1 once the link is in use. The first one is the last to be used: its stop.
const FIRST_ID: u64 = 1 << 32;

type Fate = Arc<Mutex<Option<String>>>;

fn lock(fate: &Fate) -> MutexGuard<'_, Option<String>> {
    fate.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the server says.
#[derive(Debug)]
pub(crate) struct Lines {
    talk: Talk,
    bytes: Vec<u8>,
    at: usize,
    fate: Fate,
    egress: Option<Arc<Egress>>,
    files: Option<Arc<Files>>,
    writer: Arc<Mutex<GuestStream>>,
    next_id: u64,
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.bytes.len() <= self.at {
            match self.talk.next(Instant::now() + FOREVER) {
                Ok(Heard::Line(line)) => {
                    let mut line = self.settled(line);
                    line.push(b'\n');
                    (self.bytes, self.at) = (line, 0);
                }
                Ok(Heard::Answer { .. } | Heard::File(_)) => {}
                Ok(heard @ (Heard::Asked(_) | Heard::Net(_))) => self.outside(heard),
                Err(gone) => {
                    let ended = matches!(gone, Gone::Ended(_) | Gone::HungUp);
                    let words = gone.to_string();
                    lock(&self.fate).get_or_insert_with(|| words.clone());
                    return if ended { Ok(0) } else { Err(io::Error::other(words)) };
                }
            }
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += len;
        Ok(len)
    }
}

impl Lines {
    /// The line, after what the call that it answers did to the host's files is kept.
    fn settled(&mut self, line: Vec<u8>) -> Vec<u8> {
        match self.files.clone() {
            Some(files) if files.answers(&line) => {
                let told = self.changes().map_err(|gone| {
                    let words = gone.to_string();
                    // What is read next says that it is gone, too.
                    lock(&self.fate).get_or_insert_with(|| words.clone());
                    words
                });
                files.settle(line, told)
            }
            _ => line,
        }
    }

    /// Asks PID 1 what has changed. What else is said meanwhile is kept, or done.
    fn changes(&mut self) -> Result<Incoming, Gone> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = Instant::now() + STUCK;
        let frame = talk::request(id, workspace::method::CHANGES, &serde_json::json!({}))?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(&frame, deadline).map_err(Gone::Io)?;
        drop(writer);
        let mut incoming = Incoming::default();
        loop {
            match self.talk.hear(deadline)? {
                Heard::Line(line) => self.talk.keep(line)?,
                Heard::File(payload) => incoming.take(&payload),
                Heard::Answer { id: answered, result } if answered == id => {
                    let method = workspace::method::CHANGES.to_owned();
                    return match result {
                        Ok(_) => Ok(incoming),
                        Err(reason) => Err(Gone::Refused { method, reason }),
                    };
                }
                Heard::Answer { .. } => {}
                heard @ (Heard::Asked(_) | Heard::Net(_)) => self.outside(heard),
            }
        }
    }

    fn outside(&mut self, heard: Heard) {
        match (heard, &self.egress) {
            (Heard::Asked(asked), Some(egress)) => egress.asked(asked),
            (Heard::Net(payload), Some(egress)) => {
                if let Some((stream, said)) = net::read(&payload) {
                    egress.said(stream, said);
                }
            }
            // Its recipe gave it no way out, so only a guest that broke its PID 1 asks.
            _ => {}
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(egress) = &self.egress {
            egress.end();
        }
    }
}

/// What the server is told.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Frames of others go over it too, each as a whole.
    stream: Arc<Mutex<GuestStream>>,
    line: Vec<u8>,
    files: Option<Arc<Files>>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if MAX_LINE < self.line.len().saturating_add(text.len()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("a message of more than {MAX_LINE} bytes can't be sent to a guest"),
                ));
            }
            self.line.extend_from_slice(text);
            if whole {
                if let Some(files) = &self.files {
                    files.notice(&self.line);
                }
                let frame = wrap(&self.line).map_err(io::Error::other)?;
                self.line.clear();
                let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
                stream.write_all(&frame, Instant::now() + STUCK)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let stop = talk::request(FIRST_ID, method::STOP, &Stop { grace_ms: GRACE_MS });
        let Ok(frame) = stop else { return };
        for _ in 0..10 {
            // Somebody who holds it for long writes to a guest that does not read.
            if let Ok(mut stream) = self.stream.try_lock() {
                // A guest that is gone, or does not read, is ended by whoever holds it.
                let soon = Instant::now() + Duration::from_millis(10);
                let _gone = stream.write_all(&frame, soon);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the guest.
#[derive(Debug)]
pub(crate) struct End {
    guest: Option<crate::guest::Rest>,
    fate: Fate,
    last_words: Option<String>,
    /// The way out, and its place in the list of guests.
    egress: Option<(Arc<Egress>, Listed)>,
}

impl EndLink for End {
    fn end(&mut self, patience: Duration) {
        let Some(mut guest) = self.guest.take() else { return };
        if let Some((egress, _listed)) = self.egress.take() {
            egress.end();
        }
        let deadline = Instant::now() + patience;
        // PID 1 stops the machine when the server has ended, so the VM process ends with it.
        guest.wait(deadline);
        self.last_words = lock(&self.fate).clone();
    }

    fn last_words(&mut self) -> Option<String> {
        self.last_words.clone().or_else(|| lock(&self.fate).clone())
    }
}
