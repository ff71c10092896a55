//! One guest under Firecracker: started, connected to, killed, reaped.
//!
//! ```text
//! start: files, console ──▶ guard ──exec──▶ Firecracker   (VmProcess)
//! connect: claim the socket ──▶ "CONNECT 5252" ──▶ "OK port"  (GuestStream)
//! drop: kill, reap, join the console's thread, in this order
//! ```
//!
//! # Not here
//!
//! - What Firecracker is told: [`crate::config`]. How it gets that: [`crate::delivery`]. Its
//!   sockets: [`crate::sockets`].

use crate::api::{ApiError, Method, send};
use crate::config::fd;
use crate::delivery::Delivery;
use crate::program::BUILD;
use crate::sockets::{LOOK, Socket, Sockets, claim_deadline};
use osvm_protocol::Cid;
use osvm_vmm::process::{Launch, VmProcess};
use osvm_vmm::{
    BootError, ConnectError, Console, Death, GuestStream, Killer, Machine, MemoryMib, Usage, clean,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long Firecracker gets to end by itself once a stream of its guest has hung up.
const GRACE: Duration = Duration::from_millis(200);

/// Most of Firecracker's log that is read for the reason of an end, in bytes.
const MAX_REASON: usize = 1024;

/// A guest under Firecracker.
#[derive(Debug)]
pub struct FirecrackerMachine {
    process: VmProcess,
    // Without names as soon as the guest has answered: by then everything in the folder has been
    // opened.
    sockets: Sockets,
    console: Option<JoinHandle<Option<String>>>,
    log: File,
    metrics: File,
    memory: MemoryMib,
    at_zero: Death,
}

/// Starts Firecracker with what it is to run. The guest's console goes to `console`; `at_zero` is
/// what became of the guest where Firecracker ends and finds nothing wrong.
pub(crate) fn start(
    guard: &Path,
    delivery: Delivery,
    cid: Cid,
    memory: MemoryMib,
    console: File,
    at_zero: Death,
) -> Result<FirecrackerMachine, BootError> {
    let host = |what| move |source: io::Error| BootError::Host { what, source };
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (words, words_end) = pair.map_err(|error| host("a socket")(error.into()))?;
    let Delivery { args, mut fds, paths, log, metrics } = delivery;
    fds.push((words_end, fd::CONSOLE));
    let stdin = File::open("/dev/null").map_err(host("`/dev/null`"))?;
    let launch = Launch { program: guard, args: &args, stdin: stdin.into(), fds };
    let process = VmProcess::spawn(launch).map_err(|source| BootError::Program {
        program: guard.to_owned(),
        source,
        fix: BUILD,
    })?;
    let thread = std::thread::Builder::new().name(format!("osvm-cid-{cid}"));
    let console = thread.spawn(|| keep_console(&File::from(words), Console::new(console)));
    Ok(FirecrackerMachine {
        process,
        sockets: Sockets::new(paths),
        console: Some(console.map_err(host("a thread"))?),
        log,
        metrics,
        memory,
        at_zero,
    })
}

/// Keeps what the guest writes until its console is closed; returns its last words.
fn keep_console(mut from: &File, mut console: Console) -> Option<String> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => return console.last_words(),
            Ok(len) => console.append(buffer.get(..len).unwrap_or_default()),
        }
    }
}

impl Machine for FirecrackerMachine {
    fn vm_pid(&self) -> u32 {
        self.process.pid()
    }

    fn connect(&mut self, port: u32, deadline: Instant) -> Result<GuestStream, ConnectError> {
        match self.ask(port, deadline)? {
            Some(stream) => Ok(stream),
            None if self.ended(GRACE) => Err(ConnectError::Died(self.death())),
            None => Err(ConnectError::Refused { port }),
        }
    }

    fn killer(&self) -> Killer {
        self.process.killer()
    }

    fn usage(&self) -> Usage {
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", self.process.pid()));
        Usage { guest_memory_kb: maps.ok().and_then(|maps| guest_memory_kb(&maps, self.memory)) }
    }

    fn death(&mut self) -> Death {
        let status = match self.process.wait(Instant::now() + GRACE) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => self.process.end(),
            Err(error) => Err(error),
        };
        let last_words = self.join();
        let status = match status {
            Ok(status) => status,
            Err(error) => return Death::VmmFailed { reason: error.to_string() },
        };
        match (last_words, status.signal(), status.code()) {
            (Some(last_words), _, _) => Death::Panicked { last_words },
            (None, Some(signal), _) => Death::Killed { signal },
            (None, None, Some(0)) => self.at_zero.clone(),
            (None, None, code) => {
                let (code, log) = (code.unwrap_or_default(), self.log_tail());
                // Its words where KVM tells it of the shutdown instead of a system event.
                if log.contains("vcpu run: Shutdown") {
                    return Death::TripleFault;
                }
                let report = self.process.report();
                Death::VmmFailed {
                    reason: format!("Firecracker exited with {code}: {log}{report}"),
                }
            }
        }
    }
}

impl FirecrackerMachine {
    /// Firecracker's metrics at this moment, as the JSON it writes.
    ///
    /// # Errors
    ///
    /// When Firecracker is gone, or does not answer until `deadline`.
    pub fn metrics(&mut self, deadline: Instant) -> Result<String, ApiError> {
        let flush = r#"{"action_type":"FlushMetrics"}"#;
        self.order(&[(Method::Put, "/actions", flush)], deadline)?;
        Ok(read_all(&mut self.metrics, 1 << 20)?)
    }

