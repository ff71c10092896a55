//! `osvm/info`: a running guest says what it is.

use alloc::borrow::Cow;
use serde::{Deserialize, Serialize};

/// The method's name.
pub const METHOD: &str = "osvm/info";

/// Parameters with which a guest rehearses before it answers: it runs once, on a request of its own
/// making, the code that every call runs. Where code is translated when it first runs, the call
/// that comes later need not wait for that. Compared as text; an older guest ignores them.
pub const REHEARSE: &str = r#"{"rehearse":true}"#;

/// The answer. It comes from inside the guest, so it is a claim, not a proof: what was booted is
/// known from the image's digest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Info<'a> {
    /// [`crate::PROTOCOL_VERSION`] of the guest.
    pub protocol: u32,
    /// Name of the image.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Build id of the image, as in its note.
    #[serde(borrow)]
    pub build: Cow<'a, str>,
}
