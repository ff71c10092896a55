//! A home directory of its own for each test, and what must be true of the host after it.

use osvm_image::Store;
use serde_json::json;
use snapbox::Redactions;
use snapbox::cmd::Command;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest a command of a test may take. Hit only by a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where `cargo xtask guest` puts images, and the program beside them.
fn guest(file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(file);
    assert!(path.exists(), "`{}` is missing: run `cargo xtask guest`", path.display());
    path
}

/// What a host may lack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hidden {
    /// There is no `/dev/kvm`.
    Kvm,
    /// `/dev/kvm` can't be opened, which even root can be refused.
    KvmPermission,
}

impl Hidden {
    fn script(self) -> &'static str {
        match self {
            Self::Kvm => "mount -t tmpfs none /dev",
            Self::KvmPermission => "mount --bind /dev /dev && mount -o remount,bind,nodev /dev",
        }
    }
}

/// A user who has just installed osvm: a home directory, a runtime directory, and images.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    /// A home with the images of `cargo xtask guest` installed.
    pub(crate) fn new() -> Self {
        let home = Self::without_images();
        let store = home.store();
        let image = guest("unikraft_tool_executor.img");
        let executor = guest("unikraft_tool_executor");
        store.install("unikraft_tool_executor", &image, Some(&executor)).unwrap();
        home
    }

    /// A home in which the image named `hostile` is the one that misbehaves on demand.
    pub(crate) fn with_hostile_image() -> Self {
        let home = Self::new();
        home.store().install("hostile", &guest("hostile.img"), None).unwrap();
        home
    }

    /// A home that also has the image whose guests ask the host for whatever they are told.
    pub(crate) fn with_prober() -> Self {
        let home = Self::new();
        home.store().install("osvm_prober", &guest("osvm_prober.img"), None).unwrap();
        home
    }

    /// A home with nothing in it.
    pub(crate) fn without_images() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::Builder::new().prefix("osvm-test-").tempdir().unwrap();
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The image store of this home.
    pub(crate) fn store(&self) -> Store {
        Store::new(self.path().join(".osvm/unikernels"))
    }

    /// Puts `text` where osvm looks for its isolation config.
    pub(crate) fn write_config(&self, text: &str) {
        let path = self.config_path();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Where osvm looks for its isolation config.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path().join(".config/osvm/isolation_config.json")
    }

    /// Whether guests run on the processor here, as `osvm doctor` measures it.
    pub(crate) fn kvm_is_hardware(&self) -> bool {
        let report = self.osvm(["doctor", "--json"]).output().unwrap().stdout;
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        report["checks"].as_array().unwrap().iter().any(|check| check["kvm"] == "hardware")
    }

    /// Makes every tool run in the image that does what `HOSTILE` says, with a time limit.
    pub(crate) fn use_hostile(&self, what: &str, timeout_secs: u32) {
        self.write_config(
            &json!({
                "unikernel_dir": self.store().dir(),
                "mcp_servers": {"system": {
                    "unikernel_image": "hostile",
                    "timeout_secs": timeout_secs,
                    "env_vars": {"HOSTILE": what},
                }},
            })
            .to_string(),
        );
    }

    /// Writes a file into the home directory and returns its path.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// `osvm` with these arguments, in this home, with nothing else in its environment.
    pub(crate) fn osvm<const N: usize>(&self, args: [&str; N]) -> Command {
        self.osvm_of(&args)
    }

    /// The same, for arguments that are put together.
    pub(crate) fn osvm_of(&self, args: &[&str]) -> Command {
        self.command(self.osvm_std(args))
    }

    /// `osvm` on a host that lacks something; `None`, said on stderr, where this can't be had.
    pub(crate) fn osvm_without(&self, hidden: Hidden, args: &[&str]) -> Option<Command> {
        let osvm = self.osvm_std(args);
        let mut namespace = std::process::Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            namespace.args(["--user", "--map-root-user"]);
        }
        namespace.arg("--mount").args(["sh", "-c"]);
        let probe = namespace.arg(format!("{} && exec \"$@\"", hidden.script())).arg("sh");
        let mut command = std::process::Command::new(probe.get_program());
        command.args(probe.get_args());
        if !probe.arg("true").output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: this host does not allow a mount namespace");
            let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
            assert!(!required.contains("namespaces"), "OSVM_REQUIRE names namespaces");
            return None;
        }
        command.arg(osvm.get_program()).args(osvm.get_args()).current_dir(self.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(osvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Some(self.command(command))
    }

    fn command(&self, command: std::process::Command) -> Command {
        let mut redactions = Redactions::new();
        redactions.insert("[HOME]", self.path().to_path_buf()).unwrap();
        redactions.insert("[VERSION]", env!("CARGO_PKG_VERSION")).unwrap();
        redactions.insert("[OSVM]", env!("CARGO_BIN_EXE_osvm")).unwrap();
        let assert = snapbox::Assert::new()
            .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
            .normalize_paths(false)
            .redact_with(redactions);
        Command::from_std(command).timeout(PATIENCE).with_assert(assert)
    }

    /// The same command for tests that start it and do something meanwhile.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.osvm_std(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The same as an ordinary command.
    pub(crate) fn osvm_std(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_osvm"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            // What is pinned here is the embedded VMM; what `auto` means differs by host.
            .env("OSVM_BACKEND", "kvm")
            .current_dir(self.path());
        command
    }

    /// Ids of the processes that hold a file of this home open: osvm itself and its VMs.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let here = |path: PathBuf| path.starts_with(self.path());
            (pid != std::process::id()
                && open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(here)))
            .then_some(pid)
        });
        ids.collect()
    }

    /// Checks that nothing of any call is left: no process, no CID, no socket, no file but logs.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        // A VM process whose osvm was killed has its SIGKILL already, and needs a moment to go.
        eventually("no process that holds files of this home", || {
            self.processes().is_empty().then_some(())
        });
        let ps = self.osvm(["ps", "--json"]).output().unwrap();
        assert_eq!(String::from_utf8(ps.stdout).unwrap(), "[]\n", "VMs that hold a CID");
        let mut files = Vec::new();
        list(&self.path().join("run"), &mut files);
        list(&self.path().join(".local/state"), &mut files);
        let expected = |file: &PathBuf| {
            // A lock is a file that nobody holds any more.
            let kept = ["run/osvm/cids", "run/osvm/kvm.json", "run/osvm/daemon.lock"];
            kept.iter().any(|name| file.ends_with(name))
                // Receipts, and the key they are signed with, outlive their calls.
                || file.parent().is_some_and(|dir| dir.ends_with("osvm/receipts"))
                // So does what configured servers offered, and which of it is believed.
                || file.parent().is_some_and(|dir| dir.ends_with("osvm/servers"))
                || file.parent().is_some_and(|dir| dir.ends_with("osvm/pins"))
                || ["osvm/pins.json", "osvm/pins.lock"].iter().any(|name| file.ends_with(name))
                // What a gateway that was killed told is removed by who reads it.
                || file.parent().is_some_and(|dir| dir.ends_with("run/osvm/gateways"))
                || file.extension().is_some_and(|end| end == "log")
        };
        files.retain(|file| !expected(file));
        assert!(files.is_empty(), "files that only a running call needs: {files:?}");
    }

    /// Waits until the VM process of a call that was started meanwhile is there.
    pub(crate) fn wait_for_vm(&self) -> u32 {
        let program = Path::new(env!("CARGO_BIN_EXE_osvm-vm"));
        eventually("a VM process", || {
            let is_vm = |pid: &u32| {
                fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)
            };
            self.processes().into_iter().find(is_vm)
        })
    }
}

/// Waits for the end of a VM process whose osvm was killed: the kernel ends it a moment later.
pub(crate) fn wait_for_end_of(vm_pid: u32) {
    let process = PathBuf::from(format!("/proc/{vm_pid}"));
    eventually("the VM process to end", || (!process.exists()).then_some(()));
}

/// All files below a directory, which need not exist.
fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// Polls until `probe` finds something; fails the test when it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
