//! What the network of a guest asks its host, and what it says of streams.

use crate::buffers::Outgoing;
use osvm_protocol::linux::net::{Net, frame};
use osvm_protocol::message::{self, Id};
use serde::Serialize;
use serde_json::value::to_raw_value;
use std::collections::BTreeMap;

/// Whom an answer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// This connection.
    Connection(u32),
    /// Those who asked for this name.
    Name(String),
    /// Nobody.
    Nobody,
}

/// The way to the host.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    last: u64,
    open: BTreeMap<u64, For>,
}

impl Asked {
    /// Whom the answer with this id is for, once.
    pub(crate) fn answered(&mut self, id: u64) -> Option<For> {
        self.open.remove(&id)
    }

    /// Wants no answer any more.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }
}

/// [`Asked`], and where frames go.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) asked: &'a mut Asked,
    pub(crate) outbox: &'a mut Outgoing,
}

impl Host<'_> {
    /// Asks; false if it can't be said.
    pub(crate) fn ask(&mut self, whom: For, method: &str, params: &impl Serialize) -> bool {
        let id = self.asked.last + 1;
        let params = to_raw_value(params).ok();
        let Ok(frame) = message::request(&Id::from(id), None, method, params.as_deref()) else {
            return false;
        };
        self.asked.last = id;
        self.asked.open.insert(id, whom);
        self.outbox.push(&frame);
        true
    }

    /// Says something of a stream.
    pub(crate) fn say(&mut self, stream: u32, said: Net<'_>) {
        // Data comes in pieces far below the limit.
        if let Ok(frame) = frame(stream, said) {
            self.outbox.push(&frame);
        }
    }
}
