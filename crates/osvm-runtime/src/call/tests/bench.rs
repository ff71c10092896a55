//! A runtime in a directory of its own, with backends and an executor to be told what to do.

use super::*;
use crate::calls::End;
use osvm_image::{DEFAULT_IMAGE, fixture};
use osvm_policy::Env;
use osvm_vmm::fake::Fake;
use osvm_vmm::{BootError, Death, GuestStream, Killer, Machine, Usage};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tempfile::TempDir;

const TOOLS: &str = r#"[
  {"server":"system","name":"echo","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object","required":["text"],"additionalProperties":false,
     "properties":{"text":{"type":"string"}}}},
  {"server":"system","name":"guest_info","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object"}},
  {"server":"system","name":"unserved","description":"","outputSchema":true,"annotations":{},
   "inputSchema":{"type":"object"}}]"#;

/// Puts an image with the tools into the store of a runtime.
pub(super) fn install_into(runtime: &Runtime, dir: &Path) {
    let path = dir.join("image");
    std::fs::write(&path, fixture::image(&fixture::note(), TOOLS)).unwrap();
    runtime.store().install(DEFAULT_IMAGE, &path, None).unwrap();
}

/// A runtime, and what is left of its calls.
pub(super) struct Bench {
    dir: TempDir,
    pub(super) runtime: Runtime,
}

impl Bench {
    /// `options` are members of the config entry of server `system`.
    pub(super) fn new(backend: impl Backend + 'static, options: &str) -> Self {
        Self::with_host(backend, options, NoHostServices)
    }

    pub(super) fn with_host(
        backend: impl Backend + 'static,
        options: &str,
        host: impl HostServices + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("unikernels");
        let env = Env::new(None, None, Some(dir.path().into())).unwrap();
        let config =
            format!(r#"{{"unikernel_dir":{store:?},"mcp_servers":{{"system":{{{options}}}}}}}"#);
        let config = Config::parse(config, Path::new("config.json"), &env).unwrap();
        let runtime = Runtime::new(Parts {
            config,
            backend: Arc::new(backend),
            host: Arc::new(host),
            gate: Arc::new(NoGate),
            ledger: Arc::new(NoLedger),
            dirs: Dirs { run: dir.path().join("run"), calls: dir.path().join("calls") },
            cids: 200..=201,
        });
        Self { dir, runtime }
    }

    pub(super) fn install(self, program: &[u8]) -> Self {
        let write = |name: &str, bytes: &[u8]| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let image = write("image", &fixture::image(&fixture::note(), TOOLS));
        let program = write("program", program);
        self.runtime.store().install(DEFAULT_IMAGE, &image, Some(&program)).unwrap();
        self
    }

    pub(super) fn call(&self, tool: &str, arguments: &str) -> Report {
        self.call_with(tool, arguments, &Cancel::default())
    }

    pub(super) fn call_with(&self, tool: &str, arguments: &str, cancel: &Cancel) -> Report {
        let arguments = RawValue::from_string(arguments.into()).unwrap();
        let call = ToolCall::new("system", tool, arguments);
        let report = self.runtime.call(&call, cancel);
        self.nothing_is_left(&report);
        report
    }

    pub(super) fn echo(&self) -> Report {
        self.call("echo", r#"{"text":"hi"}"#)
    }

    fn nothing_is_left(&self, report: &Report) {
        assert!(self.runtime.guests().unwrap().is_empty());
        if let Some(pid) = report.isolation.vm_pid {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "VM process {pid} lives");
        }
        if let Ok(log) = self.runtime.logs().open(report.call) {
            assert!(!log.is_live(), "somebody still holds the console");
        }
        assert!(report.isolation.total.is_some());
    }

    /// How the log of the call ends; `None` if there is no log.
    pub(super) fn end(&self, report: &Report) -> Option<End> {
        let mut log = self.runtime.logs().open(report.call).ok()?;
        let lines = std::iter::from_fn(|| log.next(false).unwrap());
        let end = lines.last().unwrap();
        let LogLine::End(end) = end else { panic!("{end:?}") };
        Some(end)
    }
}

/// A guest whose VM process is the fake's and whose executor is a function.
pub(super) struct Scripted {
    fake: Fake,
    script: Arc<dyn Fn(UnixStream) + Send + Sync>,
}

impl Scripted {
    pub(super) fn new(script: impl Fn(UnixStream) + Send + Sync + 'static) -> Self {
        Self { fake: Fake::new(), script: Arc::new(script) }
    }

