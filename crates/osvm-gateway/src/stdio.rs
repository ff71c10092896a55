//! One client at the two ends of a pipe.
//!
//! ```text
//! input ends ──▶ the calls on their way are answered ──▶ end
//! output gone, Stop::stop ──▶ the calls on their way are cancelled ──▶ end
//! ```

use crate::client::Client;
use crate::gateway::Gateway;
use crate::lines;
use crate::listen;
use crate::outlet::Outlet;
use crate::session::Session;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How often the end of the output is looked for while the last calls finish.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;

/// `PIPE_BUF` of Linux, in bytes; see pipe(7).
const PIPE_BUF: usize = 4096;

/// Ends [`serve`] from another thread. Clones end the same one.
#[derive(Clone, Debug)]
pub struct Stop(Arc<OwnedFd>);

impl Stop {
    /// One that nobody has used.
    ///
    /// # Errors
    ///
    /// The host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Waits until [`Stop::stop`] was called.
    pub(crate) fn wait(&self) {
        let stopped = |fd: &PollFd<'_>| !fd.revents().is_empty();
        loop {
            let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
            // Nothing but a signal keeps this from waiting.
            let _woken = poll(&mut fds, None);
            if fds.iter().all(stopped) {
                return;
            }
        }
    }

    /// Cancels all calls and ends the service, now and from now on.
    pub fn stop(&self) {
        // It fails only when the counter is full, which wakes whoever waits just as well.
        let _full = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Why the service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said all it had to say.
    InputEnded,
    /// The client listens no more.
    OutputGone,
    /// [`Stop::stop`] was called.
    Stopped,
}

/// The client can't be heard.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Reading failed.
    #[error("cannot read what the client sends")]
    Read(#[source] io::Error),
}

/// Serves one client until it goes away. When this returns, no call of it is left.
///
/// # Errors
///
/// [`ServeError`] when the input can't be read; its calls are cancelled.
pub fn serve(
    gateway: &Arc<Gateway>,
    input: OwnedFd,
    output: OwnedFd,
    stop: &Stop,
) -> Result<End, ServeError> {
    let client = Arc::new(Client::new(gateway.number(), Arc::default()));
    let output = Arc::new(output);
    let outlet = {
        let stop = stop.clone();
        let to = Output { to: Arc::clone(&output), stop: stop.clone() };
        Arc::new(Outlet::new(to, move || stop.stop()))
    };
    let session = Session::new(Arc::clone(gateway), Arc::clone(&outlet), Arc::clone(&client));
    // Dropped at the end, which ends the watching.
    let _watched = listen::start(gateway, &client.listeners, &outlet);
    let input = Input { from: input, output: Arc::clone(&output), stop: stop.clone(), end: None };
    let mut input = BufReader::with_capacity(BUFFER, input);
    let mut buffer = Vec::new();
    let heard = loop {
        match lines::read(&mut input, &mut buffer, lines::MAX_LINE) {
            Ok(Some(line)) => session.hear(line),
            Ok(None) => break Ok(input.get_ref().end.unwrap_or(End::InputEnded)),
            Err(error) => break Err(ServeError::Read(error)),
        }
    };
    let end = match heard {
        Ok(End::InputEnded) => {
            client.listeners.close(&outlet);
            // Whoever has said all can't answer, and does not come back.
            client.hang_up();
            Ok(finish(&client, &output, stop))
        }
        end => end,
    };
    if !matches!(end, Ok(End::InputEnded)) {
        client.end();
    }
    // A killed guest is gone within milliseconds.
    while !client.wait(LOOK) {}
    end
}

/// Waits for the last answers, as long as somebody can hear them.
fn finish(client: &Client, output: &OwnedFd, stop: &Stop) -> End {
    while !client.wait(LOOK) {
        if let Some(end) = ended(output, stop) {
            return end;
        }
    }
    End::InputEnded
}

/// Whether there is a reason to end at once.
fn ended(output: &OwnedFd, stop: &Stop) -> Option<End> {
    let mut fds = [watched_output(output), PollFd::new(&*stop.0, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).ok()?;
    let [output, stop] = fds;
    reason(output.revents(), stop.revents())
}

// The reader of a pipe going away is reported without being asked for.
fn watched_output(output: &OwnedFd) -> PollFd<'_> {
    PollFd::new(output, PollFlags::empty())
}

fn reason(output: PollFlags, stop: PollFlags) -> Option<End> {
    if output.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        Some(End::OutputGone)
    } else if stop.contains(PollFlags::IN) {
        Some(End::Stopped)
    } else {
        None
    }
}

/// The client's bytes, which end when there is a reason to end.
#[derive(Debug)]
struct Input {
    from: OwnedFd,
    output: Arc<OwnedFd>,
    stop: Stop,
    end: Option<End>,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut fds = [
                PollFd::new(&self.from, PollFlags::IN),
                watched_output(&self.output),
                PollFd::new(&*self.stop.0, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let [from, output, stop] = fds;
            if let Some(end) = reason(output.revents(), stop.revents()) {
                self.end = Some(end);
                return Ok(0);
            }
            if from.revents().is_empty() {
                continue;
            }
            match rustix::io::read(&self.from, &mut *buffer) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                read => return Ok(read?),
            }
        }
    }
}

/// The way to the client. Waits for room, but not for a client that is to be left.
#[derive(Debug)]
struct Output {
    to: Arc<OwnedFd>,
    stop: Stop,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Where there is room at all, a pipe takes this much at once: the write can't block.
        let (piece, _) = bytes.split_at(bytes.len().min(PIPE_BUF));
        loop {
            let mut fds =
                [PollFd::new(&*self.to, PollFlags::OUT), PollFd::new(&*self.stop.0, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let [to, stop] = fds;
            if to.revents().is_empty() && !stop.revents().is_empty() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match rustix::io::write(&*self.to, piece) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
