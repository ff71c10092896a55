//! What a guest is answered: head, piece of the body, number of the rest.

use crate::params::base64;
use serde::Serialize;
use std::collections::BTreeMap;

/// The answer to `host/http` and its companions.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// Where the rest of the response is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<u64>,
    /// Where the rest of the request is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<u64>,
}

impl Answer {
    /// The body of a request goes on.
    pub(super) fn upload(stream: u64) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    /// A piece of a response's body.
    pub(super) fn piece(bytes: Vec<u8>, more: Option<u64>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { body: Some(text), more, ..Self::default() },
            Err(error) => {
                let text = base64(error.as_bytes());
                Self { body_base64: Some(text), more, ..Self::default() }
            }
        }
    }

    pub(super) fn with_head(self, status: u16, headers: &BTreeMap<String, String>) -> Self {
        Self { status: Some(status), headers: Some(headers.clone()), ..self }
    }
}