    /// Reads the request, then writes `bytes` and hangs up.
    pub(super) fn answering(bytes: &'static [u8]) -> Self {
        Self::new(move |mut stream| {
            read_frame(&mut stream);
            let _ = stream.write_all(bytes);
        })
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Backend for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn probe(&self) -> Result<(), BootError> {
        Ok(())
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let machine = self.fake.boot(spec)?;
        Ok(Box::new(ScriptedMachine { machine, script: Arc::clone(&self.script) }))
    }
}

struct ScriptedMachine {
    machine: Box<dyn Machine>,
    script: Arc<dyn Fn(UnixStream) + Send + Sync>,
}

impl fmt::Debug for ScriptedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedMachine")
    }
}

impl Machine for ScriptedMachine {
    fn vm_pid(&self) -> u32 {
        self.machine.vm_pid()
    }

    fn connect(&mut self, _port: u32, _deadline: Instant) -> Result<GuestStream, ConnectError> {
        let (ours, theirs) = UnixStream::pair()?;
        let script = Arc::clone(&self.script);
        std::thread::spawn(move || script(theirs));
        Ok(GuestStream::new(OwnedFd::from(ours)))
    }

    fn killer(&self) -> Killer {
        self.machine.killer()
    }

    fn usage(&self) -> Usage {
        self.machine.usage()
    }

    fn death(&mut self) -> Death {
        self.machine.death()
    }
}

/// A host without KVM.
#[derive(Debug)]
pub(super) struct NoKvm;

impl Backend for NoKvm {
    fn name(&self) -> &'static str {
        "none"
    }

    fn probe(&self) -> Result<(), BootError> {
        Err(BootError::OpenKvm(std::io::ErrorKind::NotFound.into()))
    }

    fn boot(&self, _spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.probe().map(|()| unreachable!("it always fails"))
    }
}

/// The payload of the next frame; empty at the end of the stream.
pub(super) fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; 4];
    if stream.read_exact(&mut header).is_err() {
        return Vec::new();
    }
    let mut payload = vec![0; u32::from_le_bytes(header) as usize];
    stream.read_exact(&mut payload).unwrap();
    payload
}

/// Smallest static programs for x86-64 Linux, assembled by hand: an ELF header, one segment that
/// is the whole file, and the code.
pub(super) mod program {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;

    /// Reads once, writes `answer`, exits.
    pub(in super::super) fn answering(answer: &[u8]) -> Vec<u8> {
        let len = u32::try_from(answer.len()).unwrap().to_le_bytes();
        let mut code =
            b"\x31\xc0\x31\xff\x48\x8d\xb4\x24\x00\xf0\xff\xff\xba\x00\x10\x00\x00\x0f\x05"
                .to_vec();
        // read(0, rsp - 4096, 4096) above; write(1, end of the code, len) here.
        code.extend_from_slice(
            b"\xb8\x01\x00\x00\x00\xbf\x01\x00\x00\x00\x48\x8d\x35\x10\x00\x00\x00\xba",
        );
        code.extend_from_slice(&len);
        code.extend_from_slice(b"\x0f\x05");
        // exit(0)
        code.extend_from_slice(b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05");
        code.extend_from_slice(answer);
        elf(&code)
    }

    /// Never does anything.
    pub(in super::super) fn spinning() -> Vec<u8> {
        elf(b"\xeb\xfe")
    }

    /// exit(3)
    pub(in super::super) fn exiting() -> Vec<u8> {
        elf(b"\xb8\x3c\x00\x00\x00\xbf\x03\x00\x00\x00\x0f\x05")
    }

    fn elf(code: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        for word in [BASE + HEADERS, 64, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
        // PT_LOAD, readable and executable.
        file.extend_from_slice(b"\x01\0\0\0\x05\0\0\0");
        let len = HEADERS + code.len() as u64;
        for word in [0, BASE, BASE, len, len, 0x1000] {
            file.extend_from_slice(&u64::to_le_bytes(word));
        }
        file.extend_from_slice(code);
        file
    }
}
