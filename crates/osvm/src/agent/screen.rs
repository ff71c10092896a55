//! The full screen: keys in, pictures out. What they mean is in [`Chat`], how they look in `draw`.
//!
//! # Invariants
//!
//! - However the loop ends, the terminal is as it was before.
//! - While the screen is drawn, what else would be written to stderr goes to a file.

use super::chat::{Chat, Kind};
use super::draw;
use super::feed::{Answer, Feed, Happening, Outcome, Work};
use super::session::Session;
use super::slash::{self, Said};
use crate::command::Status;
use crate::failure::Failure;
use osvm_agent::Event;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event as Key, KeyCode, KeyEvent,
    KeyEventKind, KeyModifiers,
};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use signal_hook::consts::SIGINT;
use std::fs::File;
use std::io::{self, Stdout, stdout};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at what runs.
const TICK: Duration = Duration::from_millis(250);

/// Happenings that are taken before the next picture.
const AT_ONCE: usize = 512;

/// Lines of a page, for a terminal that scrolls by pages.
const PAGE: usize = 10;

/// The terminal, while it belongs to us.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    stderr: Option<OwnedFd>,
}

impl Screen {
    fn open(log: &Path) -> io::Result<Self> {
        // Whatever is written there would be written into the picture.
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let log = File::options().create(true).append(true).open(log)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        rustix::stdio::dup2_stderr(&log)?;
        let screen = Self { terminal, stderr: Some(stderr) };
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _gone = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen);
        let _gone = disable_raw_mode();
        let _gone = self.terminal.show_cursor();
        if let Some(stderr) = self.stderr.take() {
            let _gone = rustix::stdio::dup2_stderr(stderr);
        }
    }
}

/// What the loop does next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Leave,
    LeaveWith(u8),
}

/// Runs the session until somebody leaves.
pub(crate) fn run(
    session: &Session,
    feed: &Feed,
    happenings: &Receiver<Happening>,
    colors: bool,
    log: &Path,
) -> Result<Status, Failure> {
    let cannot = |error| Failure::new("terminal", "cannot use the terminal").caused_by(&error);
    let mut chat = Chat::new(colors);
    chat.resume(&session.before);
    chat.add(Kind::Note, &session.greeting());
    let mut screen = Screen::open(log).map_err(cannot)?;
    let keys = feed.clone();
    let read = move || {
        while let Ok(key) = event::read() {
            if keys.send(Happening::Key(key)).is_err() {
                return;
            }
        }
        let _told = keys.send(Happening::InputEnded);
    };
    thread::Builder::new().name("keys".into()).spawn(read).map_err(cannot)?;
    let mut view = View { session, chat, streamed: false, stale: true };
    let mut looked = Instant::now();
    loop {
        let now = Instant::now();
        if view.stale || TICK <= now.saturating_duration_since(looked) {
            view.look();
            looked = now;
        }
        let mut scroll = 0;
        let drawn = screen.terminal.draw(|frame| scroll = draw::draw(&view.chat, now, frame));
        if drawn.is_err() {
            // Nobody sees anything any more.
            return Ok(Status::Success);
        }
        view.chat.scroll = scroll;
        let mut next = match happenings.recv_timeout(TICK) {
            Ok(happening) => view.take(happening),
            Err(RecvTimeoutError::Timeout) => Next::Go,
            Err(RecvTimeoutError::Disconnected) => Next::Leave,
        };
        for happening in happenings.try_iter().take(AT_ONCE) {
            if next == Next::Go {
                next = view.take(happening);
            }
        }
        match next {
            Next::Go => {}
            Next::Leave => return Ok(Status::Success),
            Next::LeaveWith(code) => return Ok(Status::Interrupted(code)),
        }
    }
}

struct View<'s> {
    session: &'s Session,
    chat: Chat,
    /// Whether the model has said something since its last call.
    streamed: bool,
    /// Whether what was seen of the virtual machines has changed since.
    stale: bool,
}

