//! Lines instead of a screen: `osvm ask`, `osvm plan`, and the chat where there is no screen.
//!
//! # Invariants
//!
//! - stdout has answers, or with `--json` events, one on a line; everything else is on stderr.
//! - On a terminal the model's words are written as they come, whether or not calls follow them. A
//!   pipe gets the answer alone, when it is there.

use super::calls::{Calls, planned};
use super::feed::{Answer, Feed, Happening, Outcome, Question, Work};
use super::session::Session;
use super::slash::{self, Said};
use super::words;
use crate::command::Status;
use crate::failure::Failure;
use crate::printer::Printer;
use osvm_agent::conversation::Message;
use osvm_agent::{Event, MAX_PROMPT, Usage};
use osvm_supervisor::Failure as NoAnswer;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use signal_hook::consts::SIGINT;
use std::collections::VecDeque;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Instant;

/// What is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Events as JSON.
    pub(crate) json: bool,
    /// Whether a person types and reads.
    pub(crate) person: bool,
}

/// How one piece of work ended.
enum End {
    Answered(Box<RawValue>),
    Failed(NoAnswer),
    /// A signal; with the second one, or one that is not Ctrl-C, nobody waits for more.
    Left(i32),
}

/// Prints what happens.
pub(crate) struct Plain<'s> {
    session: &'s Session,
    happenings: &'s Receiver<Happening>,
    printer: Printer,
    look: Look,
    calls: Calls,
    usage: Usage,
    questions: VecDeque<Question>,
    /// Lines that were typed while the agent worked.
    typed: VecDeque<String>,
    ended: bool,
    /// Whether the last call that ended did so with an error.
    failed: bool,
    /// Whether the model's words are written as they come.
    streams: bool,
    /// Whether it has said something since its last call.
    said: bool,
    /// Whether what was written last is to go on.
    open: bool,
}

impl<'s> Plain<'s> {
    /// One that prints as `look` says.
    pub(crate) fn new(
        session: &'s Session,
        happenings: &'s Receiver<Happening>,
        printer: Printer,
        look: Look,
    ) -> Self {
        Self {
            session,
            happenings,
            printer,
            look,
            calls: Calls::default(),
            usage: Usage::default(),
            questions: VecDeque::new(),
            typed: VecDeque::new(),
            ended: false,
            failed: false,
            streams: !look.json && io::stdout().is_terminal(),
            said: false,
            open: false,
        }
    }

    /// One that hears what is typed from now on.
    pub(crate) fn hearing(self, feed: &Feed) -> Result<Self, Failure> {
        read_lines(feed)?;
        Ok(self)
    }

    /// One piece of work, as a whole command.
    pub(crate) fn once(mut self, work: Work, verbose: bool) -> Result<Status, Failure> {
        let plan = matches!(work, Work::Plan(_));
        if !self.look.json {
            self.printer.note(&self.session.status.text());
        }
        let end = self.work(work)?;
        if verbose {
            self.printer.note(&self.session.model_words(self.usage));
        }
        match end {
            End::Answered(answer) => {
                if self.look.json {
                    self.json(&json!({"outcome": answer}))?;
                } else {
                    let Outcome { text, calls, .. } = Outcome::read(&answer);
                    self.result(&text)?;
                    if text.is_empty() && plan && calls == 0 {
                        self.note("nothing would be called")?;
                    }
                }
                // Without a model the tool is what was asked.
                let tool_failed = self.failed && !self.session.has_model();
                Ok(if tool_failed { Status::ToolFailed } else { Status::Success })
            }
            End::Left(signal) => Ok(interrupted(signal)),
            End::Failed(failure) if failure.code == NoAnswer::CANCELLED => Ok(interrupted(SIGINT)),
            End::Failed(failure) => {
                let NoAnswer { code, message } = &failure;
                if self.look.json {
                    self.json(&json!({"error": {"code": code, "message": message}}))?;
                }
                Err(Failure::new("agent", words::beginning(&words::clean(message))))
            }
        }
    }

