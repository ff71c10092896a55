//! The status line: what runs now, counted from locks that only living processes hold.
//!
//! ```text
//! OSVM: 1μVMs 0uK • osvm-mcp(μVM-1:cfg) • net:none • up:0s
//! ```

use crate::calls::LogLine;
use crate::cids::{CidError, Cids, Holder};
use crate::{Runtime, calls::LogError};
use osvm_policy::{Config, ExecutionMode};
use osvm_protocol::cid::PERSISTENT;
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// What `osvm status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// MicroVMs that run now.
    pub micro_vms: usize,
    /// Unikernels that run now.
    pub unikernels: usize,
    /// Those of them that are unused: booted, and waiting for a call.
    pub idle: usize,
    /// Why the newest call could not be isolated, if it could not.
    pub isolation_failure: Option<String>,
    /// The servers of the isolation config.
    pub servers: Vec<ServerPlace>,
    /// State of the guests' network. `none`: no guest has a network card.
    pub network: &'static str,
    /// How long osvm has been running, in seconds.
    #[serde(rename = "up_secs", serialize_with = "seconds")]
    pub up: Duration,
}

/// Where the tools of a server run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerPlace {
    /// The server.
    pub name: String,
    /// Where its tools run; several when they differ.
    pub places: Vec<Place>,
}

/// Where a tool runs, as the config says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In a unikernel of its own.
    Unikernel,
    /// In a microVM.
    MicroVm,
    /// On the host, without isolation.
    Host,
}

/// The status can't be told.
#[derive(Debug, Error)]
pub enum StatusError {
    /// It is not known which guests run.
    #[error(transparent)]
    Cids(#[from] CidError),
    /// It is not known how the last call went.
    #[error(transparent)]
    Logs(#[from] LogError),
}

impl StatusError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cids(error) => error.hint(),
            Self::Logs(error) => error.hint(),
        }
    }
}

impl Runtime {
    /// What runs now, and how the newest call was isolated.
    ///
    /// # Errors
    ///
    /// [`StatusError`]: what can't be counted is not shown as none.
    pub fn status(&self, up: Duration) -> Result<Status, StatusError> {
        let mut micro_vms = self.micro_vms()?;
        // Copies of Linux guests have CIDs of the same range as unikernels.
        let of_calls = self.cids().list()?;
        let (copies, unikernels) = of_calls.into_iter().partition(|guest| guest.micro_vm);
        let unikernels: Vec<Holder> = unikernels;
        micro_vms.extend::<Vec<Holder>>(copies);
        Ok(Status {
            micro_vms: running(&micro_vms),
            unikernels: running(&unikernels),
            idle: unikernels.iter().filter(|guest| guest.idle && guest.vm_pid.is_some()).count(),
            isolation_failure: self.last_isolation_failure()?,
            servers: places(self.config()),
            network: "none",
            up,
        })
    }

    /// Every holder of a CID, microVMs first; one without a `vm_pid` is about to boot.
    ///
    /// # Errors
    ///
    /// [`CidError`] when the CIDs can't be read.
    pub fn guests(&self) -> Result<Vec<Holder>, CidError> {
        let mut guests = self.micro_vms()?;
        guests.extend(self.cids().list()?);
        Ok(guests)
    }

    fn micro_vms(&self) -> Result<Vec<Holder>, CidError> {
        Cids::new(&self.dirs().run, PERSISTENT).list()
    }

    fn last_isolation_failure(&self) -> Result<Option<String>, LogError> {
        let Some(mut log) = self.logs().newest()? else { return Ok(None) };
        let mut failure = None;
        while let Some(line) = log.next(false)? {
            if let LogLine::End(end) = line {
                failure = end.isolation_failure;
            }
        }
        Ok(failure)
    }
}

/// A CID is taken a moment before its VM process starts: until then nothing runs.
fn running(holders: &[Holder]) -> usize {
    holders.iter().filter(|holder| holder.vm_pid.is_some()).count()
}

fn places(config: &Config) -> Vec<ServerPlace> {
    let servers = config.servers();
    let places = servers.map(|server| {
        // The empty name is no tool's, so it stands for those without an entry of their own.
        let tools = server.tools.iter().copied().chain([""]);
        let mut places: Vec<Place> =
            tools.map(|tool| config.resolve(server.name, tool).mode.into()).collect();
        places.sort_unstable();
        places.dedup();
        ServerPlace { name: server.name.into(), places }
    });
    places.collect()
}

impl From<ExecutionMode> for Place {
    fn from(mode: ExecutionMode) -> Self {
        match mode {
            ExecutionMode::Unikernel => Self::Unikernel,
            ExecutionMode::MicroVm => Self::MicroVm,
            ExecutionMode::Direct => Self::Host,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unikernel => "uK",
            Self::MicroVm => "μVM",
            Self::Host => "host",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tried = if self.isolation_failure.is_some() { "*" } else { "" };
        write!(f, "OSVM: {}μVMs {}uK{tried}", self.micro_vms, self.unikernels)?;
        for (position, ServerPlace { name, places }) in self.servers.iter().enumerate() {
            write!(f, "{}{name}(", if position == 0 { " • " } else { " " })?;
            for (position, place) in places.iter().enumerate() {
                write!(f, "{}{place}", if position == 0 { "" } else { "+" })?;
            }
            f.write_str(":cfg)")?;
        }
        let up = humantime::format_duration(Duration::from_secs(self.up.as_secs()));
        let up = up.to_string().replace(' ', "");
        write!(f, " • net:{} • up:{up}", self.network)?;
        match &self.isolation_failure {
            Some(reason) => write!(f, "\n* the last call could not be isolated: {reason}"),
            None => Ok(()),
        }
    }
}

fn seconds<S: serde::Serializer>(up: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(up.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            micro_vms: 0,
            unikernels: 2,
            idle: 1,
            isolation_failure: None,
            servers: vec![
                ServerPlace { name: "osvm-mcp".into(), places: vec![Place::Unikernel] },
                ServerPlace { name: "x".into(), places: vec![Place::Unikernel, Place::Host] },
            ],
            network: "none",
            up: Duration::from_millis(61_900),
        }
    }

    #[test]
    fn one_line_says_what_runs_and_where() {
        assert_eq!(
            status().to_string(),
            "OSVM: 0μVMs 2uK • osvm-mcp(uK:cfg) x(uK+host:cfg) • net:none • up:1m1s"
        );
    }

    #[test]
    fn a_call_that_was_not_isolated_leaves_a_mark_and_its_reason() {
        let failed = Status {
            servers: vec![],
            unikernels: 0,
            up: Duration::ZERO,
            isolation_failure: Some("cannot open `/dev/kvm`".into()),
            ..status()
        };
        assert_eq!(
            failed.to_string(),
            "OSVM: 0μVMs 0uK* • net:none • up:0s\n\
             * the last call could not be isolated: cannot open `/dev/kvm`"
        );
    }
}
