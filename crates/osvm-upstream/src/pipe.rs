//! A pipe of lines: stdio of a process, or of a server in a virtual machine.
//!
//! ```text
//! call ── line ──▶ Outbox ──▶ writer thread ──▶ server
//! call ◀─ Mailbox ◀─ Flights ◀─ reader thread ◀── lines
//! ```
//!
//! # Invariants
//!
//! - A server that does not read blocks the writer thread and nobody else.
//! - A line that is no message is skipped and counted; too many in a row, or one that is too
//!   long, end the link.
//! - When the reader thread ends, whatever is at the other end is gone and every request that
//!   waited has its error.

use crate::channel::{Call, Channel, no_object};
use crate::edit;
use crate::flights::Flights;
use crate::handshake::Greeting;
use crate::lines::{self, LineError, MAX_LINE};
use crate::link::{EndLink, Link};
use crate::mailbox::Lost;
use crate::message;
use crate::notice::Notice;
use crate::outgoing::Reply;
use crate::stop::Stop;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines in a row that are no messages before the link is given up.
const MAX_RUBBISH: u32 = 100;

/// Bytes that wait to be written.
const MAX_OUTBOX: usize = 64 * 1024 * 1024;

/// How long a server that closed its output may take to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A link over a pipe.
pub(crate) struct Pipe {
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    flights: Flights,
    outbox: Outbox,
    end: Mutex<Box<dyn EndLink>>,
    notice: Arc<Notice>,
    skipped: AtomicU64,
    /// osvm ends it itself, so its end is no death.
    ours: AtomicBool,
    /// There was a handshake; before it, the end is a failed start.
    agreed: AtomicBool,
}

impl Pipe {
    /// Takes a link into use.
    pub(crate) fn new(server: &str, link: Link, notice: &Arc<Notice>) -> io::Result<Arc<Self>> {
        let Link { read, write, end, .. } = link;
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            flights: Flights::new(server, Arc::clone(notice)),
            outbox: Outbox::default(),
            end: Mutex::new(end),
            notice: Arc::clone(notice),
            skipped: AtomicU64::new(0),
            ours: AtomicBool::new(false),
            agreed: AtomicBool::new(false),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("mcp-write".into()).spawn(move || writer.write(write))?;
        let reader = Arc::clone(&shared);
        let reading =
            thread::Builder::new().name("mcp-read".into()).spawn(move || reader.run(read));
        if let Err(error) = reading {
            shared.outbox.close();
            return Err(error);
        }
        Ok(Arc::new(Self { shared }))
    }
}

