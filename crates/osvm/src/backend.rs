//! Chooses the hypervisor. The one place that names backends.
//!
//! Programs are looked for when a guest is booted and not before, because a program that is
//! missing is a reason to deny isolation, not to refuse every command.

mod auto;

use crate::cli::BackendName;
use crate::vm_program;
use auto::Kvm;
use osvm_firecracker::{FirecrackerBackend, FirecrackerLinux};
use osvm_kvm::{KvmBackend, KvmLinux};
use osvm_policy::{BackendChoice, Config};
use osvm_qemu::{Accelerator, QemuBackend, QemuLinux};
use osvm_runtime::Dirs;
use osvm_vmm::linux::LinuxBackend;
use osvm_vmm::{Backend, BootError, Machine, MachineSpec};
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Overrides where Firecracker is.
const FIRECRACKER: &str = "OSVM_FIRECRACKER";

/// Name of the program that locks Firecracker in, which comes with it.
const JAILER: &str = "jailer";

/// What to do where the hypervisor that was named can't run Linux.
const ANY_BACKEND: &str = "leave out `--backend`, or name `qemu`, which needs no KVM";

/// A backend, and why it is this one.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The backend.
    pub(crate) backend: Arc<dyn Backend>,
    /// Why, as half a sentence.
    pub(crate) reason: String,
}

/// Which hypervisor the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    choice: BackendChoice,
    /// Whether the command line says so.
    asked: bool,
    /// Where the config says that Firecracker is.
    firecracker: Option<PathBuf>,
}

/// The hypervisor that the command line names, else the one the config names.
pub(crate) fn wanted(flag: Option<BackendName>, config: &Config) -> Wanted {
    let choice = match flag {
        None => config.backend(),
        Some(BackendName::Auto) => BackendChoice::Auto,
        Some(BackendName::Kvm) => BackendChoice::Kvm,
        Some(BackendName::Qemu) => BackendChoice::Qemu,
        Some(BackendName::Firecracker) => BackendChoice::Firecracker,
    };
    let firecracker = config.firecracker().map(PathBuf::from);
    Wanted { choice, asked: flag.is_some(), firecracker }
}

/// What boots unikernels.
pub(crate) fn choose(wanted: Wanted, dirs: &Dirs) -> Chosen {
    let Wanted { choice, asked, firecracker: path } = wanted;
    let by = if asked { "asked for" } else { "the config says so" };
    let (backend, reason) = match choice {
        BackendChoice::Auto => automatic(dirs),
        BackendChoice::Kvm => (kvm(), by.into()),
        BackendChoice::Qemu => {
            let hardware = matches!(auto::kvm(dirs), Kvm::Hardware);
            (qemu(if hardware { Accelerator::Kvm } else { Accelerator::Tcg }), by.into())
        }
        BackendChoice::Firecracker => (firecracker(path, dirs.run.clone()), by.into()),
    };
    Chosen { backend: Arc::new(backend), reason }
}

