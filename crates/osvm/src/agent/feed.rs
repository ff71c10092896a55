//! Everything that happens in a session, in one queue.

use crate::failure::Failure;
use osvm_agent::Event;
use osvm_supervisor::Failure as NoAnswer;
use ratatui::crossterm::event::Event as Key;
use serde::Deserialize;
use serde_json::value::RawValue;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

/// Happenings that wait to be seen. An agent that tells more has to wait.
const WAITING: usize = 1024;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The agent told something.
    Event(Event),
    /// Somebody has to answer.
    Asked(Question),
    /// The agent is done with what it was given.
    Answered(Result<Box<RawValue>, NoAnswer>),
    /// The agent is gone.
    Gone,
    /// A key, a paste, another size of the terminal.
    Key(Key),
    /// A line was typed.
    Line(String),
    /// Nothing more is typed.
    InputEnded,
    /// A signal.
    Signal(i32),
}

/// The way into the queue.
pub(crate) type Feed = SyncSender<Happening>;

/// A queue.
pub(crate) fn feed() -> (Feed, Receiver<Happening>) {
    mpsc::sync_channel(WAITING)
}

/// What a person can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This once.
    Yes,
    /// Not this.
    No,
    /// Yes, and so for all of the kind until osvm ends.
    Always,
}

impl Answer {
    /// The answer that was typed.
    fn of(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Some(Self::Yes),
            "n" | "no" | "" => Some(Self::No),
            "a" | "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// A question that waits for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    /// What it is about, a line each.
    pub(crate) lines: Vec<String>,
    /// Whether "always" is an answer to it.
    pub(crate) always: bool,
    /// Where the answer goes.
    pub(crate) reply: SyncSender<Answer>,
    /// Whether nobody waits for the answer any more.
    pub(crate) over: Arc<AtomicBool>,
}

impl Question {
    /// Answers it.
    pub(crate) fn answer(&self, answer: Answer) {
        // Whoever asked may have given up.
        let _told = self.reply.try_send(answer);
    }

    /// The answer that was typed, if it is one to this question.
    pub(crate) fn read(&self, text: &str) -> Option<Answer> {
        Answer::of(text).filter(|answer| self.always || *answer != Answer::Always)
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// What the agent can be given to do.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Answer this.
    Prompt(String),
    /// Say what would be called.
    Plan(String),
    /// Call this.
    Call {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// A JSON object.
        arguments: Box<RawValue>,
    },
    /// Forget what was said.
    Clear,
}

/// What a prompt came to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    /// The answer.
    pub(crate) text: String,
    /// Calls.
    pub(crate) calls: u32,
}

impl Outcome {
    /// Reads what the agent sent; one that makes no sense says nothing.
    pub(crate) fn read(answer: &RawValue) -> Self {
        serde_json::from_str(answer.get()).unwrap_or_default()
    }
}

/// Puts signals that end something into the queue instead of letting them end osvm.
pub(crate) fn watch_signals(feed: &Feed) -> Result<(), Failure> {
    let cannot = |error| Failure::new("host", "cannot watch for signals").caused_by(&error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
    let feed = feed.clone();
    let watch = move || {
        for signal in signals.forever() {
            if feed.send(Happening::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(watch).map_err(cannot)?;
    Ok(())
}
