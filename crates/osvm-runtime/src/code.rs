//! One word for each way a call fails: what programs tell failures apart by.
//!
//! `docs/cli.md` lists the words, and they do not change. A new error must get one to compile.

use crate::cids::CidError;
use crate::error::CallError;
use crate::pool::Busy;
use osvm_image::LookupError;
use osvm_vmm::BootError;

impl CallError {
    /// The word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Image(_) => "image",
            Self::Lookup(LookupError::UnknownServer { .. }) => "unknown_server",
            Self::Lookup(LookupError::UnknownTool { .. }) => "unknown_tool",
            Self::Arguments(_) => "arguments",
            Self::Cid(CidError::AllTaken { .. }) => "all_cids_taken",
            Self::Cid(
                CidError::Dir(_)
                | CidError::Io { .. }
                | CidError::BadRange { .. }
                | CidError::Cancelled,
            ) => "cids",
            Self::Busy(Busy::Full { .. }) => "busy",
            Self::Busy(Busy::TooLarge { .. }) => "denied",
            Self::Busy(Busy::Cancelled) => "interrupted",
            Self::Log(_) => "log",
            Self::Boot(error) => match error {
                BootError::OpenKvm(_) | BootError::NoBackend { .. } => "kvm",
                BootError::Program { .. } => "vm_program",
                BootError::BadImage { .. } => "image",
                BootError::Unsupported { .. } => "denied",
                BootError::Host { .. } | BootError::VmProcess { .. } => "boot",
            },
            Self::Connect(_) => "boot",
            Self::Deadline { .. } => "timeout",
            Self::Cancelled => "interrupted",
            Self::Guest(_) => "guest",
            Self::Direct(_) => "direct",
            Self::Hosted(failure) => failure.code,
            Self::Ledger(_) | Self::NoReceipt { .. } => "receipts",
        }
    }
}
