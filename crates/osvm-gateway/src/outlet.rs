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
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes collected before they are written.
const BUFFER: usize = 64 * 1024;

/// Writes messages. Several threads may send at once.
pub(crate) struct Outlet {
    to: Mutex<BufWriter<Box<dyn Write + Send>>>,
    broken: AtomicBool,
    on_break: Box<dyn Fn() + Send + Sync>,
    refused: Option<Arc<AtomicI32>>,
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
            refused: None,
        }
    }

    /// Writes down in `refused` the code of an error before the error is sent.
    pub(crate) fn noting(self, refused: Arc<AtomicI32>) -> Self {
        Self { refused: Some(refused), ..self }
    }

    /// A request is about to be refused with `code`.
    pub(crate) fn note_refused(&self, code: ErrorCode) {
        if let Some(refused) = &self.refused {
            refused.store(code.0, Ordering::SeqCst);
        }
    }

    /// Sends one message, if `wanted` says so when it is its turn.
    pub(crate) fn send(&self, wanted: impl FnOnce() -> bool, message: &impl Serialize) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if self.broken.load(Ordering::SeqCst) || !wanted() {
            return;
        }
        let written = serde_json::to_writer(OneLine(&mut *to), message).map_err(io::Error::from);
        // Half a message can't be taken back, so after a failure there is no next one.
        if written.and_then(|()| to.write_all(b"\n")).and_then(|()| to.flush()).is_err() {
            self.broken.store(true, Ordering::SeqCst);
            drop(to);
            (self.on_break)();
        }
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
        outlet.send(|| true, &1);
        outlet.send(|| panic!("nobody listens any more"), &2);
        assert_eq!(breaks.load(Ordering::SeqCst), 1);
    }
}
