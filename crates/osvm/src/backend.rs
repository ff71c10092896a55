//! Chooses the hypervisor. The one place that names backends.

use crate::cli::BackendName;
use crate::failure::Failure;
use crate::vm_program;
use osvm_kvm::KvmBackend;
use osvm_policy::BackendChoice;
use osvm_vmm::{Backend, BootError, Machine, MachineSpec};
use std::sync::Arc;

/// The backend that the command line names, else the one the config names.
pub(crate) fn choose(
    flag: Option<BackendName>,
    config: BackendChoice,
) -> Result<Arc<dyn Backend>, Failure> {
    let choice = match flag {
        None => config,
        Some(BackendName::Auto) => BackendChoice::Auto,
        Some(BackendName::Kvm) => BackendChoice::Kvm,
        Some(BackendName::Qemu) => BackendChoice::Qemu,
        Some(BackendName::Firecracker) => BackendChoice::Firecracker,
    };
    match choice {
        BackendChoice::Auto | BackendChoice::Kvm => Ok(Arc::new(Embedded)),
        BackendChoice::Qemu => Err(absent("qemu")),
        BackendChoice::Firecracker => Err(absent("firecracker")),
    }
}

fn absent(name: &str) -> Failure {
    Failure::new("backend", format!("backend `{name}` is not part of this build"))
        .hint("use `--backend kvm`")
}

/// The embedded VMM. Its program is looked for when a guest is booted and not before, because a
/// program that is missing is a reason to deny isolation, not to refuse every command.
#[derive(Debug)]
struct Embedded;

impl Embedded {
    fn backend() -> Result<KvmBackend, BootError> {
        Ok(KvmBackend::new(vm_program::find()?))
    }
}

impl Backend for Embedded {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn probe(&self) -> Result<(), BootError> {
        Self::backend()?.probe()
    }

    fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        Self::backend()?.boot(spec)
    }
}
