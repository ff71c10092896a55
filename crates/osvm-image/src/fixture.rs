//! Images for tests: ELF files with a note and tool definitions, and nothing to boot.
//!
//! ```text
//! ELF header │ note │ tools │ section names │ section headers: none, note, tools, names
//! ```

use osvm_protocol::note::{ImageNote, KIND, NOTE_SECTION, OWNER, TOOLS_SECTION};
use osvm_protocol::{PROTOCOL_VERSION, note};

/// The note of an image that this osvm accepts.
pub fn note() -> ImageNote<'static> {
    note::ImageNote { protocol: PROTOCOL_VERSION, name: "fixture".into(), build: "test".into() }
}

/// An image with this note and this JSON text as its tool definitions.
pub fn image(note: &ImageNote<'_>, tools: &str) -> Vec<u8> {
    let mut elf = Elf::default();
    let note = serde_json::to_vec(note).unwrap_or_default();
    elf.section(NOTE_SECTION, SHT_NOTE, &note_record(&note));
    elf.section(TOOLS_SECTION, SHT_PROGBITS, tools.as_bytes());
    elf.finish()
}

const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const HEADER: u64 = 64;

fn note_record(desc: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut owner = OWNER.as_bytes().to_vec();
    owner.push(0);
    for word in [len(&owner), len(desc), KIND] {
        record.extend_from_slice(&word.to_le_bytes());
    }
    for mut part in [owner, desc.to_vec()] {
        part.resize(part.len().next_multiple_of(4), 0);
        record.append(&mut part);
    }
    record
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Elf {
    body: Vec<u8>,
    names: Vec<u8>,
    headers: Vec<u8>,
    sections: u16,
}

impl Elf {
    fn section(&mut self, name: &str, kind: u32, bytes: &[u8]) {
        if self.sections == 0 {
            self.names.push(0);
            self.headers.resize(64, 0);
            self.sections = 1;
        }
        let name_at = len(&self.names);
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        self.body.resize(self.body.len().next_multiple_of(8), 0);
        let at = HEADER + self.body.len() as u64;
        // A section of names holds its own name.
        let bytes = if kind == SHT_STRTAB { self.names.clone() } else { bytes.to_vec() };
        self.headers.extend_from_slice(&name_at.to_le_bytes());
        self.headers.extend_from_slice(&kind.to_le_bytes());
        for word in [0, 0, at, bytes.len() as u64, 0, 4, 0] {
            // The fifth is two words of 32 bits, both 0; the sixth is the alignment.
            self.headers.extend_from_slice(&u64::to_le_bytes(word));
        }
        self.body.extend_from_slice(&bytes);
        self.sections += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        self.section(".shstrtab", SHT_STRTAB, &[]);
        self.body.resize(self.body.len().next_multiple_of(8), 0);
        let headers_at = HEADER + self.body.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [2_u16, 62] {
            // Executable, x86-64.
            file.extend_from_slice(&half.to_le_bytes());
        }
        file.extend_from_slice(&1_u32.to_le_bytes());
        for word in [0, 0, headers_at] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64, 56, 0, 64, self.sections, self.sections - 1] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        file.append(&mut self.body);
        file.append(&mut self.headers);
        file
    }
}
