//! The command line: devices, and what the embedded VMM says about itself.
//!
//! A device is announced as Linux's `virtio_mmio.device=<size>@<address>:<irq>[:<id>]`.

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

const DEVICE: &[u8] = b"virtio_mmio.device=";
const HALT_IS_EXIT: &[u8] = b"osvm.hlt=exit";

/// The words of `line` that mean something to the kernel. All others are for others.
pub fn words(line: &str) -> impl Iterator<Item = Word> {
    line.as_bytes().split(|byte| *byte == b' ').filter_map(|word| match word.strip_prefix(DEVICE) {
        Some(device) => transport(device).map(Word::Transport),
        None => (word == HALT_IS_EXIT).then_some(Word::HaltIsExit),
    })
}

/// Reads `<size>@<address>:<irq>[:<id>]`. The size says nothing that is needed.
fn transport(text: &[u8]) -> Option<Transport> {
    let mut parts = text.splitn(2, |byte| *byte == b'@');
    let (_size, place) = (parts.next()?, parts.next()?);
    let mut parts = place.split(|byte| *byte == b':');
    let address = number(parts.next()?)?;
    let irq = parts.next().and_then(number).and_then(|irq| u8::try_from(irq).ok());
    Some(Transport { address, irq })
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number(digits: &[u8]) -> Option<u64> {
    let (digits, radix) = match digits.strip_prefix(b"0x") {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        sum.checked_mul(radix.into())?.checked_add(digit.into())
    })
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
