//! Last words: what a dying guest tells its host, as one line on the console.
//!
//! The host finds the line by its prefix, so nothing in a message may end it early or reach the
//! host's terminal as a control sequence.

use core::fmt::{self, Write};

/// Longest line in bytes, without its final newline.
pub const MAX_LINE: usize = 512;

/// Writes one line to `sink`, byte by byte, and ends it when dropped.
///
/// Control characters become spaces, and what is over [`MAX_LINE`] is cut.
#[derive(Debug)]
pub struct Line<F: FnMut(u8)> {
    sink: F,
    left: usize,
}

impl<F: FnMut(u8)> Line<F> {
    /// Starts a line.
    pub fn new(sink: F) -> Self {
        Self { sink, left: MAX_LINE }
    }
}

impl<F: FnMut(u8)> Write for Line<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(self.left) {
            (self.sink)(if byte.is_ascii_control() { b' ' } else { byte });
        }
        self.left = self.left.saturating_sub(text.len());
        Ok(())
    }
}

impl<F: FnMut(u8)> Drop for Line<F> {
    fn drop(&mut self) {
        (self.sink)(b'\n');
    }
}

/// A processor exception, as the handler finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the exception.
    pub vector: u64,
    /// The error code, 0 where the exception has none.
    pub error: u64,
    /// The instruction that caused it.
    pub rip: u64,
    /// The address that caused a page fault.
    pub cr2: u64,
    /// Whether that address lies in the guard below the stack.
    pub in_guard: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, error, rip, cr2, in_guard } = *self;
        let name = if in_guard { "stack overflow" } else { name(vector) };
        write!(f, "{name} (vector {vector}) at rip={rip:#x} cr2={cr2:#x} error={error:#x}")
    }
}

/// Names of the exceptions: Intel SDM volume 3, table 7-1.
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point error",
        _ => "unknown exception",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: impl fmt::Display) -> String {
        let mut bytes = Vec::new();
        write!(Line::new(|byte| bytes.push(byte)), "{message}").unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_stays_one_line_without_control_sequences() {
        assert_eq!(line("a\nb\r\x1b[31mc\0d\x7f"), "a b  [31mc d \n");
    }

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(line("x".repeat(MAX_LINE + 1)), "x".repeat(MAX_LINE) + "\n");
    }

    #[test]
    fn a_fault_says_what_where_and_why() {
        let fault = Fault { vector: 14, error: 2, rip: 0x20_0040, cr2: 0x10, in_guard: false };
        assert_eq!(line(fault), "page fault (vector 14) at rip=0x200040 cr2=0x10 error=0x2\n");
    }

    #[test]
    fn a_fault_in_the_guard_is_a_stack_overflow() {
        let fault = Fault { vector: 14, error: 2, rip: 1, cr2: 2, in_guard: true };
        assert!(line(fault).starts_with("stack overflow (vector 14)"));
    }
}
