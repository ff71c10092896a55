//! One connection whose bytes are read and written by anything that can read and write.

use crate::linux;
use std::io::{self, Read, Write};
use unikraft_tool_executor::Stream;

/// A [`Stream`] made of a reader and a writer.
#[derive(Debug)]
pub(crate) struct Connection<R, W> {
    /// What the host sends.
    pub(crate) reader: R,
    /// What the host gets.
    pub(crate) writer: W,
}

impl<R: Read, W: Write> Stream for Connection<R, W> {
    type Error = io::Error;

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A host that dies resets its end. It hung up either way.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                read => return read,
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
    }
}

/// Serves frames on stdin and stdout until stdin ends.
pub(crate) fn serve() -> io::Result<()> {
    let machine = linux::Machine::look();
    let mut connection = Connection { reader: io::stdin().lock(), writer: io::stdout().lock() };
    unikraft_tool_executor::serve(&mut connection, &machine.facts())
}
