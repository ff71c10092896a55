//! What a microVM is made from: kernel, PID 1, root file system, and the server in it.

use crate::error::MicroVmError;
use crate::initrd;
use crate::workspace::{self, Workspace};
use osvm_image::Digest;
use osvm_image::linux::LinuxImage;
use osvm_protocol::PROTOCOL_VERSION;
use osvm_protocol::linux::{Channel, Orders};
use osvm_vmm::MemoryMib;
use osvm_vmm::linux::{LinuxSpec, sealed};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The server's user and group in every guest.
const UID: u32 = 1000;

/// Processes and threads of a server that asked for no other number. Node has a dozen.
const MAX_PROCESSES: u32 = 256;

/// How far the clock of a template is behind, in seconds. OpenSSL seeds itself anew when it sees that more than
/// an hour has passed since the last time (`PRIMARY_RESEED_TIME_INTERVAL` of its providers), so the clock of every
/// clone jumps by more than that.
pub(crate) const TEMPLATE_LAG: u32 = 25 * 3600;

/// What is the same for all guests. Cheap to clone.
#[derive(Clone)]
pub struct GuestFiles {
    kernel: Arc<File>,
    kernel_digest: Digest,
    init: Arc<[u8]>,
    init_digest: Digest,
}

impl fmt::Debug for GuestFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digests = (self.kernel_digest, self.init_digest);
        f.debug_tuple("GuestFiles").field(&digests).finish()
    }
}

impl GuestFiles {
    /// Reads the kernel and PID 1.
    ///
    /// # Errors
    ///
    /// [`MicroVmError::GuestFile`] with the path of what can't be read.
    pub fn load(kernel: &Path, init: &Path) -> Result<Self, MicroVmError> {
        let read = |path: &Path| {
            let failed = |source| MicroVmError::GuestFile { path: path.to_owned(), source };
            std::fs::read(path).map_err(failed)
        };
        let (kernel, init) = (read(kernel)?, read(init)?);
        let file = sealed("osvm-guest-kernel", &kernel).map_err(memory)?;
        Ok(Self {
            kernel: Arc::new(file),
            kernel_digest: Digest::of(&kernel),
            init_digest: Digest::of(&init),
            init: init.into(),
        })
    }

    /// SHA-256 of the kernel.
    pub fn kernel_digest(&self) -> Digest {
        self.kernel_digest
    }
}

/// One server in its image.
///
/// Plain data with public fields: every value is valid on its own. No `Default`, because only the
/// caller knows what the server may use.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The server's name in logs and `osvm ps`.
    pub name: String,
    /// Kernel and PID 1.
    pub files: GuestFiles,
    /// The root file system, open for reading only.
    pub root: Arc<File>,
    /// SHA-256 that names the root file system, already checked.
    pub root_digest: Digest,
    /// The program: an absolute path, or a name in `PATH`.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Further variables that are secret. Only a persistent server may have some.
    pub secrets: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: String,
    /// Folders that belong to the server.
    pub own: Vec<String>,
    /// Memory of the guest.
    pub memory: MemoryMib,
    /// Most bytes its files may take, in MiB, in guest memory.
    pub writable_mib: u32,
    /// Most processes and threads it may have.
    pub max_processes: u32,
    /// Whether it has a way out, through the host and under the policy: see [`crate::Outside`].
    pub network: bool,
    /// A host folder of which guests get copies.
    pub workspace: Option<Workspace>,
    /// Further ones, whose modes are `ro` and `rw`.
    pub mounts: Vec<Workspace>,
}

impl Recipe {
    /// The server of an image, with what the image says and ordinary limits.
    ///
    /// # Errors
    ///
    /// [`MicroVmError::Recipe`] for an image without a command or with a memory size no guest has.
    pub fn of_image(files: &GuestFiles, image: &LinuxImage) -> Result<Self, MicroVmError> {
        let manifest = &image.manifest;
        let (command, args) = manifest
            .command
            .split_first()
            .ok_or(MicroVmError::Recipe("the image names no command"))?;
        let memory = MemoryMib::new(manifest.default_memory_mb)
            .map_err(|_| MicroVmError::Recipe("the image wants more memory than a guest has"))?;
        let env = manifest.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        let home = manifest.env.get("HOME").cloned();
        Ok(Self {
            name: manifest.name.clone(),
            files: files.clone(),
            root: Arc::clone(&image.root),
            root_digest: manifest.root.digest,
            command: command.clone(),
            args: args.to_vec(),
            env: env.collect(),
            secrets: Vec::new(),
            cwd: manifest.cwd.clone(),
            own: home.into_iter().collect(),
            memory,
            writable_mib: memory.mib() / 4,
            max_processes: MAX_PROCESSES,
            network: false,
            workspace: None,
            mounts: Vec::new(),
        })
    }

