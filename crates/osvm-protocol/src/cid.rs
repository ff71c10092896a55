//! Addresses of guests on the vsock bus, and the ranges osvm hands out.

use core::fmt;
use core::ops::RangeInclusive;
use thiserror::Error;

/// Guests that serve one call: unikernels and clones.
pub const EPHEMERAL: RangeInclusive<u32> = 200..=299;
/// Guests that live on: persistent MCP servers and the agent.
pub const PERSISTENT: RangeInclusive<u32> = 100..=199;

/// Address of one guest on the vsock bus.
///
/// vsock reserves 0 (hypervisor), 1 (loopback), 2 (host) and `u32::MAX` (any).
/// A `Cid` is none of these, so code that holds one can hand it to a VMM as is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(u32);

impl Cid {
    /// Address of the host on every vsock bus.
    pub const HOST: u32 = 2;
    /// Lowest address a guest may have.
    pub const MIN: Self = Self(3);
    /// Highest address a guest may have.
    pub const MAX: Self = Self(u32::MAX - 1);

    /// Accepts any address outside the reserved ones.
    pub const fn new(raw: u32) -> Result<Self, ReservedCid> {
        if Self::MIN.0 <= raw && raw <= Self::MAX.0 { Ok(Self(raw)) } else { Err(ReservedCid(raw)) }
    }

    /// The number the VMM and the guest driver expect.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address belongs to the hypervisor, the loopback, the host or nobody.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("guest CID {0} is reserved: use {min} to {max}", min = Cid::MIN, max = Cid::MAX)]
pub struct ReservedCid(u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_are_refused() {
        for raw in [0, 1, 2, u32::MAX] {
            assert_eq!(Cid::new(raw), Err(ReservedCid(raw)));
        }
    }

    #[test]
    fn both_ranges_hold_guest_addresses_only() {
        assert!(EPHEMERAL.chain(PERSISTENT).all(|raw| Cid::new(raw).is_ok()));
    }

    #[test]
    fn the_refusal_names_the_way_out() {
        let refusal = ReservedCid(2).to_string();
        assert_eq!(refusal, "guest CID 2 is reserved: use 3 to 4294967294");
    }
}
