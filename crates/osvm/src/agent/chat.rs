//! What the full screen shows, as data: the conversation, the calls, a question, the input.

use super::calls::{Calls, Done, planned};
use super::editor::Editor;
use super::feed::{Outcome, Question};
use super::words;
use osvm_agent::conversation::Message;
use osvm_agent::{Event, Usage};
use osvm_supervisor::Failure as NoAnswer;
use std::collections::VecDeque;
use std::time::Instant;

/// Entries of the conversation that are kept on the screen.
const MOST: usize = 1000;

/// Everything that is shown.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    /// The conversation.
    pub(crate) entries: VecDeque<Entry>,
    /// The calls.
    pub(crate) calls: Calls,
    /// What waits for an answer, oldest first.
    pub(crate) questions: VecDeque<Question>,
    /// What is being typed.
    pub(crate) editor: Editor,
    /// The status line.
    pub(crate) status: String,
    /// Since when the agent works.
    pub(crate) busy: Option<Instant>,
    /// Whether what it does is being ended.
    pub(crate) cancelling: bool,
    /// Lines between the end of the conversation and the lowest one that is shown.
    pub(crate) scroll: usize,
    /// Whether there are colors.
    pub(crate) colors: bool,
    /// Tokens so far.
    pub(crate) usage: Usage,
    /// Whether the last entry grows with what the model says.
    open: bool,
}

/// One part of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whose it is.
    pub(crate) kind: Kind,
    /// The text, cleaned.
    pub(crate) text: String,
}

/// Whose a part of the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The person's.
    Person,
    /// The agent's.
    Agent,
    /// A plan or a call.
    Call,
    /// Something of osvm's own.
    Note,
    /// Something that failed.
    Error,
}

impl Chat {
    /// An empty one.
    pub(crate) fn new(colors: bool) -> Self {
        Self { colors, ..Self::default() }
    }

    /// Adds a part.
    pub(crate) fn add(&mut self, kind: Kind, text: &str) {
        self.open = false;
        self.push(kind, words::beginning(&words::clean(text.trim_end())));
    }

    fn push(&mut self, kind: Kind, text: String) {
        self.entries.push_back(Entry { kind, text });
        if MOST < self.entries.len() {
            self.entries.pop_front();
        }
    }

    /// Shows what was said in a session that goes on.
    pub(crate) fn resume(&mut self, messages: &[Message]) {
        for message in messages {
            match message {
                Message::User { text } => {
                    self.add(Kind::Person, text);
                    self.editor.remember(&words::clean(text));
                }
                Message::Assistant { text, calls } => {
                    if !text.is_empty() {
                        self.add(Kind::Agent, text);
                    }
                    for call in calls {
                        self.add(Kind::Call, &format!("· {}", words::brief(&call.name, 80)));
                    }
                }
                Message::Tools { .. } => {}
            }
        }
    }

    /// The agent begins to work.
    pub(crate) fn begin(&mut self, now: Instant) {
        (self.busy, self.cancelling, self.scroll) = (Some(now), false, 0);
    }

    /// Takes what the agent told.
    pub(crate) fn take(&mut self, event: &Event, now: Instant) {
        if let Some(done) = self.calls.take(event, now) {
            self.done(&done);
        }
        match event {
            Event::Text { text } => self.say(text),
            Event::Plan { calls, .. } => {
                let lines: Vec<String> =
                    calls.iter().map(|call| format!("→ {}", planned(call))).collect();
                self.add(Kind::Call, &lines.join("\n"));
            }
            Event::Note { message } => self.add(Kind::Note, message),
            Event::Message { .. } => self.open = false,
            Event::Cleared {} => {
                self.entries.clear();
                self.add(Kind::Note, "the conversation is forgotten");
            }
            Event::Usage { usage } => {
                self.usage.input_tokens += usage.input_tokens;
                self.usage.output_tokens += usage.output_tokens;
            }
            Event::CallStarted { .. } | Event::CallProgress { .. } | Event::CallEnded { .. } => {}
        }
    }

    fn done(&mut self, done: &Done) {
        let mut text = done.words();
        if let Some(why) = done.why() {
            text.push('\n');
            text.push_str(&why);
        }
        self.add(if done.is_error { Kind::Error } else { Kind::Call }, &text);
    }

    /// A piece of an answer.
    fn say(&mut self, text: &str) {
        if !self.open {
            self.push(Kind::Agent, String::new());
            self.open = true;
        }
        if let Some(entry) = self.entries.back_mut()
            && entry.text.len() < words::SHOWN
        {
            entry.text.push_str(&words::clean(text));
        }
    }

    /// The agent is done.
    pub(crate) fn answered(&mut self, answer: &Result<Outcome, NoAnswer>, streamed: bool) {
        (self.busy, self.open) = (None, false);
        self.calls.forget_running();
        match answer {
            Ok(outcome) if !streamed && !outcome.text.is_empty() => {
                self.add(Kind::Agent, &outcome.text);
            }
            Ok(_) => {}
            Err(failure) if failure.code == NoAnswer::CANCELLED => {
                self.add(Kind::Note, "cancelled; its virtual machines are destroyed");
            }
            Err(failure) => self.add(Kind::Error, &failure.message),
        }
    }

    /// The question that is to be answered first.
    pub(crate) fn question(&self) -> Option<&Question> {
        self.questions.front()
    }

    /// Drops questions for which nobody waits any more.
    pub(crate) fn drop_over(&mut self) {
        self.questions.retain(|question| !question.is_over());
    }
}