impl Channel for Pipe {
    fn call(&self, call: &Call<'_>, deadline: Instant, cancel: &Stop) -> Result<Reply, Lost> {
        let Shared { flights, outbox, .. } = &*self.shared;
        let id = flights.next_id();
        let Some(edited) = edit::params(call.params, &call.meta, id) else {
            return Ok(no_object());
        };
        let line = edit::request(id, call.method, edited.text.as_deref());
        drop(edited.text);
        let flight = flights.take_off(id, call.passenger(edited.token))?;
        outbox.push(line)?;
        let answer = |id: &_, outcome: Result<&_, &_>| {
            // A server that reads nothing gets no answer either.
            let _full = outbox.push(edit::answer(id, outcome));
        };
        let ended = flight.mailbox.wait(call.relay, deadline, cancel, &answer);
        drop(flight);
        let why = match &ended {
            Err(Lost::Cancelled) => "cancelled",
            Err(Lost::Deadline) => "timed out",
            _ => return ended,
        };
        if call.can_be_cancelled() {
            let params = format!(r#"{{"requestId":{id},"reason":"{why}"}}"#);
            self.notify("notifications/cancelled", Some(&params));
        }
        ended
    }

    fn notify(&self, method: &str, params: Option<&str>) {
        if self.shared.outbox.push(edit::notification(method, params)).is_err() {
            tracing::debug!(server = self.shared.server, method, "a notification was dropped");
        }
    }

    fn is_alive(&self) -> bool {
        self.shared.flights.is_alive()
    }

    fn in_flight(&self) -> usize {
        self.shared.flights.in_flight()
    }

    fn clients(&self) -> HashSet<u64> {
        self.shared.flights.clients()
    }

    fn heard(&self) -> u64 {
        self.shared.flights.heard()
    }

    fn give_up(&self, why: &str) {
        let shared = &self.shared;
        if shared.flights.end(why) {
            shared.notice.died(why);
        }
        self.end(Duration::ZERO);
    }

    fn skipped(&self) -> u64 {
        self.shared.skipped.load(Ordering::Relaxed)
    }

    fn agreed(&self, _: &Greeting) {
        self.shared.agreed.store(true, Ordering::Relaxed);
    }

    fn end(&self, patience: Duration) {
        self.shared.ours.store(true, Ordering::Relaxed);
        self.shared.flights.end("osvm ended it");
        self.shared.outbox.close();
        self.shared.lock_end().end(patience);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("server", &self.shared.server).finish_non_exhaustive()
    }
}

impl Shared {
    fn write(&self, mut to: Box<dyn Write + Send>) {
        while let Some(mut line) = self.outbox.next() {
            line.push('\n');
            // Why it failed is seen by the reader, whose end is the end of the link.
            if to.write_all(line.as_bytes()).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
        self.outbox.close();
    }

    fn run(&self, from: Box<dyn Read + Send>) {
        let why = self.read(from);
        let mut end = self.lock_end();
        // Until it is gone nobody may believe that the link is.
        self.outbox.close();
        if self.ours.load(Ordering::Relaxed) {
            return;
        }
        end.end(if why.is_none() { LAST_WORDS } else { Duration::ZERO });
        let status = end.last_words();
        drop(end);
        let mut text = why.unwrap_or_else(|| match status {
            Some(status) => format!("it ended with {status}"),
            None => "it closed its output".to_owned(),
        });
        if let Some(line) = self.notice.tail.last_line() {
            text = format!("{text}, after it wrote `{line}`");
        }
        if self.flights.end(&text) {
            tracing::debug!(server = self.server, why = text, "link lost");
            if self.agreed.load(Ordering::Relaxed) {
                self.notice.died(&text);
            }
        }
    }

    /// Reads until the end, and says why that came, where the server is still there.
    fn read(&self, from: Box<dyn Read + Send>) -> Option<String> {
        let mut input = BufReader::with_capacity(64 * 1024, from);
        let mut rubbish = 0;
        loop {
            let line = match lines::read(&mut input, MAX_LINE) {
                Ok(Some(line)) => line,
                Ok(None) => return None,
                Err(LineError::TooLong) => {
                    let limit = MAX_LINE / 1024 / 1024;
                    return Some(format!("it wrote a line of more than {limit} MiB"));
                }
                Err(LineError::Io(error)) => {
                    tracing::debug!(server = self.server, %error, "cannot read");
                    return None;
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match message::parse(line) {
                Ok(incoming) => {
                    rubbish = 0;
                    if let Some(answer) = self.flights.hear(incoming, None) {
                        let _full = self.outbox.push(answer);
                    }
                }
                Err(why) => {
                    rubbish += 1;
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(server = self.server, why, "a line is no message");
                    if MAX_RUBBISH < rubbish {
                        return Some(format!("it wrote {rubbish} lines that are no messages"));
                    }
                }
            }
        }
    }

    fn lock_end(&self) -> MutexGuard<'_, Box<dyn EndLink>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Outbox {
    state: Mutex<Waiting>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    bytes: usize,
    closed: bool,
}

impl Outbox {
    fn push(&self, line: String) -> Result<(), Lost> {
        let mut state = self.lock();
        if state.closed {
            return Err(Lost::Gone("it does not read any more".to_owned()));
        }
        // A single line may be longer than all that wait together may be.
        if !state.lines.is_empty() && MAX_OUTBOX < state.bytes.saturating_add(line.len()) {
            return Err(Lost::Busy);
        }
        state.bytes = state.bytes.saturating_add(line.len());
        state.lines.push_back(line);
        drop(state);
        self.rung.notify_one();
        Ok(())
    }

    /// The next line; `None` when there will be no more.
    fn next(&self) -> Option<String> {
        let state = self.lock();
        let wait = |state: &mut Waiting| state.lines.is_empty() && !state.closed;
        let waited = self.rung.wait_while(state, wait);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let line = state.lines.pop_front()?;
        state.bytes = state.bytes.saturating_sub(line.len());
        Some(line)
    }

    /// Drops what waits. The writer closes the pipe then.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lines = VecDeque::new();
        state.bytes = 0;
        drop(state);
        self.rung.notify_all();
    }

    // The state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
