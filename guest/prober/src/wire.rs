//! Frames over a stream, and the ids of the prober's own requests.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use osvm_protocol::code::INVALID_REQUEST;
use osvm_protocol::frame;
use osvm_protocol::message::{self, Id, Message, RpcError};
use unikraft_tool_executor::Stream;

/// The connection cannot be used any more.
pub(crate) enum End<E> {
    /// The host hung up, or broke the framing.
    Closed,
    /// The platform failed.
    Failed(E),
}

/// One connection.
pub(crate) struct Wire<'s, S> {
    stream: &'s mut S,
    last_id: u64,
}

/// An answer of the host.
pub(crate) struct Answer {
    /// Which request it is for; `None` when it says so in no number.
    pub(crate) id: Option<u64>,
    /// The result as text, or the error.
    pub(crate) outcome: Result<String, RpcError>,
}

impl<'s, S: Stream> Wire<'s, S> {
    pub(crate) fn new(stream: &'s mut S) -> Self {
        // Far from the ids that an attempt may choose.
        Self { stream, last_id: 1 << 32 }
    }

    /// An id that was not used before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Waits for the next payload.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>, End<S::Error>> {
        let mut header = [0; frame::HEADER_LEN];
        let mut rest = header.as_mut_slice();
        while !rest.is_empty() {
            let read = self.stream.read(rest).map_err(End::Failed)?;
            rest = rest.get_mut(read..).filter(|_| read != 0).ok_or(End::Closed)?;
        }
        let len = frame::payload_len(header).map_err(|_| End::Closed)?;
        let mut payload = Vec::new();
        payload.try_reserve_exact(len).map_err(|_| End::Closed)?;
        while payload.len() < len {
            let missing = len.saturating_sub(payload.len());
            if self.stream.append(&mut payload, missing).map_err(End::Failed)? == 0 {
                return Err(End::Closed);
            }
        }
        Ok(payload)
    }

    /// Waits for the next answer. Another call that comes meanwhile is refused.
    pub(crate) fn answer(&mut self) -> Result<Answer, End<S::Error>> {
        loop {
            let payload = self.receive()?;
            match message::parse(&payload) {
                Ok(Message::Response(response)) => {
                    let id = match response.id {
                        Some(Id::Number(id)) => u64::try_from(id).ok(),
                        _ => None,
                    };
                    return Ok(Answer {
                        id,
                        outcome: response.outcome.map(|raw| raw.get().into()),
                    });
                }
                Ok(Message::Request(request)) => {
                    if let Some(id) = &request.id {
                        let busy = RpcError::new(INVALID_REQUEST, "a call is already running");
                        self.refuse(Some(id), &busy)?;
                    }
                }
                Err(error) => {
                    let rubbish = RpcError::new(error.code(), format!("rubbish: {error}"));
                    return Ok(Answer { id: None, outcome: Err(rubbish) });
                }
            }
        }
    }

    /// Sends a finished frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), End<S::Error>> {
        self.stream.write_all(frame).map_err(End::Failed)
    }

    /// Answers with an error.
    pub(crate) fn refuse(
        &mut self,
        id: Option<&Id<'_>>,
        error: &RpcError,
    ) -> Result<(), End<S::Error>> {
        let frame = message::error(id, error).map_err(|_| End::Closed)?;
        self.send(&frame)
    }
}
