//! A call whose VM QEMU boots for it, beside what the same QEMU takes to boot and exit.

use crate::calls::{ECHO, repeat};
use crate::figure::Figure;
use crate::host::{Host, RUNS, WARM_UP};
use anyhow::{Context, Result, bail};
use osvm_protocol::boot::BootPage;
use osvm_protocol::{Cid, PORT};
use osvm_qemu::{Accelerator, QemuBackend};
use osvm_vmm::{Backend as _, ConnectError, Death, GuestImage, MachineSpec, MemoryMib};
use std::path::Path;
use std::time::{Duration, Instant};

/// The default of `memory_mb`.
const MEMORY_MIB: u32 = 128;
/// Longest a guest may take to exit.
const PATIENCE: Duration = Duration::from_secs(30);

/// The whole program, cold, and its floor.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let qemu = which::which(osvm_qemu::PROGRAM).context("QEMU is not installed")?;
    host.install_hostile()?;
    let floor = floor(host, &qemu)?;
    let (calls, _) = repeat(host, &ECHO, "qemu")?;
    let calls = Figure::times("qemu: system echo, exec to exit", &calls)?.goal(60.0);
    let floor = Figure::times("qemu: floor, the same QEMU boots and exits", &floor)?;
    let ratio = calls.value / floor.value;
    let ratio = Figure::exact("qemu: system echo, exec to exit, to its floor", ratio, "x");
    Ok(vec![calls, floor, ratio.goal(1.8)])
}

/// From asking for a guest that exits at its first chance until nothing is left of it.
fn floor(host: &Host, qemu: &Path) -> Result<Vec<Duration>> {
    let guard = host.osvm_vm.clone();
    let backend = QemuBackend::new(qemu.to_owned(), guard, Accelerator::Tcg, false);
    let image = host.store.load("hostile")?;
    let env = vec![("HOSTILE".into(), "triple_fault".into())];
    let boot_page = BootPage { env }.encode()?;
    let mut times = Vec::new();
    for _ in 0..WARM_UP + RUNS {
        let spec = MachineSpec {
            image: GuestImage { name: image.name.clone(), file: image.file.clone() },
            memory: MemoryMib::new(MEMORY_MIB)?,
            // No vsock bus of the host is used, so this one need not be leased.
            cid: Cid::new(299)?,
            boot_page: boot_page.clone(),
            console: tempfile::tempfile()?,
            lease: None,
        };
        let begun = Instant::now();
        let mut machine = backend.boot(&spec)?;
        match machine.connect(PORT, begun + PATIENCE) {
            Err(ConnectError::Died(Death::TripleFault)) => {}
            other => bail!("the guest was to exit: {other:?}"),
        }
        drop(machine);
        times.push(begun.elapsed());
    }
    Ok(times.split_off(WARM_UP))
}
