//! The 128 bytes beside the lock of a CID: one line of text, `cat`-able.
//!
//! ```text
//! <pid> <vm pid or 0> <unix time, ms> <call id> <server/tool>        padded with spaces, newline
//! <pid> <vm pid or 0> <unix time, ms> idle <image>                   of a guest that waits for a call
//! <pid> <vm pid or 0> <unix time, ms> microvm <server>               of a Linux guest
//! ```
//!
//! Every process of the user can write here, so reading is total and takes nothing on trust.

use super::{Claim, Holder};
use crate::id::CallId;
use osvm_protocol::Cid;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a record, in bytes.
pub(super) const LEN: usize = 128;

/// Where the record of `cid` begins.
pub(super) fn offset(cid: Cid) -> u64 {
    u64::from(cid.get()) * LEN as u64
}

/// The CIDs that a lock covers. A length of 0 goes on to the end of all files: fcntl(2).
pub(super) fn covered(start: i64, len: i64) -> (u32, u32) {
    let cid = |byte: i64| u32::try_from(byte / LEN as i64).unwrap_or(u32::MAX);
    let last = if len == 0 { u32::MAX } else { cid(start.saturating_add(len) - 1) };
    (cid(start), last)
}

/// Stands where the call id does, for a guest that has none yet.
const IDLE: &str = "idle";

/// Stands there for a Linux guest, which is asked more than one thing.
const MICRO_VM: &str = "microvm";

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) pid: Option<u32>,
    pub(super) vm_pid: Option<u32>,
    pub(super) since_ms: Option<u64>,
    pub(super) call: Option<CallId>,
    pub(super) tool: String,
    pub(super) idle: bool,
    pub(super) micro_vm: bool,
}

impl Record {
    pub(super) fn new(claim: Claim<'_>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            pid: Some(std::process::id()),
            vm_pid: None,
            since_ms: u64::try_from(now.as_millis()).ok(),
            call: Some(claim.call),
            tool: printable(&format!("{}/{}", claim.server, claim.tool)),
            idle: false,
            micro_vm: false,
        }
    }

    /// The record of a Linux guest that runs `server`.
    pub(super) fn micro_vm(server: &str) -> Self {
        Self { idle: false, micro_vm: true, ..Self::idle(server) }
    }

    /// The record of a guest of `image` that waits for a call.
    pub(super) fn idle(image: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            pid: Some(std::process::id()),
            since_ms: u64::try_from(now.as_millis()).ok(),
            tool: printable(image),
            idle: true,
            ..Self::default()
        }
    }

    pub(super) fn write(&self, file: impl AsFd, cid: Cid) -> io::Result<()> {
        let call = match self.call {
            Some(call) => call.to_string(),
            None if self.idle => IDLE.into(),
            None if self.micro_vm => MICRO_VM.into(),
            None => String::new(),
        };
        let mut line = format!(
            "{} {} {} {call} {}",
            self.pid.unwrap_or_default(),
            self.vm_pid.unwrap_or_default(),
            self.since_ms.unwrap_or_default(),
            self.tool
        )
        .into_bytes();
        line.resize(LEN - 1, b' ');
        line.push(b'\n');
        match rustix::io::pwrite(file, &line, offset(cid))? {
            LEN => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    pub(super) fn read(file: &File, cid: Cid) -> Self {
        let mut line = [0; LEN];
        match file.read_exact_at(&mut line, offset(cid)) {
            Ok(()) => Self::parse(&String::from_utf8_lossy(&line)),
            Err(_) => Self::default(),
        }
    }

    fn parse(line: &str) -> Self {
        let mut fields = line.trim_end_matches(['\0', '\n', ' ']).splitn(5, ' ');
        let pid = |text: &str| text.parse::<u32>().ok().filter(|pid| *pid != 0);
        let (owner, vm_pid) = (fields.next().and_then(pid), fields.next().and_then(pid));
        let since_ms = fields.next().and_then(|text| text.parse().ok());
        let call = fields.next().unwrap_or_default();
        Self {
            pid: owner,
            vm_pid,
            since_ms,
            call: call.parse().ok(),
            tool: printable(fields.next().unwrap_or_default()),
            idle: call == IDLE,
            micro_vm: call == MICRO_VM,
        }
    }

    pub(super) fn into_holder(self, cid: Cid) -> Holder {
        let since = self.since_ms.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        let Self { pid, vm_pid, call, tool, idle, micro_vm, .. } = self;
        Holder { cid, pid, vm_pid, since, call, tool, idle, micro_vm }
    }
}

/// One line of ASCII: names of tools come from clients.
fn printable(text: &str) -> String {
    text.chars().take(LEN).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let call = CallId::now();
        let written = Record::new(Claim { call, server: "solana", tool: "get balance\n" });
        let file = tempfile::tempfile().unwrap();
        let cid = Cid::new(207).unwrap();
        written.write(&file, cid).unwrap();
        let read = Record::read(&file, cid);
        assert_eq!(read, written);
        assert_eq!(read.tool, "solana/get?balance?");
    }

    #[test]
    fn a_guest_that_waits_for_a_call_says_so() {
        let file = tempfile::tempfile().unwrap();
        let cid = Cid::new(200).unwrap();
        Record::idle("solana").write(&file, cid).unwrap();
        let holder = Record::read(&file, cid).into_holder(cid);
        assert_eq!((holder.idle, holder.call, holder.tool.as_str()), (true, None, "solana"));
    }

    #[test]
    fn a_linux_guest_says_so() {
        let file = tempfile::tempfile().unwrap();
        let cid = Cid::new(100).unwrap();
        Record::micro_vm("files").write(&file, cid).unwrap();
        let holder = Record::read(&file, cid).into_holder(cid);
        assert_eq!((holder.micro_vm, holder.idle, holder.tool.as_str()), (true, false, "files"));
    }

    #[test]
    fn a_long_name_is_cut_and_stays_in_its_record() {
        let call = CallId::now();
        let name = "x".repeat(1000);
        let file = tempfile::tempfile().unwrap();
        let cid = Cid::new(3).unwrap();
        Record::new(Claim { call, server: &name, tool: "" }).write(&file, cid).unwrap();
        assert_eq!(file.metadata().unwrap().len(), offset(Cid::new(4).unwrap()));
        assert!(Record::read(&file, cid).tool.starts_with("xxx"));
    }

    #[test]
    fn rubbish_is_an_empty_record() {
        for text in ["", "\0\0\0", "x y z", "-1 99999999999 z !"] {
            assert_eq!(Record::parse(text), Record::default(), "{text:?}");
        }
    }
}
