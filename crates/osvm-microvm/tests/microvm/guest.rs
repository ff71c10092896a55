//! What the tests boot: kernel and PID 1 from `target`, and a root file system with the host's own
//! Node or Python, made once and kept in the target directory.

use osvm_firecracker::FirecrackerLinux;
use osvm_image::Digest;
use osvm_kvm::KvmLinux;
use osvm_microvm::{GuestFiles, Host, Recipe};
use osvm_qemu::{Accelerator, PROGRAM, QemuLinux};
use osvm_vmm::MemoryMib;
use osvm_vmm::conformance::{skip, vm_program};
use osvm_vmm::linux::LinuxBackend;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names the hypervisor that the tests are run with.
const BACKEND: &str = "OSVM_TEST_LINUX_BACKEND";

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/microvm/fixture");

/// A deadline that only a guest that hangs misses.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// A program of the host that a test root is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Node,
    Python,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python3",
        }
    }
}

/// Where the guests of one test run, and its folder of CIDs.
pub(crate) struct Bench {
    pub(crate) host: Host,
    dir: Option<tempfile::TempDir>,
    files: GuestFiles,
}

impl Bench {
    /// With a folder of its own. Nothing, with a visible line, where something is missing.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let bench = Self::at(dir.path())?;
        Some(Self { dir: Some(dir), ..bench })
    }

    /// The folder that [`Bench::new`] made.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// As [`Bench::new`], in this folder.
    pub(crate) fn at(folder: &Path) -> Option<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let (kernel, init) = (target.join("guest-kernel/vmlinux"), target.join("guest/osvm-init"));
        let files = match GuestFiles::load(&kernel, &init) {
            Ok(files) => files,
            Err(error) => {
                skip("microvm", &format!("{error}: run `cargo xtask kernel`"));
                return None;
            }
        };
        let host = Host::new(backend(&folder.join("run"))?, folder.join("run"), None);
        Some(Self { host, dir: None, files })
    }

    /// The fixture server on `runtime`.
    pub(crate) fn recipe(&self, runtime: Runtime) -> Option<Recipe> {
        let root = root(runtime)?;
        let (command, script) = match runtime {
            Runtime::Node => ("/usr/bin/node", "/app/server.mjs"),
            Runtime::Python => ("/usr/bin/python3", "/app/server.py"),
        };
        let env = [("PATH", "/usr/bin"), ("HOME", "/home/osvm"), ("PYTHONDONTWRITEBYTECODE", "1")];
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Some(Recipe {
            name: "fixture".into(),
            files: self.files.clone(),
            root_digest: Digest::of(root.to_string_lossy().as_bytes()),
            root: Arc::new(File::open(root).unwrap()),
            command: command.into(),
            args: vec![script.into()],
            env: env.map(own).to_vec(),
            secrets: Vec::new(),
            cwd: "/app".into(),
            own: vec!["/home/osvm".into()],
            memory: MemoryMib::new(160).unwrap(),
            writable_mib: 32,
            max_processes: 64,
            network: false,
            workspace: None,
            mounts: Vec::new(),
        })
    }
}

/// The hypervisor that the environment names; by default the one that runs anywhere. Nothing, with
/// a visible line, where it is missing.
fn backend(run: &Path) -> Option<Arc<dyn LinuxBackend>> {
    let name = std::env::var(BACKEND).unwrap_or_default();
    let qemu = |accelerator| -> Option<Arc<dyn LinuxBackend>> {
        let Ok(qemu) = which::which(PROGRAM) else {
            skip("qemu", &format!("`{PROGRAM}` is not installed"));
            return None;
        };
        Some(Arc::new(QemuLinux::new(qemu, vm_program(), accelerator)))
    };
    match name.as_str() {
        "" | "qemu" => qemu(Accelerator::Tcg),
        "qemu-kvm" => qemu(Accelerator::Kvm),
        "kvm" => Some(Arc::new(KvmLinux::new(vm_program()))),
        "firecracker" => {
            let named = std::env::var_os("OSVM_FIRECRACKER").map(PathBuf::from);
            let Some(program) = named.or_else(|| which::which("firecracker").ok()) else {
                skip("firecracker", "it is not installed");
                return None;
            };
            fs::create_dir_all(run).unwrap();
            Some(Arc::new(FirecrackerLinux::new(program, vm_program(), run.to_owned())))
        }
        other => panic!("`{BACKEND}` names no hypervisor: `{other}`"),
    }
}

