//! The command line: devices, and what the embedded VMM says about itself.
//!
//! A device is announced as Linux's `virtio_mmio.device=<size>@<address>:<irq>[:<id>]`.

use super::split_at_byte;

/// What the guest makes of its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A virtio-mmio transport.
    Transport(Transport),
    /// `osvm.hlt=exit`: the VMM has no interrupt controller, and takes `hlt` as "wait for me".
    HaltIsExit,
}

/// A virtio-mmio transport, as announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Address of its registers.
    pub address: u64,
    /// Its interrupt line.
    pub irq: Option<u8>,
}

const DEVICE: [u8; 19] = *b"virtio_mmio.device=";
const HALT_IS_EXIT: [u8; 13] = *b"osvm.hlt=exit";

/// The words of `line` that mean something to the kernel. All others are for others.
pub fn words(line: &str) -> impl Iterator<Item = Word> {
    Words { rest: line.as_bytes() }
}

struct Words<'l> {
    rest: &'l [u8],
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        while !self.rest.is_empty() {
            let (word, rest) = split_at_byte(self.rest, b' ');
            self.rest = rest;
            // Arrays of a known length compare in a few instructions, slices in a call.
            let meaning = match word.split_first_chunk() {
                Some((start, device)) if *start == DEVICE => transport(device).map(Word::Transport),
                _ => (word.split_first_chunk() == Some((&HALT_IS_EXIT, &[])))
                    .then_some(Word::HaltIsExit),
            };
            if meaning.is_some() {
                return meaning;
            }
        }
        None
    }
}

/// Reads `<size>@<address>:<irq>[:<id>]`. The size says nothing that is needed.
fn transport(text: &[u8]) -> Option<Transport> {
    let place = text.iter().position(|byte| *byte == b'@')?;
    let (address, rest) = take_number(text.get(place + 1..)?)?;
    let irq = match rest {
        [] => None,
        [b':', irq @ ..] => take_number(irq).and_then(|(irq, _)| u8::try_from(irq).ok()),
        _ => return None,
    };
    Some(Transport { address, irq })
}

/// A decimal number, or a hexadecimal one after `0x`, and what follows it.
fn take_number(text: &[u8]) -> Option<(u64, &[u8])> {
    match text {
        // As many digits as can't overflow.
        [b'0', b'x', digits @ ..] => take_digits::<16>(digits, 16),
        digits => take_digits::<10>(digits, 19),
    }
}

fn take_digits<const RADIX: u64>(mut rest: &[u8], most: usize) -> Option<(u64, &[u8])> {
    let all = rest.len();
    let mut sum: u64 = 0;
    while let [digit, tail @ ..] = rest {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' if RADIX == 16 => digit - b'a' + 10,
            b'A'..=b'F' if RADIX == 16 => digit - b'A' + 10,
            _ => break,
        };
        if all - rest.len() == most {
            return None;
        }
        // Can't wrap: `most` digits fit.
        sum = sum.wrapping_mul(RADIX).wrapping_add(value.into());
        rest = tail;
    }
    (rest.len() < all).then_some((sum, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &[Word]) {
        assert_eq!(words(line).collect::<Vec<_>>(), expected);
    }

    fn device(address: u64, irq: u8) -> Word {
        Word::Transport(Transport { address, irq: Some(irq) })
    }

    #[test]
    fn the_embedded_vmm_announces_itself_and_its_device() {
        check(
            "osvm.hlt=exit virtio_mmio.device=4K@0xd0000000:5",
            &[Word::HaltIsExit, device(0xd000_0000, 5)],
        );
    }

    #[test]
    fn qemu_and_firecracker_lines_are_understood_among_words_for_others() {
        check(
            "quiet  virtio_mmio.device=512@0xfeb00e00:12 x=virtio_mmio.device=1@2:3",
            &[device(0xfeb0_0e00, 12)],
        );
        check("pci=off virtio_mmio.device=4K@0xc0001000:5:1", &[device(0xc000_1000, 5)]);
    }

    #[test]
    fn decimal_addresses_are_addresses_too() {
        check("virtio_mmio.device=4096@3489660928:5", &[device(0xd000_0000, 5)]);
    }

    #[test]
    fn a_device_without_a_readable_interrupt_is_still_a_device() {
        let expected = [Word::Transport(Transport { address: 0xd000_0000, irq: None })];
        check("virtio_mmio.device=4K@0xd0000000", &expected);
        check("virtio_mmio.device=4K@0xd0000000:256", &expected);
    }

    #[test]
    fn what_is_not_an_announcement_is_left_alone() {
        for line in [
            "",
            " ",
            "virtio_mmio.device=",
            "virtio_mmio.device=4K",
            "virtio_mmio.device=4K@",
            "virtio_mmio.device=4K@0x:5",
            "virtio_mmio.device=4K@0xg:5",
            "virtio_mmio.device=4K@-1:5",
            "virtio_mmio.device=4K@0x10000000000000000:5",
            "osvm.hlt=exits",
        ] {
            check(line, &[]);
        }
    }
}
