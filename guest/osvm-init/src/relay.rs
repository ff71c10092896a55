//! The one loop of PID 1: lines between the stream and the server, requests of the host, the end.
//!
//! # Invariants
//!
//! - Nothing blocks. What can't be written yet waits in memory, and while much waits nothing more
//!   is read from where it comes from, so a server that floods waits for its host.
//! - The last frame says why the server ended, after all it had written.
//! - A host that hangs up ends the guest, unless the guest is frozen: then this is a copy, and the host
//!   connects again.

use crate::buffers::{Input, Lines, Outgoing, empty, fill};
use crate::channel::Stream;
use crate::control::{self, Order, Times};
use crate::net::Net;
use crate::server::{ENDED_LEN, Ended, Server, signal_all};
use crate::unique::{self, Hooks, Word};
use crate::workspace::Workspace;
use crate::{Error, ending};
use osvm_protocol::frame;
use osvm_protocol::linux::{self, MAX_LINE, Stop};
use osvm_protocol::message::{self, Id, Message, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// While more than this waits on one side, in bytes, the other is not read.
const ENOUGH: usize = 1024 * 1024;

/// Longest line of stderr that is kept together, in bytes.
const MAX_STDERR_LINE: usize = 4096;

/// How long what a dead server has written may take to arrive: a child of it may hold its pipes.
const DRAIN: Duration = Duration::from_millis(300);

/// How long the host may take to read the last frames.
const FLUSH: Duration = Duration::from_secs(5);

/// How long programs may take to rehearse, each time. Long, because whatever is left of it is left to
/// every copy, which has to do it before it can wake.
const REHEARSAL: Duration = Duration::from_secs(30);

/// How long programs may take to exercise. Nothing depends on it.
const EXERCISE: Duration = Duration::from_secs(2);

/// How often programs rehearse besides the first time: V8 learns what a function works on when it
/// has run a few times.
const REHEARSALS: u32 = 9;

/// How long programs may take to seed their generators.
const WAKE: Duration = Duration::from_secs(10);

/// Everything PID 1 holds while the server runs.
#[derive(Debug)]
pub(crate) struct Relay {
    stream: Stream,
    /// The stream has ended.
    lost: bool,
    inbox: Vec<u8>,
    outbox: Outgoing,
    server: Server,
    to_server: Outgoing,
    stdout: Lines,
    stderr: Lines,
    hooks: Hooks,
    net: Option<Net>,
    workspace: Option<Workspace>,
    times: Times,
    frozen: bool,
    asking: Option<Asking>,
    stopping: Option<Stopping>,
    /// Why PID 1 ended the server, if it did.
    killed: Option<String>,
    end: End,
}

/// A request of the host that waits for programs.
#[derive(Debug)]
struct Asking {
    id: Id<'static>,
    word: Word,
    hooks: usize,
    /// How often it is to be said again.
    left: u32,
    deadline: Instant,
}

/// A stop on its way: stdin is closed, then SIGTERM, then SIGKILL.
#[derive(Debug)]
struct Stopping {
    grace: Duration,
    next: Signal,
    deadline: Instant,
}

#[derive(Debug)]
enum End {
    NotYet,
    /// The server is gone; its pipes may still hold something.
    Draining {
        ended: Ended,
        deadline: Instant,
    },
    /// The last frame is on its way.
    Told {
        deadline: Instant,
    },
}

impl Relay {
    pub(crate) fn new(
        stream: Stream,
        server: Server,
        hooks: Hooks,
        (net, workspace): (Option<Net>, Option<Workspace>),
        times: Times,
    ) -> Self {
        Self {
            stream,
            lost: false,
            inbox: Vec::new(),
            outbox: Outgoing::default(),
            server,
            to_server: Outgoing::default(),
            stdout: Lines::default(),
            stderr: Lines::default(),
            hooks,
            net,
            workspace,
            times,
            frozen: false,
            asking: None,
            stopping: None,
            killed: None,
            end: End::NotYet,
        }
    }

    /// Runs until the server has ended and the host knows, or the host has hung up.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        loop {
            let hung_up = self.wait().map_err(Error::during("wait for the server"))?;
            let more = self.read_stream().map_err(Error::during("read from the host"))?;
            if self.lost && self.frozen && self.reconnect()? {
                continue;
            }
            self.read_server();
            self.hooks.serve();
            self.serve_net();
            if let Some(workspace) = &mut self.workspace {
                workspace.serve(&mut self.outbox);
            }
            self.finish_asking();
            self.go_on_stopping();
            self.see_end();
            self.write_server();
            let written = self.stream.write(&mut self.outbox);
            let written = written.map_err(Error::during("write to the host"))?;
            self.lost |= written == Input::Ended;
            let over = match &self.end {
                End::Told { deadline } => {
                    self.outbox.is_empty() || self.lost || *deadline < Instant::now()
                }
                _ => (hung_up || self.lost) && !more,
            };
            if over {
                return Ok(());
            }
        }
    }

    /// Waits until there is something to do; true when the host has hung up.
    fn wait(&self) -> rustix::io::Result<bool> {
        let mut stream = PollFlags::empty();
        stream.set(PollFlags::IN, self.to_server.len() < ENOUGH);
        stream.set(PollFlags::OUT, !self.outbox.is_empty());
        let mut fds = vec![PollFd::new(&self.stream, stream)];
        fds.extend(self.hooks.poll_fds());
        if self.outbox.len() < ENOUGH {
            let outputs = [&self.server.stdout, &self.server.stderr].into_iter().flatten();
            fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::IN)));
            fds.extend(
                self.net.iter().map(|net| PollFd::from_borrowed_fd(net.fd(), PollFlags::IN)),
            );
        }
        if let Some(stdin) = self.server.stdin.as_ref().filter(|_| !self.to_server.is_empty()) {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        if matches!(self.end, End::NotYet) {
            fds.push(PollFd::new(&self.server.ended, PollFlags::IN));
        }
        let deadline = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        // What is still to be sent waits for nothing but room.
        let busy = self.workspace.as_ref().is_some_and(Workspace::is_sending);
        let deadline = if busy && self.outbox.is_empty() { Some(Duration::ZERO) } else { deadline };
        let timeout = deadline.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(fds.first().is_some_and(|fd| fd.revents().contains(PollFlags::HUP)))
    }

    /// When something is due that no descriptor tells.
    fn deadline(&self) -> Option<Instant> {
        let end = match &self.end {
            End::NotYet => None,
            End::Draining { deadline, .. } | End::Told { deadline } => Some(*deadline),
        };
        let asking = self.asking.as_ref().map(|asking| asking.deadline);
        let stopping = self.stopping.as_ref().map(|stopping| stopping.deadline);
        [end, asking, stopping].into_iter().flatten().min()
    }

    /// Waits for the host of a copy. Nothing is on its way: whoever had this guest saved had all its
    /// answers. False where the stream is one that a copy keeps.
    fn reconnect(&mut self) -> Result<bool, Error> {
        if !self.stream.again()? {
            return Ok(false);
        }
        self.lost = false;
        empty(&mut self.inbox);
        self.outbox.clear();
        Ok(true)
    }

    /// True when frames came in.
    fn read_stream(&mut self) -> Result<bool, String> {
        if ENOUGH <= self.to_server.len() {
            return Ok(true);
        }
        let before = self.inbox.len();
        let input = self.stream.read(&mut self.inbox).map_err(|error| error.to_string())?;
        self.lost |= input == Input::Ended;
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut rest = inbox.as_slice();
        while let Some(frame) = frame::split(rest).map_err(|error| error.to_string())? {
            match linux::line(frame.payload) {
                Some(line) if self.server.stdin.is_some() => {
                    self.to_server.push(line);
                    self.to_server.push(b"\n");
                }
                // Its stdin is closed: nobody will read it.
                Some(_) => {}
                None => self.hear(frame.payload),
            }
            rest = frame.rest;
        }
        let more = rest.len() != before || inbox.len() != before;
        if rest.is_empty() {
            empty(&mut inbox);
        } else {
            let used = inbox.len() - rest.len();
            inbox.drain(..used);
        }
        self.inbox = inbox;
        Ok(more)
    }

    /// While much waits for the host, programs wait too.
    fn serve_net(&mut self) {
        if let Some(net) = self.net.as_mut().filter(|_| self.outbox.len() < ENOUGH) {
            net.serve(&mut self.outbox);
        }
    }

    /// Answers of the host and what it says of streams are the network's, the rest is for PID 1.
    fn hear(&mut self, payload: &[u8]) {
        if let Some(workspace) = &mut self.workspace
            && let Some(said) = linux::workspace::read(payload)
        {
            return workspace.take(said);
        }
        let Some(net) = &mut self.net else { return self.obey(payload) };
        if let Some((stream, said)) = linux::net::read(payload) {
            return net.said(stream, said, &mut self.outbox);
        }
        match message::parse(payload) {
            Ok(Message::Response(Response { id: Some(Id::Number(id)), outcome })) => {
                let outcome = outcome.map_err(|error| (error.code, error.message));
                if let Ok(id) = u64::try_from(id) {
                    net.answered(id, outcome, &mut self.outbox);
                }
            }
            Ok(Message::Response(_)) => {}
            _ => self.obey(payload),
        }
    }

    fn obey(&mut self, payload: &[u8]) {
        let (id, order) = match control::read(payload) {
            Ok(order) => order,
            Err(refusal) => return self.outbox.push(&refusal),
        };
        let answer = match order {
            Order::Info => control::answer(&id, &control::info(self.times)),
            Order::Health => control::answer(&id, &control::health()),
            Order::Freeze | Order::Exercise | Order::Wake(_) if self.asking.is_some() => {
                control::failure(&id, "programs have not answered the last request yet")
            }
            Order::Freeze => return self.ask(id, Word::Rehearse, REHEARSALS),
            Order::Exercise => return self.ask(id, Word::Exercise, 0),
            Order::Stop(stop) => {
                self.stop(stop);
                control::answer(&id, &())
            }
            Order::WorkspaceReady | Order::WorkspaceChanges => match &mut self.workspace {
                None => control::failure(&id, "this guest has no workspace"),
                Some(workspace) if order == Order::WorkspaceReady => workspace.ready_answer(&id),
                Some(workspace) => match workspace.send_changes(id) {
                    Ok(()) => return,
                    Err(refusal) => refusal,
                },
            },
            Order::Wake(wake) => match unique::renew(&wake) {
                Ok(()) => return self.awake(id, wake.entropy.is_some()),
                Err(error) => control::failure(&id, error.to_string()),
            },
        };
        self.outbox.push(&answer);
    }

    /// Only new randomness means that this is a copy; setting the clock alone concerns nobody.
    fn awake(&mut self, id: Id<'static>, copy: bool) {
        let hooks = if copy { self.hooks.tell(Word::Wake) } else { 0 };
        if let Some(net) = self.net.as_mut().filter(|_| copy) {
            net.forget();
        }
        if std::mem::take(&mut self.frozen) {
            signal_all(Signal::CONT);
        }
        let deadline = Instant::now() + WAKE;
        self.asking = Some(Asking { id, word: Word::Wake, hooks, left: 0, deadline });
    }

    /// Has programs do what makes them faster later.
    fn ask(&mut self, id: Id<'static>, word: Word, left: u32) {
        let hooks = self.hooks.tell(word);
        let time = if word == Word::Rehearse { REHEARSAL } else { EXERCISE };
        self.asking = Some(Asking { id, word, hooks, left, deadline: Instant::now() + time });
    }

    fn finish_asking(&mut self) {
        let owing = self.hooks.owing();
        let late = |asking: &mut Asking| asking.deadline < Instant::now();
        let Some(asking) = self.asking.take_if(|asking| owing == 0 || late(asking)) else { return };
        let answer = match asking.word {
            Word::Wake if owing != 0 => {
                let text = format!("{owing} programs did not seed their generators in time");
                control::failure(&asking.id, text)
            }
            Word::Wake => control::answer(&asking.id, &control::woken(asking.hooks)),
            Word::Exercise => control::answer(&asking.id, &()),
            // With no program to rehearse nobody would wake us before the deadline.
            Word::Rehearse if asking.left != 0 && owing == 0 && asking.hooks != 0 => {
                return self.ask(asking.id, asking.word, asking.left - 1);
            }
            Word::Rehearse => {
                signal_all(Signal::STOP);
                self.frozen = true;
                control::answer(&asking.id, &())
            }
        };
        self.outbox.push(&answer);
    }

    fn stop(&mut self, Stop { grace_ms }: Stop) {
        if self.stopping.is_some() {
            return;
        }
        self.to_server.clear();
        self.server.stdin = None;
        let grace = Duration::from_millis(grace_ms.into());
        let deadline = Instant::now() + grace;
        self.stopping = Some(Stopping { grace, next: Signal::TERM, deadline });
    }

    fn go_on_stopping(&mut self) {
        let now = Instant::now();
        let Some(stopping) = self.stopping.as_mut().filter(|stopping| stopping.deadline < now)
        else {
            return;
        };
        signal_all(stopping.next);
        stopping.next = Signal::KILL;
        stopping.deadline = now + stopping.grace.max(Duration::from_millis(1));
    }

    fn read_server(&mut self) {
        if ENOUGH <= self.outbox.len() {
            return;
        }
        read_lines(&mut self.server.stdout, &mut self.stdout, &mut self.outbox, pass_on);
        read_lines(&mut self.server.stderr, &mut self.stderr, &mut self.outbox, pass_to_log);
        if MAX_LINE < self.stdout.input().len() && self.killed.is_none() {
            self.killed = Some(format!("the server wrote a line of more than {MAX_LINE} bytes"));
            self.server.stdout = None;
            signal_all(Signal::KILL);
        }
        if MAX_STDERR_LINE < self.stderr.input().len() {
            let line = self.stderr.rest();
            pass_to_log(&line, &mut self.outbox);
        }
    }

    fn write_server(&mut self) {
        let Some(stdin) = &self.server.stdin else { return };
        if self.to_server.flush(stdin).is_err() {
            // The server closed it: it wants no more.
            self.to_server.clear();
            self.server.stdin = None;
        }
    }

    fn see_end(&mut self) {
        if matches!(self.end, End::NotYet) {
            let Some(ended) = self.read_ended() else { return };
            self.end = End::Draining { ended, deadline: Instant::now() + DRAIN };
        }
        if let End::Draining { ended, deadline } = self.end {
            let drained = self.server.stdout.is_none() && self.server.stderr.is_none();
            if drained || deadline < Instant::now() {
                let rest = self.stderr.rest();
                pass_to_log(&rest, &mut self.outbox);
                let pid = self.server.pid.as_raw_nonzero().get();
                let exit = ending::words(ended, pid, self.killed.take());
                self.outbox.push(&control::exit(&exit));
                self.end = End::Told { deadline: Instant::now() + FLUSH };
            }
        }
    }

    fn read_ended(&self) -> Option<Ended> {
        let mut fds = [PollFd::new(&self.server.ended, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())) != Ok(1) {
            return None;
        }
        let mut bytes = [0; ENDED_LEN];
        // Written at once, in a piece smaller than any pipe.
        let len = rustix::io::read(&self.server.ended, &mut bytes).ok()?;
        Ended::decode(bytes.get(..len)?)
    }
}

/// Reads what there is of one output and hands on whole lines; closes the pipe at its end.
fn read_lines(
    pipe: &mut Option<OwnedFd>,
    lines: &mut Lines,
    outbox: &mut Outgoing,
    hand_on: fn(&[u8], &mut Outgoing),
) {
    let Some(fd) = pipe else { return };
    let input = fill(fd.as_fd(), lines.input());
    lines.take(|line| hand_on(line, outbox));
    if !matches!(input, Ok(Input::Open)) {
        *pipe = None;
    }
}

/// A line of stdout. What is no JSON object or array can't be MCP: some servers greet people there.
fn pass_on(line: &[u8], outbox: &mut Outgoing) {
    match line.trim_ascii_start().first() {
        None => {}
        Some(b'{' | b'[') => match linux::wrap(line) {
            Ok(frame) => outbox.push(&frame),
            Err(error) => outbox.push(&control::log("error", error.to_string().as_bytes())),
        },
        Some(_) => outbox.push(&control::log("warning", line)),
    }
}

fn pass_to_log(line: &[u8], outbox: &mut Outgoing) {
    if !line.is_empty() {
        outbox.push(&control::log("info", line));
    }
}
