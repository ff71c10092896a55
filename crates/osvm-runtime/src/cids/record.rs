//! The 128 bytes beside the lock of a CID: one line of text, `cat`-able.
//!
//! ```text
//! <pid> <vm pid or 0> <unix time, ms> <call id> <server/tool>        padded with spaces, newline
//! ```
//!
//! Every process of the user can write here, so reading is total and takes nothing on trust.

use super::{Claim, Holder};
use crate::id::CallId;
use osvm_protocol::Cid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a record, in bytes.
pub(super) const LEN: usize = 128;

/// Where the record of `cid` begins.
pub(super) fn offset(cid: Cid) -> u64 {
    u64::from(cid.get()) * LEN as u64
}

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) pid: Option<u32>,
    pub(super) vm_pid: Option<u32>,
    pub(super) since_ms: Option<u64>,
    pub(super) call: Option<CallId>,
    pub(super) tool: String,
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
        }
    }

    pub(super) fn write(&self, file: &File, cid: Cid) -> io::Result<()> {
        let call = self.call.map(|call| call.to_string()).unwrap_or_default();
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
        file.write_all_at(&line, offset(cid))
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
        Self {
            pid: fields.next().and_then(pid),
            vm_pid: fields.next().and_then(pid),
            since_ms: fields.next().and_then(|text| text.parse().ok()),
            call: fields.next().and_then(|text| text.parse().ok()),
            tool: printable(fields.next().unwrap_or_default()),
        }
    }

    pub(super) fn into_holder(self, cid: Cid) -> Holder {
        let since = self.since_ms.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        let Self { pid, vm_pid, call, tool, .. } = self;
        Holder { cid, pid, vm_pid, since, call, tool }
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
