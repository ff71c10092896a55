//! What the register file of a saved device holds, and why another one may refuse to go on with it.
//!
//! Plain data without invariants: whoever restores a device takes it for the words of a stranger.

use crate::abuse::Abuse;
use serde::{Deserialize, Serialize};
use std::io;
use thiserror::Error;

/// The register file of a device between two accesses of its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistersState {
    /// The queues, by index.
    pub rings: Vec<RingState>,
    /// `QueueSel`.
    pub queue_select: u32,
    /// `DeviceFeaturesSel`.
    pub device_features_select: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_select: u32,
    /// Both halves of `DriverFeatures`.
    pub driver_features: u64,
    /// `Status`.
    pub status: u32,
    /// `InterruptStatus`: what the driver has not acknowledged yet.
    pub interrupt_status: u32,
}

/// One queue: where the driver put it, and how far the device has come in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingState {
    /// Entries, as the driver chose.
    pub size: u32,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// Whether the device may use the queue.
    pub ready: bool,
    /// The available index up to which the device has taken buffers.
    pub next_avail: u16,
    /// The used index up to which it has given buffers back.
    pub next_used: u16,
}

/// Why a device can't go on where a saved one stopped.
#[derive(Debug, Error)]
pub enum NotRestored {
    /// The saved device was of another kind.
    #[error("the saved device has {found} queues instead of {expected}")]
    Queues {
        /// What this device has.
        expected: usize,
        /// What the saved one had.
        found: usize,
    },
    /// The driver uses what this device does not offer, or not what it demands.
    #[error("the saved device's driver uses features {features:#x}, which this device can't serve")]
    Features {
        /// Both halves of `DriverFeatures`.
        features: u64,
    },
    /// The rings can't be used, or what is in them can't.
    #[error("the saved device cannot use its queues")]
    Queue(#[from] Abuse),
    /// The host has no means for the device.
    #[error("cannot make the device")]
    Make(#[from] io::Error),
}
