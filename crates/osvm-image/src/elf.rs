//! What an ELF file says about itself, read without running anything of it.
//!
//! Every offset in the file is hostile; crate `object` checks each against the file's length.

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use osvm_protocol::note::{ImageNote, KIND, OWNER, TOOLS_SECTION};
use osvm_protocol::tool::Tool;

type Header = FileHeader64<LittleEndian>;

/// Longest JSON text of the tool definitions, in bytes.
const MAX_TOOLS: usize = 1024 * 1024;

/// The two parts of an image that the host reads.
pub(crate) struct Parts<'a> {
    /// The note, if the file has one.
    pub(crate) note: Option<ImageNote<'a>>,
    /// The tool definitions, if the file has any.
    pub(crate) tools: Option<Vec<Tool<'a>>>,
}

/// Finds the note and the tool definitions of `file`; the error is a reason for people.
pub(crate) fn read(file: &[u8]) -> Result<Parts<'_>, String> {
    let broken = |error: object::read::Error| format!("its ELF structure is broken: {error}");
    let header = Header::parse(file).map_err(|_| "it is not a 64-bit ELF file".to_owned())?;
    let endian = header.endian().map_err(broken)?;
    let sections = header.sections(endian, file).map_err(broken)?;
    let mut parts = Parts { note: None, tools: None };
    for section in sections.iter() {
        if let Some(mut notes) = section.notes(endian, file).map_err(broken)? {
            while let Some(note) = notes.next().map_err(broken)? {
                if note.name() == OWNER.as_bytes() && note.n_type(endian).0 == KIND {
                    parts.note = Some(json(note.desc(), "note")?);
                }
            }
        }
        if sections.section_name(endian, section) == Ok(TOOLS_SECTION.as_bytes()) {
            let text = section.data(endian, file).map_err(broken)?;
            if text.len() > MAX_TOOLS {
                return Err(format!("its tool definitions are over {MAX_TOOLS} bytes"));
            }
            parts.tools = Some(json(text, "tool definitions")?);
        }
    }
    Ok(parts)
}

/// Linkers pad sections, and `concat!`ed text may end in a zero byte.
fn json<'a, T: serde::Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T, String> {
    let padding = text.iter().rev().take_while(|byte| **byte == 0).count();
    let text = text.get(..text.len().saturating_sub(padding)).unwrap_or_default();
    serde_json::from_slice(text).map_err(|error| format!("its {what} cannot be read: {error}"))
}