    /// A conversation, until its lines end.
    pub(crate) fn chat(mut self, feed: &Feed) -> Result<Status, Failure> {
        self.printer.note(&self.session.greeting());
        self.printer.note(&self.session.status.text());
        read_lines(feed)?;
        loop {
            if self.look.person && self.typed.is_empty() {
                self.printer.question("› ");
            }
            let line = match self.next_line()? {
                Ok(line) => line,
                Err(status) => return Ok(status),
            };
            match slash::read(&line) {
                Said::Nothing => {}
                Said::Exit => return Ok(Status::Success),
                Said::Wrong(why) => self.printer.note(&why),
                Said::Show(what) => {
                    let text = self.session.show(what, &self.calls.list(), self.usage);
                    self.printer.note(&text);
                }
                Said::Work(work) => match self.work(work)? {
                    End::Left(signal) => return Ok(interrupted(signal)),
                    End::Answered(answer) => {
                        let Outcome { text, .. } = Outcome::read(&answer);
                        self.result(&text)?;
                        self.printer.note(&self.session.status.text());
                    }
                    End::Failed(failure) if failure.code == NoAnswer::CANCELLED => {
                        self.printer.note("cancelled; its virtual machines are destroyed");
                    }
                    End::Failed(failure) if failure.code == 0 => {
                        return Err(Failure::new("agent", words::clean(&failure.message)));
                    }
                    End::Failed(failure) => {
                        self.printer
                            .failure(&Failure::new("agent", words::clean(&failure.message)));
                    }
                },
            }
        }
    }

    /// The next line that was typed, or how to leave.
    fn next_line(&mut self) -> Result<Result<String, Status>, Failure> {
        loop {
            if let Some(line) = self.typed.pop_front() {
                return Ok(Ok(line));
            }
            if self.ended {
                return Ok(Err(Status::Success));
            }
            match self.happenings.recv() {
                Ok(Happening::Signal(SIGINT)) | Err(_) => return Ok(Err(Status::Success)),
                Ok(Happening::Signal(signal)) => return Ok(Err(interrupted(signal))),
                Ok(Happening::Gone) => return Err(Failure::new("agent", "the agent is gone")),
                Ok(happening) => self.take(happening)?,
            }
        }
    }

    /// Has the agent do something, and prints what happens meanwhile.
    fn work(&mut self, work: Work) -> Result<End, Failure> {
        self.session.begin(work);
        self.said = false;
        let mut interrupted = false;
        loop {
            match self.happenings.recv() {
                Err(_) => return Ok(End::Left(SIGINT)),
                Ok(Happening::Answered(Ok(answer))) => return Ok(End::Answered(answer)),
                Ok(Happening::Answered(Err(failure))) => {
                    self.end_line()?;
                    return Ok(End::Failed(failure));
                }
                Ok(Happening::Signal(SIGINT)) if !interrupted => {
                    interrupted = true;
                    self.note("cancelling …")?;
                    self.answer(Answer::No);
                    self.session.cancel();
                }
                Ok(Happening::Signal(signal)) => return Ok(End::Left(signal)),
                Ok(happening) => self.take(happening)?,
            }
        }
    }

    fn take(&mut self, happening: Happening) -> Result<(), Failure> {
        match happening {
            Happening::Event(event) => self.event(&event)?,
            Happening::Asked(question) => {
                self.end_line()?;
                self.ask(question);
            }
            Happening::Line(line) => {
                self.questions.retain(|question| !question.is_over());
                if self.questions.is_empty() {
                    self.typed.push_back(line);
                } else if let Some(answer) = self.answer_of(&line) {
                    self.answer(answer);
                } else {
                    self.show_question();
                }
            }
            Happening::InputEnded => {
                self.ended = true;
                while !self.questions.is_empty() {
                    self.answer(Answer::No);
                }
            }
            // Whoever waits for an answer hears that there is none.
            Happening::Gone | Happening::Key(_) | Happening::Signal(_) => {}
            Happening::Answered(_) => {}
        }
        Ok(())
    }

