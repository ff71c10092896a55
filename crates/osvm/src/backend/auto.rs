//! Which backend `auto` means on this host.
//!
//! ```text
//! KVM on the processor   ─▶ embedded VMM
//! KVM that interprets    ─▶ QEMU's own translation if it is installed, else embedded VMM
//! no KVM                 ─▶ QEMU's own translation if it is installed, else an error with the fix
//! ```
//!
//! An interpreting KVM starts a guest sooner than QEMU does, but runs it about thirty times
//! slower: beyond some 25,000 guest instructions QEMU is ahead, and most tools are beyond.
//!
//! KVM is measured once in the life of the host's kernel, which its boot id names, and the
//! result remembered beside the CIDs in use. A KVM that can't be used is looked at every time: that
//! is what people mend.

use osvm_kvm::probe::{self, Kind, Unusable};
use osvm_runtime::Dirs;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What this host's KVM is, as far as it decides about a backend.
#[derive(Debug)]
pub(crate) enum Kvm {
    /// Guests run on the processor.
    Hardware,
    /// Guests run in an interpreter in the host's kernel.
    Interpreted,
    /// Guests don't run.
    Unusable(Unusable),
}

/// The outcome of a measurement, and what it holds for.
#[derive(Debug, Deserialize, Serialize)]
struct Remembered {
    boot_id: String,
    hardware: bool,
}

/// This host's KVM, measured or remembered.
pub(crate) fn kvm(dirs: &Dirs) -> Kvm {
    let file = dirs.run.join("kvm.json");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let usable = || std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if let Some(hardware) = recall(&file, &boot_id).filter(|_| usable()) {
        return if hardware { Kvm::Hardware } else { Kvm::Interpreted };
    }
    match probe::measure() {
        Ok(speed) => {
            let hardware = speed.kind == Kind::Hardware;
            remember(&file, &Remembered { boot_id, hardware });
            if hardware { Kvm::Hardware } else { Kvm::Interpreted }
        }
        Err(unusable) => Kvm::Unusable(unusable),
    }
}

fn recall(file: &Path, boot_id: &str) -> Option<bool> {
    let remembered: Remembered = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (!boot_id.is_empty() && remembered.boot_id == boot_id).then_some(remembered.hardware)
}

/// Best effort: what is not remembered, as before the first call has made the directory, is
/// measured again.
fn remember(file: &Path, remembered: &Remembered) {
    let Ok(text) = serde_json::to_string(remembered) else { return };
    let fresh = file.with_extension(format!("{}", std::process::id()));
    if std::fs::write(&fresh, text).is_ok() {
        let _renamed = std::fs::rename(&fresh, file);
    }
}
