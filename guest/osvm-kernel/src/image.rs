//! The parts of an image that the host reads in the file and the guest never loads.

/// Puts the note and the tool definitions into the image: `note.json` and `tools.json` of the
/// build script's output folder.
#[macro_export]
macro_rules! image_parts {
    () => {
        ::core::arch::global_asm!(
            ".pushsection .note.osvm, \"\", @note",
            ".balign 4",
            ".long 5",
            ".long 2f - 1f",
            ".long {kind}",
            ".asciz \"osvm\"",
            ".balign 4",
            concat!("1: .incbin \"", env!("OUT_DIR"), "/note.json\""),
            "2: .balign 4",
            ".popsection",
            ".pushsection .osvm.tools, \"\", @progbits",
            concat!(".incbin \"", env!("OUT_DIR"), "/tools.json\""),
            ".popsection",
            kind = const $crate::NOTE_KIND,
        );
    };
}