/// A backend by its name, or why it can't be used here.
type Named = (&'static str, Result<Arc<dyn Backend>, String>);

/// Every backend that `flag` means on this host, and why not where one can't be used.
pub(crate) fn every(flag: Option<BackendName>, config: &Config, dirs: &Dirs) -> Vec<Named> {
    let meant = |name: BackendName| match flag {
        None | Some(BackendName::Auto) => true,
        Some(flag) => flag == name,
    };
    let mut found = Vec::new();
    let mut add = |backend: Late| {
        let name = backend.name();
        let usable = backend.probe().map_err(|error| {
            let causes = crate::printer::causes(&error);
            std::iter::once(error.to_string()).chain(causes).collect::<Vec<_>>().join(": ")
        });
        found.push((name, usable.map(|()| Arc::new(backend) as Arc<dyn Backend>)));
    };
    if meant(BackendName::Kvm) {
        add(kvm());
    }
    if meant(BackendName::Qemu) {
        add(qemu(Accelerator::Tcg));
    }
    if meant(BackendName::Firecracker) {
        add(firecracker(config.firecracker().map(PathBuf::from), dirs.run.clone()));
    }
    if meant(BackendName::Qemu) {
        match auto::kvm(dirs) {
            Kvm::Hardware => add(qemu(Accelerator::Kvm)),
            Kvm::Interpreted => {
                let why =
                    "this host's KVM interprets guests, and then osvm has QEMU translate them";
                found.push(("qemu-kvm", Err(why.into())));
            }
            Kvm::Unusable(why) => found.push(("qemu-kvm", Err(why.to_string()))),
        }
    }
    found
}

fn automatic(dirs: &Dirs) -> (Late, String) {
    match (auto::kvm(dirs), qemu_program()) {
        (Kvm::Hardware, _) => (kvm(), "this host's KVM runs guests on the processor".into()),
        (Kvm::Interpreted, Some(_)) => {
            let reason = "this host's KVM interprets guests, and QEMU translates them faster";
            (qemu(Accelerator::Tcg), reason.into())
        }
        (Kvm::Interpreted, None) => {
            let reason = "this host's KVM interprets guests; QEMU would be faster for most tools, \
                          and is not installed";
            (kvm(), reason.into())
        }
        (Kvm::Unusable(why), Some(_)) => {
            (qemu(Accelerator::Tcg), format!("{why}, and QEMU needs none"))
        }
        (Kvm::Unusable(why), None) => {
            let reason = format!("{why}, and QEMU is not installed");
            let why = reason.clone();
            let none = move || Err(BootError::NoBackend { why: why.clone(), fix: osvm_qemu::FIX });
            (Late::new("none", none), reason)
        }
    }
}

fn kvm() -> Late {
    Late::new("kvm", || Ok(Box::new(KvmBackend::new(vm_program::find()?))))
}

fn qemu(accelerator: Accelerator) -> Late {
    let name = match accelerator {
        Accelerator::Kvm => "qemu-kvm",
        Accelerator::Tcg => "qemu-tcg",
    };
    Late::new(name, move || {
        let program = qemu_program().ok_or_else(no_qemu)?;
        Ok(Box::new(QemuBackend::new(program, vm_program::find()?, accelerator, true)))
    })
}

fn firecracker(path: Option<PathBuf>, runtime_dir: PathBuf) -> Late {
    Late::new("firecracker", move || {
        let program = firecracker_program(path.as_deref()).ok_or_else(no_firecracker)?;
        let guard = vm_program::find()?;
        let jailer = program.with_file_name(JAILER);
        let backend = FirecrackerBackend::new(program, guard, runtime_dir.clone());
        // The jailer needs root, and then there is no reason to do without it.
        let jailed = rustix::process::geteuid().is_root() && jailer.exists();
        Ok(Box::new(if jailed { backend.with_jailer(jailer) } else { backend }))
    })
}

/// What boots Linux guests. No KVM that interprets can run them, so what needs KVM is refused there.
///
/// # Errors
///
/// Nothing on this host does, or not what was wanted.
pub(crate) fn linux(wanted: &Wanted, dirs: &Dirs) -> Result<Arc<dyn LinuxBackend>, BootError> {
    let guard = vm_program::find()?;
    let kvm = auto::kvm(dirs);
    let on_hardware = |backend| match &kvm {
        Kvm::Hardware => Ok(()),
        Kvm::Interpreted => {
            let what = "Linux: this host's KVM interprets guests, which is not enough for it";
            Err(BootError::Unsupported { backend, what: what.into() })
        }
        Kvm::Unusable(why) => Err(BootError::NoBackend { why: why.to_string(), fix: ANY_BACKEND }),
    };
    let backend: Arc<dyn LinuxBackend> = match wanted.choice {
        BackendChoice::Firecracker => {
            on_hardware("firecracker")?;
            let program = firecracker_program(wanted.firecracker.as_deref());
            let program = program.ok_or_else(no_firecracker)?;
            Arc::new(FirecrackerLinux::new(program, guard, dirs.run.clone()))
        }
        BackendChoice::Kvm => {
            on_hardware("kvm")?;
            Arc::new(KvmLinux::new(guard))
        }
        BackendChoice::Auto if matches!(kvm, Kvm::Hardware) => Arc::new(KvmLinux::new(guard)),
        BackendChoice::Auto | BackendChoice::Qemu => {
            let hardware = matches!(kvm, Kvm::Hardware);
            let accelerator = if hardware { Accelerator::Kvm } else { Accelerator::Tcg };
            Arc::new(QemuLinux::new(qemu_program().ok_or_else(no_qemu)?, guard, accelerator))
        }
    };
    backend.probe()?;
    Ok(backend)
}

fn no_qemu() -> BootError {
    BootError::Program {
        program: osvm_qemu::PROGRAM.into(),
        source: io::ErrorKind::NotFound.into(),
        fix: osvm_qemu::FIX,
    }
}

fn no_firecracker() -> BootError {
    BootError::Program {
        program: osvm_firecracker::PROGRAM.into(),
        source: io::ErrorKind::NotFound.into(),
        fix: osvm_firecracker::FIX,
    }
}

/// QEMU on this host.
pub(crate) fn qemu_program() -> Option<PathBuf> {
    which::which(osvm_qemu::PROGRAM).ok()
}

/// Firecracker on this host: named by the environment, by the config as `path`, or on `PATH`.
pub(crate) fn firecracker_program(path: Option<&Path>) -> Option<PathBuf> {
    let named = env::var_os(FIRECRACKER).map(PathBuf::from).or_else(|| Some(path?.into()));
    named.or_else(|| which::which(osvm_firecracker::PROGRAM).ok())
}

/// A backend that is put together when it is first needed, and again if that failed.
struct Late {
    name: &'static str,
    make: Box<dyn Fn() -> Result<Box<dyn Backend>, BootError> + Send + Sync>,
    made: OnceLock<Box<dyn Backend>>,
}

impl Late {
    fn new(
        name: &'static str,
        make: impl Fn() -> Result<Box<dyn Backend>, BootError> + Send + Sync + 'static,
    ) -> Self {
        Self { name, make: Box::new(make), made: OnceLock::new() }
    }

    fn backend(&self) -> Result<&dyn Backend, BootError> {
        if let Some(made) = self.made.get() {
            return Ok(&**made);
        }
        let made = (self.make)()?;
        Ok(&**self.made.get_or_init(|| made))
    }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Late").field(&self.name).finish()
    }
}

impl Backend for Late {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self) -> Result<(), BootError> {
        self.backend()?.probe()
    }

    fn translates(&self) -> bool {
        self.backend().is_ok_and(Backend::translates)
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        self.backend()?.boot(spec)
    }
}