impl View<'_> {
    /// Looks at what runs.
    fn look(&mut self) {
        self.stale = false;
        self.chat.status = self.session.status.text();
        if !self.chat.calls.running().is_empty() {
            self.chat.calls.see(&self.session.status.guests(), std::process::id());
        }
        self.chat.drop_over();
    }

    fn take(&mut self, happening: Happening) -> Next {
        let now = Instant::now();
        match happening {
            Happening::Event(event) => {
                match &event {
                    Event::Text { .. } => self.streamed = true,
                    Event::Plan { .. } => self.streamed = false,
                    Event::CallEnded { .. } => self.stale = true,
                    _ => {}
                }
                self.chat.take(&event, now);
            }
            Happening::Asked(question) => self.chat.questions.push_back(question),
            Happening::Answered(answer) => {
                self.stale = true;
                let answer = answer.map(|answer| Outcome::read(&answer));
                self.chat.answered(&answer, self.streamed);
            }
            Happening::Gone => {
                self.chat.busy = None;
                self.chat.add(Kind::Error, "the agent is gone; `/exit` leaves");
            }
            Happening::Key(Key::Key(key)) if key.kind != KeyEventKind::Release => {
                return self.key(key);
            }
            Happening::Key(Key::Paste(text)) => {
                if let Some(note) = self.chat.editor.insert(&text) {
                    self.chat.add(Kind::Note, &note);
                }
            }
            // Another size: the next picture has it.
            Happening::Key(_) | Happening::Line(_) => {}
            Happening::InputEnded => return Next::Leave,
            Happening::Signal(SIGINT) => return self.interrupt(),
            Happening::Signal(signal) => {
                let code =
                    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128));
                return Next::LeaveWith(code);
            }
        }
        Next::Go
    }

    fn interrupt(&mut self) -> Next {
        if self.chat.busy.is_none() || self.chat.cancelling {
            return if self.chat.editor.clear() { Next::Go } else { Next::Leave };
        }
        self.chat.cancelling = true;
        for question in self.chat.questions.drain(..) {
            question.answer(Answer::No);
        }
        self.session.cancel();
        Next::Go
    }

    fn key(&mut self, key: KeyEvent) -> Next {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        if control && key.code == KeyCode::Char('c') {
            return self.interrupt();
        }
        if let (Some(question), KeyCode::Char(letter)) = (self.chat.question(), key.code) {
            if let Some(answer) = question.read(&letter.to_string()).filter(|_| !control) {
                question.answer(answer);
                self.chat.questions.pop_front();
            }
            return Next::Go;
        }
        let editor = &mut self.chat.editor;
        match key.code {
            KeyCode::Char('d') if control => {
                if editor.text().is_empty() {
                    return Next::Leave;
                }
                editor.delete();
            }
            KeyCode::Char('j') if control => _ = editor.insert("\n"),
            KeyCode::Enter if alt => _ = editor.insert("\n"),
            KeyCode::Char('a') if control => editor.home(),
            KeyCode::Char('e') if control => editor.end(),
            KeyCode::Char('u') if control => editor.cut_head(),
            KeyCode::Char('w') if control => editor.backspace_word(),
            KeyCode::Char('p') if control => editor.older(),
            KeyCode::Char('n') if control => editor.newer(),
            KeyCode::Char(_) if control => {}
            KeyCode::Char(letter) => {
                let note = editor.insert(letter.encode_utf8(&mut [0; 4]));
                note.into_iter().for_each(|note| self.chat.add(Kind::Note, &note));
            }
            KeyCode::Backspace => editor.backspace(),
            KeyCode::Delete => editor.delete(),
            KeyCode::Left => editor.left(),
            KeyCode::Right => editor.right(),
            KeyCode::Home => editor.home(),
            KeyCode::End => editor.end(),
            KeyCode::Up => editor.older(),
            KeyCode::Down => editor.newer(),
            KeyCode::PageUp => self.chat.scroll = self.chat.scroll.saturating_add(PAGE),
            KeyCode::PageDown => self.chat.scroll = self.chat.scroll.saturating_sub(PAGE),
            KeyCode::Enter => return self.enter(),
            _ => {}
        }
        Next::Go
    }

    fn enter(&mut self) -> Next {
        // What is typed meanwhile stays until the agent can hear it; leaving is always possible.
        let said = slash::read(self.chat.editor.text());
        if self.chat.busy.is_some() && matches!(said, Said::Work(_)) {
            self.chat.add(Kind::Note, "the agent is at work; Ctrl-C cancels it");
            return Next::Go;
        }
        let typed = self.chat.editor.take();
        match said {
            Said::Nothing => {}
            Said::Exit => return Next::Leave,
            Said::Wrong(why) => self.chat.add(Kind::Error, &why),
            Said::Show(what) => {
                let text = self.session.show(what, &self.chat.calls.list(), self.chat.usage);
                self.chat.add(Kind::Note, &text);
            }
            Said::Work(work) => {
                if !matches!(work, Work::Clear) {
                    self.chat.add(Kind::Person, &typed);
                }
                self.streamed = false;
                self.chat.begin(Instant::now());
                self.session.begin(work);
            }
        }
        Next::Go
    }
}
