//! What is told about a call: the answer, and how it was isolated.

use crate::error::CallError;
use crate::exchange::Answer;
use crate::id::CallId;
use osvm_policy::ExecutionMode;
use serde::{Deserialize, Serialize, Serializer};
use std::time::Duration;

/// One call, told.
#[derive(Debug)]
pub struct Report {
    /// The call; `osvm logs` knows it by this id.
    pub call: CallId,
    /// The answer, or why there is none.
    pub outcome: Result<Answer, CallError>,
    /// How it ran.
    pub isolation: Isolation,
}

/// Where a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunMode {
    /// In a unikernel made for the call.
    Unikernel,
    /// In a Linux microVM that runs the MCP server.
    MicroVm,
    /// On the host, with the user's rights.
    Direct,
    /// On a server behind an address, which is not osvm's to isolate.
    Remote,
}

impl RunMode {
    /// The word in reports, logs and receipts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unikernel => "unikernel",
            Self::MicroVm => "microvm",
            Self::Direct => "direct",
            Self::Remote => "remote",
        }
    }
}

impl From<ExecutionMode> for RunMode {
    fn from(mode: ExecutionMode) -> Self {
        match mode {
            ExecutionMode::Unikernel => Self::Unikernel,
            ExecutionMode::MicroVm => Self::MicroVm,
            ExecutionMode::Direct => Self::Direct,
        }
    }
}

/// How a call ran. Every field was measured in this call; `None` (`null`) did not happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Isolation {
    /// Mode the call ran in, or was to run in when it failed before.
    pub mode: RunMode,
    /// The hypervisor.
    pub backend: Option<&'static str>,
    /// The guest's address.
    pub cid: Option<u32>,
    /// Process id the VM process had.
    pub vm_pid: Option<u32>,
    /// Name of the image that was booted.
    pub image: Option<String>,
    /// SHA-256 of the image that was booted.
    pub image_digest: Option<String>,
    /// From asking the backend for a guest until the guest accepted a connection, in ms. For a
    /// guest that was there before the call: from asking for one until the call had it.
    #[serde(rename = "boot_ms", serialize_with = "millis")]
    pub boot: Option<Duration>,
    /// From sending the request to the answer, in ms.
    #[serde(rename = "call_ms", serialize_with = "millis")]
    pub call: Option<Duration>,
    /// From the start of the call until nothing was left of it, in ms. In a record, and where the
    /// guest is destroyed behind the answer ([`crate::Runtime::answer`]), until that was there.
    #[serde(rename = "total_ms", serialize_with = "millis")]
    pub total: Option<Duration>,
    /// Whether the guest was booted before the call came, and used for the first time by it.
    pub pooled: bool,
    /// Whether the guest had served an earlier call of the same batch, as its client asked.
    pub reused: bool,
    /// How long the boot of a guest took that was there before the call, in ms.
    #[serde(rename = "vm_boot_ms", serialize_with = "millis")]
    pub vm_boot: Option<Duration>,
    /// Guest memory that had been touched when the call ended, in KiB.
    pub guest_memory_kb: Option<u64>,
    /// Why the call ran on the host although it was to be isolated.
    pub fallback: Option<String>,
}

impl Isolation {
    /// Nothing has happened yet.
    pub fn none(mode: RunMode) -> Self {
        Self {
            mode,
            backend: None,
            cid: None,
            vm_pid: None,
            image: None,
            image_digest: None,
            boot: None,
            call: None,
            total: None,
            pooled: false,
            reused: false,
            vm_boot: None,
            guest_memory_kb: None,
            fallback: None,
        }
    }
}

/// Milliseconds with three digits behind the point.
pub(crate) fn as_millis(duration: Duration) -> f64 {
    // Whole microseconds, so that a shortest-form writer prints no more digits than there are.
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

#[expect(clippy::ref_option, reason = "the shape that serde asks for")]
fn millis<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration.map(as_millis).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_null() {
        let json = serde_json::to_string(&Isolation::none(RunMode::Unikernel)).unwrap();
        assert_eq!(
            json,
            r#"{"mode":"unikernel","backend":null,"cid":null,"vm_pid":null,"image":null,"#
                .to_owned()
                + r#""image_digest":null,"boot_ms":null,"call_ms":null,"total_ms":null,"#
                + r#""pooled":false,"reused":false,"vm_boot_ms":null,"#
                + r#""guest_memory_kb":null,"fallback":null}"#
        );
    }

    #[test]
    fn times_are_milliseconds_to_the_microsecond() {
        let boot = Some(Duration::from_nanos(12_345_678));
        let isolation = Isolation { boot, ..Isolation::none(RunMode::Direct) };
        let json = serde_json::to_string(&isolation).unwrap();
        assert!(json.contains(r#""boot_ms":12.345,"#), "{json}");
    }
}
