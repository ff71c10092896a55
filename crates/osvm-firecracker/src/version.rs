//! Which Firecracker this is, and whether osvm can use it.

use std::fmt;

/// Oldest release whose configuration file osvm writes.
const OLDEST: Version = Version { major: 1, minor: 4, patch: 0 };

/// Oldest release whose copies of a guest can be reached: their vsock sockets may have paths of their
/// own from 1.16.0 on, which loses vsock when it restores.
const RESTORES: Version = Version { major: 1, minor: 16, patch: 1 };

/// A release of Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when the API does.
    pub major: u32,
    /// Features.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

impl Version {
    /// Reads the answer of `firecracker --version`: `Firecracker v1.16.1` and more lines.
    pub fn parse(answer: &str) -> Option<Self> {
        let number = answer.lines().next()?.trim().strip_prefix("Firecracker v")?;
        let number = number.split(['-', ' ']).next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let mut next = || parts.next().flatten();
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }

    /// Whether guests can be booted with it.
    pub fn boots(self) -> bool {
        self.major == OLDEST.major && OLDEST <= self
    }

    /// Whether a guest restored from a snapshot can be reached.
    pub fn restores(self) -> bool {
        self.boots() && RESTORES <= self
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    #[test]
    fn releases_and_development_builds_are_read() {
        assert_eq!(Version::parse("Firecracker v1.16.1\n\nmore"), Some(version(1, 16, 1)));
        assert_eq!(Version::parse("Firecracker v1.17.0-dev\n"), Some(version(1, 17, 0)));
    }

    #[test]
    fn other_programs_are_not_taken_for_firecracker() {
        for answer in ["", "QEMU emulator version 7.2", "Firecracker v", "Firecracker v1.x.0"] {
            assert_eq!(Version::parse(answer), None, "{answer:?}");
        }
    }

    #[test]
    fn releases_before_copies_have_sockets_of_their_own_boot_but_do_not_restore() {
        for old in [version(1, 4, 0), version(1, 15, 0), version(1, 16, 0)] {
            assert!(old.boots() && !old.restores(), "{old}");
        }
        for new in [version(1, 16, 1), version(1, 17, 0)] {
            assert!(new.boots() && new.restores(), "{new}");
        }
    }

    #[test]
    fn releases_with_another_api_do_not_boot() {
        for other in [version(1, 3, 3), version(2, 0, 0)] {
            assert!(!other.boots() && !other.restores(), "{other}");
        }
    }
}