/// `tools/call` without arguments as parameters.
pub(crate) fn call(tool: &str) -> Value {
    json!({"name": tool, "arguments": {}})
}

/// The text of a tool's result.
pub(crate) fn text(result: &str) -> String {
    let result: Value = serde_json::from_str(result).unwrap();
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// The image for `runtime`, named by what it is made of.
fn root(runtime: Runtime) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // A host that was made for these tests has no programs to make one of, but the one that was made.
    let ready = folder.join(format!("root-{}.erofs", runtime.name()));
    let program = match runtime {
        Runtime::Node => which::which("node").ok(),
        // Not one that a version manager puts in front: its libraries are elsewhere.
        Runtime::Python => Some(PathBuf::from("/usr/bin/python3")).filter(|path| path.exists()),
    };
    let (Some(program), Ok(mkfs)) = (program, which::which("mkfs.erofs")) else {
        if ready.exists() {
            return Some(ready);
        }
        skip("microvm", &format!("`{}` or `mkfs.erofs` is not installed", runtime.name()));
        return None;
    };
    let program = fs::canonicalize(program).unwrap();
    let mut key = format!("{} {:?}", program.display(), fs::metadata(&program).unwrap().modified());
    for name in ["server.mjs", "server.py"] {
        key.push_str(&fs::read_to_string(format!("{FIXTURES}/{name}")).unwrap());
    }
    let name = Digest::of(key.as_bytes()).hex();
    let image = folder.join(format!("root-{}-{}.erofs", runtime.name(), name.get(..16).unwrap()));
    let lock = File::create(folder.join("root.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    if !image.exists() {
        let tree = tempfile::tempdir().unwrap();
        plant(runtime, &program, tree.path());
        let unfinished = image.with_extension("new");
        let status = Command::new(mkfs).arg("--quiet").arg(&unfinished).arg(tree.path()).status();
        assert!(status.unwrap().success());
        fs::rename(&unfinished, &image).unwrap();
    }
    let same =
        fs::metadata(&ready).is_ok_and(|ready| ready.ino() == image.metadata().unwrap().ino());
    if !same {
        let _none = fs::remove_file(&ready);
        fs::hard_link(&image, &ready).unwrap();
    }
    Some(image)
}

#[test]
fn a_root_is_made_once() {
    let Some(first) = root(Runtime::Node) else { return };
    let made = fs::metadata(&first).unwrap().modified().unwrap();
    assert_eq!(root(Runtime::Node).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
}

/// The program, what it is linked with, and the fixtures.
fn plant(runtime: Runtime, program: &Path, tree: &Path) {
    let put = |from: &Path, to: &Path| {
        let to = tree.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(program, &Path::new("/usr/bin").join(runtime.name()));
    let mut linked = BTreeSet::from([program.to_owned()]);
    if runtime == Runtime::Python {
        let stdlib = Command::new(program).args(["-c", "import os; print(os.__file__)"]).output();
        let stdlib = String::from_utf8(stdlib.unwrap().stdout).unwrap();
        let stdlib = Path::new(stdlib.trim()).parent().unwrap();
        let to = tree.join(stdlib.strip_prefix("/").unwrap());
        fs::create_dir_all(&to).unwrap();
        let mut copy = Command::new("cp");
        copy.arg("-rL").arg(format!("{}/.", stdlib.display())).arg(&to);
        assert!(copy.status().unwrap().success());
        let modules = stdlib.join("lib-dynload");
        linked.extend(modules.read_dir().unwrap().map(|entry| entry.unwrap().path()));
    }
    for file in linked {
        let libraries = Command::new("ldd").arg(&file).output().unwrap().stdout;
        for word in String::from_utf8(libraries).unwrap().split_whitespace() {
            if word.starts_with('/') && Path::new(word).exists() {
                put(Path::new(word), Path::new(word));
            }
        }
    }
    for name in ["server.mjs", "server.py"] {
        put(Path::new(&format!("{FIXTURES}/{name}")), &Path::new("/app").join(name));
    }
}