    fn ask(&mut self, question: Question) {
        let nobody = self.ended;
        self.questions.push_back(question);
        if nobody {
            self.answer(Answer::No);
        } else if self.questions.len() == 1 {
            self.show_question();
        }
    }

    fn show_question(&self) {
        if let Some(question) = self.questions.front() {
            let lines = words::clean(&question.lines.join("\n"));
            let always = if question.always { ", [a]lways in this session" } else { "" };
            self.printer.question(&format!("{lines}\n[y]es, [n]o{always}? "));
        }
    }

    /// What a line answers to the oldest question.
    fn answer_of(&self, line: &str) -> Option<Answer> {
        self.questions.front().and_then(|question| question.read(line))
    }

    /// Answers the oldest question, and shows the next.
    fn answer(&mut self, answer: Answer) {
        if let Some(question) = self.questions.pop_front() {
            question.answer(answer);
        }
        self.show_question();
    }

    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        let done = self.calls.take(event, Instant::now());
        if let Some(done) = &done {
            self.failed = done.is_error;
        }
        if let Event::Usage { usage } = event {
            self.usage.input_tokens += usage.input_tokens;
            self.usage.output_tokens += usage.output_tokens;
        }
        if self.look.json {
            return self.json(event);
        }
        match event {
            Event::Text { text } if self.streams => {
                self.printer.piece(&words::clean(text))?;
                self.said = true;
                self.open = !text.ends_with('\n');
            }
            Event::CallStarted { .. } => self.said = false,
            Event::Plan { calls, .. } => {
                for call in calls {
                    self.note(&format!("→ {}", planned(call)))?;
                }
            }
            Event::Note { message } => self.note(&format!("· {}", words::clean(message)))?,
            Event::Message { message: Message::Assistant { text, calls } }
                if !self.streams && !calls.is_empty() && !text.is_empty() =>
            {
                self.note(&words::beginning(&words::clean(text)))?;
            }
            _ => {}
        }
        if let Some(done) = done {
            self.note(&done.words())?;
            if let Some(why) = done.why() {
                self.note(&why)?;
            }
        }
        Ok(())
    }

    /// Writes the answer, unless it was written as it came.
    fn result(&mut self, text: &str) -> Result<(), Failure> {
        self.end_line()?;
        if self.said || text.is_empty() { Ok(()) } else { self.printer.result(text) }
    }

    /// Writes a line for people.
    fn note(&mut self, text: &str) -> Result<(), Failure> {
        self.end_line()?;
        self.printer.note(text);
        Ok(())
    }

    /// Ends the line that was to go on.
    fn end_line(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.open) { self.printer.piece("\n") } else { Ok(()) }
    }

    fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.printer.json(value)
    }
}

fn interrupted(signal: i32) -> Status {
    Status::Interrupted(u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128)))
}

/// Puts the lines of stdin into the queue.
fn read_lines(feed: &Feed) -> Result<(), Failure> {
    let feed = feed.clone();
    let read = move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            // One byte more than a prompt may have, so that the agent says what is wrong with it.
            let longest = u64::try_from(MAX_PROMPT).unwrap_or(u64::MAX).saturating_add(2);
            let read = stdin.by_ref().take(longest).read_until(b'\n', &mut line);
            if !matches!(read, Ok(1..)) {
                let _told = feed.send(Happening::InputEnded);
                return;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            if feed.send(Happening::Line(line)).is_err() {
                return;
            }
        }
    };
    let cannot = |error| Failure::new("host", "cannot read stdin").caused_by(&error);
    thread::Builder::new().name("lines".into()).spawn(read).map_err(cannot)?;
    Ok(())
}
