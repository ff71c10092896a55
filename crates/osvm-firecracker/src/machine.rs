//! One guest under Firecracker: started, connected to, killed, reaped.
//!
//! ```text
//! boot: files, console ──▶ guard ──exec──▶ Firecracker   (VmProcess)
//! connect: claim the sockets ──▶ "CONNECT 5252" ──▶ "OK port"  (GuestStream)
//! drop: kill, reap, join the console's thread, in this order
//! ```
//!
//! # Not here
//!
//! - What Firecracker is told: [`crate::config`]. How it gets that: [`crate::delivery`]. Its
//!   sockets: [`crate::sockets`].

use crate::FirecrackerBackend;
use crate::api::{ApiError, put};
use crate::delivery::{self, Delivery};
use crate::sockets::{LOOK, Paths, Sockets, claim_deadline};
use osvm_vmm::process::{Launch, VmProcess};
use osvm_vmm::{
    BootError, ConnectError, Console, Death, GuestStream, Killer, Machine, MachineSpec, MemoryMib,
    Usage, clean,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
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
    // Gone as soon as the guest has answered: by then everything in the folder has been opened.
    paths: Option<Paths>,
    sockets: Option<Sockets>,
    console: Option<JoinHandle<Option<String>>>,
    log: File,
    metrics: File,
    memory: MemoryMib,
}

/// Starts a guest.
pub(crate) fn boot(
    backend: &FirecrackerBackend,
    spec: &MachineSpec,
) -> Result<FirecrackerMachine, BootError> {
    let host = |what| move |source: io::Error| BootError::Host { what, source };
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (console, console_end) = pair.map_err(|error| host("a socket")(error.into()))?;
    let FirecrackerBackend { firecracker, runtime_dir, .. } = backend;
    let delivery = match &backend.jailer {
        Some(jailer) => delivery::jailed(jailer, firecracker, runtime_dir, spec, console_end),
        None => delivery::plain(firecracker, runtime_dir, spec, console_end),
    };
    let Delivery { args, fds, paths, log, metrics } =
        delivery.map_err(host("files for Firecracker"))?;
    let stdin = File::open("/dev/null").map_err(host("`/dev/null`"))?;
    let launch = Launch { program: &backend.guard, args: &args, stdin: stdin.into(), fds };
    let process = VmProcess::spawn(launch).map_err(|source| BootError::Program {
        program: backend.guard.clone(),
        source,
        fix: "build it with `cargo build --release -p osvm --bins`",
    })?;
    let console_log = Console::new(spec.console.try_clone().map_err(host("a descriptor"))?);
    let thread = std::thread::Builder::new().name(format!("osvm-cid-{}", spec.cid));
    let console = thread.spawn(|| keep_console(&File::from(console), console_log));
    Ok(FirecrackerMachine {
        process,
        paths: Some(paths),
        sockets: None,
        console: Some(console.map_err(host("a thread"))?),
        log,
        metrics,
        memory: spec.memory,
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
        self.claim(deadline)?;
        // The socket exists a moment before Firecracker listens on it.
        let mut stream = loop {
            match self.sockets.as_ref().map(Sockets::vsock) {
                Some(Ok(stream)) => break stream,
                Some(Err(error)) if error.kind() != io::ErrorKind::ConnectionRefused => {
                    return Err(error.into());
                }
                _ => self.pause(port, deadline)?,
            }
        };
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
                self.paths = None;
                Ok(stream)
            }
            Greeting::HungUp if self.ended() => Err(ConnectError::Died(self.death())),
            Greeting::HungUp => Err(ConnectError::Refused { port }),
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
            // Firecracker ends with 0 when the processor shuts down, which a guest of ours only
            // does by a triple fault.
            (None, None, Some(0)) => Death::TripleFault,
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
        let claimed = self.claim(deadline);
        claimed.map_err(|error| ApiError::Io(io::Error::other(error.to_string())))?;
        let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::NotConnected);
        let mut api = sockets.map_err(io::Error::from)?.api()?;
        put(&mut api, "/actions", r#"{"action_type":"FlushMetrics"}"#, deadline)?;
        Ok(read_all(&mut self.metrics, 1 << 20)?)
    }

    fn claim(&mut self, deadline: Instant) -> Result<(), ConnectError> {
        let deadline = deadline.min(claim_deadline());
        while self.sockets.is_none() {
            match self.paths.as_ref().and_then(Paths::claim) {
                Some(sockets) => self.sockets = Some(sockets),
                None => self.pause(osvm_protocol::PORT, deadline)?,
            }
        }
        Ok(())
    }

    /// Waits a moment, unless there is nothing to wait for any more.
    fn pause(&mut self, port: u32, deadline: Instant) -> Result<(), ConnectError> {
        if self.process.wait(Instant::now() + LOOK)?.is_some() {
            return Err(ConnectError::Died(self.death()));
        }
        if deadline <= Instant::now() {
            return Err(ConnectError::Deadline { port });
        }
        Ok(())
    }

    fn ended(&mut self) -> bool {
        self.process.wait(Instant::now() + GRACE).is_ok_and(|status| status.is_some())
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
