//! Connections from the host over vsock, each served by a thread of its own.

use crate::linux;
use crate::stdio::Connection;
use osvm_protocol::PORT;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Connections served at once. One host opens one, so more of them are nobody we wait for.
const MAX_CONNECTIONS: usize = 64;

/// Serves connections until the program is ended.
pub(crate) fn serve() -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)
        .map_err(|error| describe(&error))?;
    let machine = Arc::new(linux::Machine::look());
    let served = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        let slot = Slot::take(&served);
        if slot.is_full() {
            // Dropping the stream hangs up.
            continue;
        }
        let machine = Arc::clone(&machine);
        let spawned = thread::Builder::new().spawn(move || {
            serve_one(stream, &machine);
            drop(slot);
        });
        if let Err(error) = spawned {
            // The stream went with the closure, so this host is hung up on; the next may fare better.
            crate::complain(&format_args!("cannot serve a connection: {error}"));
        }
    }
}

fn serve_one(stream: VsockStream, machine: &linux::Machine) {
    let mut connection = Connection { reader: &stream, writer: &stream };
    // A host that is gone needs no answer, and nobody else is concerned.
    let _gone = unikraft_tool_executor::serve(&mut connection, &machine.facts());
}

/// One of [`MAX_CONNECTIONS`], given back when dropped.
struct Slot {
    served: Arc<AtomicUsize>,
    before: usize,
}

impl Slot {
    fn take(served: &Arc<AtomicUsize>) -> Self {
        let before = served.fetch_add(1, Ordering::Relaxed);
        Self { served: Arc::clone(served), before }
    }

    fn is_full(&self) -> bool {
        MAX_CONNECTIONS <= self.before
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.served.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Errors of one connection attempt, which say nothing about the next.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

fn describe(error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "cannot listen on vsock port {PORT}: {error}\n\n\
             hint: this is for guests with a vsock device; use `--stdio` elsewhere"
        ),
    )
}
