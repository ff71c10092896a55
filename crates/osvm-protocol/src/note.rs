//! Where an image says what it is, before anything of it runs.
//!
//! Two parts of the ELF file, both outside what is loaded into the guest:
//!
//! - an ELF note, owner [`OWNER`], type [`KIND`], whose descriptor is the JSON of [`ImageNote`];
//! - the section [`TOOLS_SECTION`], the JSON array of the image's [`crate::tool::Tool`]s.
//!
//! Reading the ELF file is the image store's business.

use alloc::borrow::Cow;
use serde::{Deserialize, Serialize};

/// Owner name of the note.
pub const OWNER: &str = "osvm";
/// Type of the note.
pub const KIND: u32 = 0x6f73_766d;
/// Name of the section that holds the note.
pub const NOTE_SECTION: &str = ".note.osvm";
/// Name of the section that holds the tool definitions.
pub const TOOLS_SECTION: &str = ".osvm.tools";

/// What the note says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ImageNote<'a> {
    /// [`crate::PROTOCOL_VERSION`] the image was built with.
    pub protocol: u32,
    /// Name of the image, as in the isolation config.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Identifies the sources the image was built from.
    #[serde(borrow)]
    pub build: Cow<'a, str>,
}
