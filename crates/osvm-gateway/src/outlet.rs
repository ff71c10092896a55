//! The way to the client: one message a line, whole or not at all.
//!
//! # Invariants
//!
//! - A message is one line, whatever line breaks stand between the tokens of what is passed on.
//! - Whether a message may still be sent is asked when it is its turn, not when it was made.
//! - A client that does not read stops whoever wants to write, so nothing piles up.

use rmcp::model::ErrorCode;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes collected before they are written.
const BUFFER: usize = 64 * 1024;

/// What a response looks like from outside, which its first message decides.
pub(crate) trait Head: Send + Sync {
    /// The next message is the last one; an error with that code, if there is one.
    fn last(&self, code: Option<ErrorCode>);

    /// More messages follow the next one. `false` when the response has no room for several.
    fn more(&self) -> bool;
}

/// Writes messages. Several threads may send at once.
pub(crate) struct Outlet {
    to: Mutex<BufWriter<Box<dyn Write + Send>>>,
    broken: AtomicBool,
    on_break: Box<dyn Fn() + Send + Sync>,
    head: Option<Arc<dyn Head>>,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl Outlet {
    /// Writes to `to`, and calls `on_break` when that fails.
    pub(crate) fn new(
        to: impl Write + Send + 'static,
        on_break: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let to: Box<dyn Write + Send> = Box::new(to);
        Self {
            to: Mutex::new(BufWriter::with_capacity(BUFFER, to)),
            broken: AtomicBool::new(false),
            on_break: Box::new(on_break),
            head: None,
        }
    }

    /// Tells `head` what is about to be sent.
    pub(crate) fn with_head(self, head: Arc<dyn Head>) -> Self {
        Self { head: Some(head), ..self }
    }

    /// Sends the answer to a request, if `wanted` says so when it is its turn. `code` is that of
    /// an error of the protocol.
    pub(crate) fn answer(
        &self,
        wanted: impl FnOnce() -> bool,
        code: Option<ErrorCode>,
        message: &impl Serialize,
    ) {
        let wanted = || {
            let wanted = wanted();
            if let Some(head) = self.head.as_ref().filter(|_| wanted) {
                head.last(code);
            }
            wanted
        };
        self.write(wanted, message);
    }

    /// Sends what is not the answer to a request, if `wanted` says so when it is its turn.
    /// Whether it was sent.
    pub(crate) fn send(&self, wanted: impl FnOnce() -> bool, message: &impl Serialize) -> bool {
        self.write(|| wanted() && self.head.as_ref().is_none_or(|head| head.more()), message)
    }

    fn write(&self, wanted: impl FnOnce() -> bool, message: &impl Serialize) -> bool {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if self.broken.load(Ordering::SeqCst) || !wanted() {
            return false;
        }
        let written = serde_json::to_writer(OneLine(&mut *to), message).map_err(io::Error::from);
        // Half a message can't be taken back, so after a failure there is no next one.
        if written.and_then(|()| to.write_all(b"\n")).and_then(|()| to.flush()).is_err() {
            self.broken.store(true, Ordering::SeqCst);
            drop(to);
            (self.on_break)();
            return false;
        }
        true
    }
}

/// Turns line breaks into spaces. In JSON they can only stand between tokens.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            match piece.split_last() {
                Some((b'\n' | b'\r', text)) => {
                    self.0.write_all(text)?;
                    self.0.write_all(b" ")?;
                }
                _ => self.0.write_all(piece)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;
    use std::sync::atomic::AtomicUsize;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_tool_wrote_over_several_lines_is_sent_as_one() {
        let sink = Sink::default();
        let outlet = Outlet::new(sink.clone(), || panic!("nothing broke"));
        let raw = RawValue::from_string("{\r\n \"a\":\n 1.0e2,\"b\":\"\\n\"}".into()).unwrap();
        outlet.send(|| true, &raw);
        outlet.send(|| false, &raw);
        let sent = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(sent, "{   \"a\":  1.0e2,\"b\":\"\\n\"}\n");
    }

    #[test]
    fn after_a_failure_nothing_more_is_written() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let breaks = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&breaks);
        let outlet = Outlet::new(Closed, move || _ = counter.fetch_add(1, Ordering::SeqCst));
        assert!(!outlet.send(|| true, &1));
        outlet.send(|| panic!("nobody listens any more"), &2);
        assert_eq!(breaks.load(Ordering::SeqCst), 1);
    }
}