    /// Names the template of this recipe on a host with this `identity`: whatever differs, differs
    /// here.
    pub fn key(&self, identity: &str) -> Digest {
        let parts = serde_json::json!([
            PROTOCOL_VERSION,
            identity,
            self.files.kernel_digest.hex(),
            self.files.init_digest.hex(),
            self.root_digest.hex(),
            self.orders(true, Channel::VirtioSerial, None),
            self.memory.mib(),
        ]);
        Digest::of(parts.to_string().as_bytes())
    }

    /// What a guest boots from. One that will be copied gets hooks, and a clock that lags.
    pub(crate) fn spec(&self, copied: bool, channel: Channel) -> Result<LinuxSpec, MicroVmError> {
        if copied && !self.secrets.is_empty() {
            return Err(MicroVmError::Secrets);
        }
        workspace::check(self.places())?;
        let orders = self.orders(copied, channel, Some(entropy().map_err(random)?));
        let initrd = initrd::build(&self.files.init, &orders).map_err(MicroVmError::Initrd)?;
        Ok(LinuxSpec {
            kernel: Arc::clone(&self.files.kernel),
            initrd: Arc::new(sealed("osvm-initrd", &initrd).map_err(memory)?),
            root: Arc::clone(&self.root),
            memory: self.memory,
        })
    }

    /// All folders of which its guests get copies, in the order in which both sides number them.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Workspace> {
        self.workspace.iter().chain(&self.mounts)
    }

    fn orders(&self, copied: bool, channel: Channel, entropy: Option<[u8; 32]>) -> Orders {
        let mut env = self.env.clone();
        env.extend(self.secrets.iter().cloned());
        Orders {
            protocol: PROTOCOL_VERSION,
            channel,
            command: self.command.clone(),
            args: self.args.clone(),
            env,
            cwd: self.cwd.clone(),
            uid: UID,
            own: self.own.clone(),
            writable_mib: self.writable_mib,
            max_processes: self.max_processes,
            entropy,
            clock_behind_secs: if copied { TEMPLATE_LAG } else { 0 },
            hooks: copied,
            network: self.network,
            places: self.places().map(|workspace| workspace.place(copied)).collect(),
        }
    }
}

/// Random bytes of the host's kernel.
pub(crate) fn entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // Up to 256 bytes come at once: getrandom(2).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

fn memory(source: io::Error) -> MicroVmError {
    MicroVmError::Host { what: "a memory file", source }
}

pub(crate) fn random(source: io::Error) -> MicroVmError {
    MicroVmError::Host { what: "random bytes", source }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    pub(crate) fn recipe() -> Recipe {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"x").unwrap();
        Recipe {
            name: "demo".into(),
            files: GuestFiles::load(file.path(), file.path()).unwrap(),
            root: Arc::new(File::open(file.path()).unwrap()),
            root_digest: Digest::of(b"root"),
            command: "/bin/server".into(),
            args: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            cwd: "/".into(),
            own: Vec::new(),
            memory: MemoryMib::new(128).unwrap(),
            writable_mib: 32,
            max_processes: 64,
            network: false,
            workspace: None,
            mounts: Vec::new(),
        }
    }

    #[test]
    fn whatever_differs_makes_another_template() {
        let base = recipe();
        let key = base.key("qemu 1");
        assert_eq!(key, base.clone().key("qemu 1"));
        let changes: [fn(&mut Recipe); 5] = [
            |r| r.root_digest = Digest::of(b"other"),
            |r| r.args.push("--flag".into()),
            |r| r.env.push(("A".into(), "b".into())),
            |r| r.memory = MemoryMib::new(129).unwrap(),
            |r| r.max_processes += 1,
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(other.key("qemu 1"), key);
        }
        assert_ne!(base.key("qemu 2"), key);
    }

    #[test]
    fn a_server_with_secrets_is_not_copied() {
        let mut recipe = recipe();
        recipe.secrets.push(("TOKEN".into(), "s3cret".into()));
        let spec = |copied| recipe.spec(copied, Channel::VirtioSerial);
        assert!(matches!(spec(true), Err(MicroVmError::Secrets)));
        assert!(spec(false).is_ok());
    }

    #[test]
    fn only_a_guest_that_is_copied_lives_in_the_past() {
        let lag = |copied| recipe().orders(copied, Channel::Vsock, None).clock_behind_secs;
        assert_eq!((lag(false), lag(true)), (0, TEMPLATE_LAG));
    }
}
