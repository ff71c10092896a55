//! What QEMU says about the guest's end, over its private machine protocol socket.
//!
//! Only events are read, and only two of them matter. Lines are bounded; what is not understood
//! is skipped, because QEMU sends more kinds of events with every release.

use osvm_vmm::Death;
use serde::Deserialize;

/// What switches events on. Written before QEMU starts, so there is nothing to wait for.
pub(crate) const GREETING: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";

/// Longest line kept, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// The stream from QEMU, cut into lines.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Line<'a> {
    event: Option<&'a str>,
    data: Option<Data<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(default)]
    reason: Option<&'a str>,
}

impl Events {
    /// Takes bytes; returns why the guest ended, if one of the lines says so.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Death> {
        let mut death = None;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len().saturating_add(piece.len()) <= MAX_LINE {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                death = death.or_else(|| death_in(&self.line));
                self.line.clear();
            }
        }
        death
    }
}

fn death_in(line: &[u8]) -> Option<Death> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    match (line.event?, line.data.and_then(|data| data.reason)) {
        // With `-no-reboot` a reset is a shutdown, and a unikernel resets only by triple fault.
        ("SHUTDOWN", Some("guest-reset")) => Some(Death::TripleFault),
        ("SHUTDOWN", Some("guest-shutdown")) => Some(Death::ShutDown),
        ("STOP", _) => Some(Death::VmmFailed { reason: "QEMU stopped the guest".into() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_a_triple_fault() {
        let mut events = Events::default();
        let line = br#"{"timestamp":{"seconds":1},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        assert_eq!(events.feed(line), None);
        assert_eq!(events.feed(b"\n"), Some(Death::TripleFault));
    }

    #[test]
    fn other_lines_say_nothing() {
        let mut events = Events::default();
        assert_eq!(
            events.feed(b"{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\nrubbish\n"),
            None
        );
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut events = Events::default();
        for _ in 0..100 {
            assert_eq!(events.feed(&[b'x'; 4096]), None);
        }
        assert!(events.line.len() <= MAX_LINE);
    }
}
