//! Frames and messages over a [`Stream`], and the guest's own requests to the host.
//!
//! # Invariants
//!
//! - A frame's length is checked before room is made for it, and room is made once.
//! - While the guest waits for the host's answer it takes nothing else: a second request is
//!   refused, and any other message ends the connection once the call is answered.

use crate::Stream;
use crate::context::Host;
use crate::json::{self, Object};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::code::{INTERNAL_ERROR, INVALID_REQUEST};
use osvm_protocol::frame;
use osvm_protocol::message::{self, Id, Message, RpcError};
use serde_json::value::RawValue;

/// Room for an ordinary request to the host, in bytes.
const REQUEST: usize = 512;

/// The connection cannot be used any more.
pub(crate) enum End<E> {
    /// The host hung up, or broke the protocol: there is nobody to tell.
    Closed,
    /// The platform failed.
    Failed(E),
}

/// One connection.
pub(crate) struct Wire<'s, S: Stream> {
    stream: &'s mut S,
    last_id: u64,
    end: Option<End<S::Error>>,
}

impl<'s, S: Stream> Wire<'s, S> {
    pub(crate) fn new(stream: &'s mut S) -> Self {
        Self { stream, last_id: 0, end: None }
    }

    /// Waits for the next payload.
    pub(crate) fn receive(&mut self) -> Result<Vec<u8>, End<S::Error>> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
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
            match self.stream.append(&mut payload, missing).map_err(End::Failed)? {
                0 => return Err(End::Closed),
                _ => continue,
            }
        }
        Ok(payload)
    }

    /// Sends a finished frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), End<S::Error>> {
        self.stream.write_all(frame).map_err(End::Failed)
    }

    /// Answers with an error. One too long for a frame is answered by its code alone.
    pub(crate) fn refuse(
        &mut self,
        id: Option<&Id<'_>>,
        error: &RpcError,
    ) -> Result<(), End<S::Error>> {
        let frame = message::error(id, error)
            .or_else(|_| message::error(id, &RpcError::new(error.code, "error is too long")))
            .or_else(|_| message::error(None, &RpcError::new(error.code, "id is too long")));
        self.send(&frame.map_err(|_| End::Closed)?)
    }

    /// Ends the connection as soon as the call at hand is answered.
    fn give_up(&mut self, end: End<S::Error>, message: &str) -> RpcError {
        self.end = Some(end);
        RpcError::new(INTERNAL_ERROR, message)
    }

    fn await_answer(&mut self, expected: u64) -> Result<Box<RawValue>, RpcError> {
        loop {
            let payload = match self.receive() {
                Ok(payload) => payload,
                Err(end) => return Err(self.give_up(end, "host hung up instead of answering")),
            };
            match message::parse(&payload) {
                Ok(Message::Response(response)) if response.id == Some(expected.into()) => {
                    return response.outcome.map(ToOwned::to_owned);
                }
                Ok(Message::Request(request)) => {
                    let Some(id) = request.id else { continue };
                    let busy = RpcError::new(INVALID_REQUEST, "a call is already running");
                    if let Err(end) = self.refuse(Some(&id), &busy) {
                        return Err(self.give_up(end, "host hung up instead of answering"));
                    }
                }
                Ok(Message::Response(response)) => {
                    let got = response.id.map_or("null".to_owned(), |id| format!("{id}"));
                    let message = format!("host answered request {got} instead of {expected}");
                    return Err(self.give_up(End::Closed, &message));
                }
                Err(error) => {
                    let message = format!("host answered with rubbish: {error}");
                    return Err(self.give_up(End::Closed, &message));
                }
            }
        }
    }
}

impl<S: Stream> Host for Wire<'_, S> {
    fn call(
        &mut self,
        method: &str,
        params: &dyn Fn(&mut Object<'_>),
    ) -> Result<Box<RawValue>, RpcError> {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id;
        let mut frame = frame::Builder::with_capacity(REQUEST);
        json::object(&mut frame, |o| {
            o.text("jsonrpc", "2.0");
            o.number("id", id);
            o.text("method", method);
            o.object("params", params);
        });
        let frame = frame
            .finish()
            .map_err(|_| RpcError::new(INTERNAL_ERROR, "request to the host is too long"))?;
        if let Err(end) = self.send(&frame) {
            return Err(self.give_up(end, "host hung up before it was asked"));
        }
        self.await_answer(id)
    }
}

#[cfg(test)]
mod tests;