    /// Has Firecracker carry out some orders, each with its method, path and body.
    pub(crate) fn order(
        &mut self,
        orders: &[(Method, &str, &str)],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let api = self.dial(Socket::Api, osvm_protocol::PORT, deadline);
        let mut api = api.map_err(|error| match error {
            ConnectError::Io(error) => ApiError::Io(error),
            ConnectError::Deadline { .. } => ApiError::Io(io::ErrorKind::TimedOut.into()),
            died => ApiError::Io(io::Error::other(died)),
        })?;
        let mut each = orders.iter();
        each.try_for_each(|(method, path, body)| send(&mut api, *method, path, body, deadline))
    }

    /// Asks the guest for a connection; `None` when Firecracker hangs up instead.
    pub(crate) fn ask(
        &mut self,
        port: u32,
        deadline: Instant,
    ) -> Result<Option<GuestStream>, ConnectError> {
        let mut stream = self.dial(Socket::Vsock, port, deadline)?;
        let timed = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => ConnectError::Deadline { port },
            _ => ConnectError::Io(error),
        };
        match stream.write_all(format!("CONNECT {port}\n").as_bytes(), deadline) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(timed(error)),
            _ => {}
        }
        match greeting(&mut stream, deadline).map_err(timed)? {
            Greeting::Accepted => {
                self.sockets.unname();
                Ok(Some(stream))
            }
            Greeting::HungUp => Ok(None),
        }
    }

    /// Its sockets.
    pub(crate) fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Firecracker itself.
    pub(crate) fn process(&mut self) -> &mut VmProcess {
        &mut self.process
    }

    /// Memory that it shares with no other process, in KiB.
    pub(crate) fn private_kb(&self) -> Option<u64> {
        self.process.private_kb()
    }

    /// Whether Firecracker has ended, or does so `within` this time.
    pub(crate) fn ended(&mut self, within: Duration) -> bool {
        self.process.wait(Instant::now() + within).is_ok_and(|status| status.is_some())
    }

    /// Connects to one of Firecracker's sockets, as soon as it listens there.
    fn dial(
        &mut self,
        socket: Socket,
        port: u32,
        deadline: Instant,
    ) -> Result<GuestStream, ConnectError> {
        let deadline = deadline.min(claim_deadline());
        loop {
            match self.sockets.dial(socket)? {
                Some(stream) => return Ok(stream),
                None => self.pause(port, deadline)?,
            }
        }
    }

    /// Waits a moment, unless there is nothing to wait for any more.
    fn pause(&mut self, port: u32, deadline: Instant) -> Result<(), ConnectError> {
        if self.ended(LOOK) {
            return Err(ConnectError::Died(self.death()));
        }
        if deadline <= Instant::now() {
            return Err(ConnectError::Deadline { port });
        }
        Ok(())
    }

    fn join(&mut self) -> Option<String> {
        self.console.take().and_then(|console| console.join().ok().flatten())
    }

    fn log_tail(&mut self) -> String {
        let log = read_all(&mut self.log, 1 << 20).unwrap_or_default();
        clean(log.as_bytes(), MAX_REASON)
    }
}

impl Drop for FirecrackerMachine {
    fn drop(&mut self) {
        // The console's thread ends when Firecracker's end of the socket is closed.
        let _status = self.process.end();
        self.join();
    }
}

/// What Firecracker says to `CONNECT`.
enum Greeting {
    Accepted,
    HungUp,
}

/// Reads `OK <port>\n` and nothing beyond it: the next byte is the guest's.
fn greeting(stream: &mut GuestStream, deadline: Instant) -> io::Result<Greeting> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < "OK 4294967295\n".len() {
        if stream.read(&mut byte, deadline)? == 0 {
            return Ok(Greeting::HungUp);
        }
        line.extend_from_slice(&byte);
        if byte == *b"\n" && line.starts_with(b"OK ") {
            return Ok(Greeting::Accepted);
        }
    }
    Err(io::Error::other("Firecracker did not answer `CONNECT` with `OK`"))
}

/// The resident size of the mapping that is the guest's memory: the only one of that size.
fn guest_memory_kb(smaps: &str, memory: MemoryMib) -> Option<u64> {
    let size = format!("{} kB", memory.bytes() / 1024);
    let mut lines = smaps.lines();
    lines.find(|line| line.strip_prefix("Size:").is_some_and(|value| value.trim() == size))?;
    let resident = lines.find_map(|line| line.strip_prefix("Rss:"))?;
    resident.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn read_all(file: &mut File, max: u64) -> io::Result<String> {
    file.rewind()?;
    let mut text = Vec::new();
    file.take(max).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_the_mapping_of_that_size() {
        let smaps = "\
            55d0-55d1 r-xp 0 00:00 0 /firecracker\nSize:   1024 kB\nRss:    900 kB\n\
            7f00-7f40 rw-p 0 00:00 0\nSize:  65536 kB\nKernelPageSize: 4 kB\nRss:    420 kB\n";
        assert_eq!(guest_memory_kb(smaps, MemoryMib::new(64).unwrap()), Some(420));
        assert_eq!(guest_memory_kb(smaps, MemoryMib::new(128).unwrap()), None);
    }
}
