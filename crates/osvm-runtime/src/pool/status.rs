//! What a pool holds right now, for people and for tests.

use super::{Pool, desk::Limits};
use crate::report::as_millis;
use serde::Serialize;

/// A pool at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolStatus {
    /// VMs alive at most, in use or not.
    pub max_vms: u32,
    /// VMs that may serve one server at once.
    pub max_vms_per_server: u32,
    /// Guest memory of all VMs together, in MiB.
    pub max_memory_mb: Option<u32>,
    /// VMs that live, or are being booted.
    pub vms: u32,
    /// Their memory, in MiB.
    pub memory_mb: u64,
    /// Those that serve a call.
    pub in_use: u32,
    /// Calls that wait for a VM.
    pub waiting: u32,
    /// One entry for each kind of guest that is kept.
    pub shelves: Vec<ShelfStatus>,
    /// Kinds of guests that the config asks for and that can't be made: why not.
    pub problems: Vec<String>,
}

/// The unused guests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShelfStatus {
    /// Name of the image.
    pub image: String,
    /// SHA-256 of the image.
    pub digest: String,
    /// The hypervisor.
    pub backend: &'static str,
    /// Memory of each guest, in MiB.
    pub memory_mb: u32,
    /// How many there should be.
    pub wanted: u32,
    /// How many are being booted.
    pub booting: u32,
    /// Guests that got ready so far.
    pub booted: u64,
    /// Boots that failed so far.
    pub failed: u64,
    /// Guests that ended, or spoke, before a call came.
    pub lost: u64,
    /// Why the last boot failed, if the last one did.
    pub failure: Option<String>,
    /// The guests that are ready.
    pub idle: Vec<SpareStatus>,
}

/// An unused guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpareStatus {
    /// Its address.
    pub cid: u32,
    /// Its VM process.
    pub vm_pid: u32,
    /// How long it took to get ready, in ms.
    pub boot_ms: f64,
    /// For how long it has been ready, in ms.
    pub idle_ms: f64,
}

impl Pool {
    /// What it holds right now.
    pub fn status(&self) -> PoolStatus {
        let state = self.shared.lock();
        let (Limits { max_vms, max_vms_per_server, max_memory_mb }, counts) =
            (state.desk.limits(), state.desk.counts());
        let shelves = state.shelves.iter().map(|shelf| {
            let key = &shelf.recipe.key;
            let idle = shelf.spares.iter().map(|(_, spare)| SpareStatus {
                cid: spare.cid(),
                vm_pid: spare.vm_pid(),
                boot_ms: as_millis(spare.boot),
                idle_ms: (spare.since.elapsed().as_secs_f64() * 1000.0).round(),
            });
            ShelfStatus {
                image: key.image.clone(),
                digest: key.digest.to_string(),
                backend: key.backend,
                memory_mb: shelf.memory_mb(),
                wanted: shelf.wanted,
                booting: shelf.booting,
                booted: shelf.counts.booted,
                failed: shelf.counts.failed,
                lost: shelf.counts.lost,
                failure: shelf.counts.failure.clone(),
                idle: idle.collect(),
            }
        });
        PoolStatus {
            max_vms,
            max_vms_per_server,
            max_memory_mb,
            vms: counts.vms,
            memory_mb: counts.memory_mb,
            in_use: counts.in_use,
            waiting: counts.waiting,
            shelves: shelves.collect(),
            problems: state.problems.clone(),
        }
    }
}
