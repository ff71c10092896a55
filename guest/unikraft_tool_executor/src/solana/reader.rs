//! Reads values off the front of some bytes; `None` means that they end too early.

/// The bytes not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes all that is left.
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Takes `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes a key, a signature, a hash.
    pub(crate) fn array<const LEN: usize>(&mut self) -> Option<&'a [u8; LEN]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| *byte)
    }

    /// Little-endian, as all of Solana's numbers.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Solana's "compact-u16": 7 bits in a byte, the lowest first, at most three bytes.
    ///
    /// `None` also when the number is over 65,535 or written longer than needed, which Solana
    /// refuses.
    pub(crate) fn compact_u16(&mut self) -> Option<usize> {
        let mut value = 0;
        for position in 0..3 {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                let is_shortest = position == 0 || byte != 0;
                return (is_shortest && value <= usize::from(u16::MAX)).then_some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<usize>) {
        assert_eq!(Reader::new(bytes).compact_u16(), expected, "{bytes:x?}");
    }

    #[test]
    fn compact_numbers_are_read_as_solana_writes_them() {
        check(&[0], Some(0));
        check(&[0x7f], Some(0x7f));
        check(&[0x80, 1], Some(0x80));
        check(&[0xff, 1], Some(0xff));
        check(&[0x80, 2], Some(0x100));
        check(&[0xff, 0x7f], Some(0x3fff));
        check(&[0x80, 0x80, 1], Some(0x4000));
        check(&[0xff, 0xff, 3], Some(0xffff));
    }

    #[test]
    fn compact_numbers_solana_refuses_are_refused() {
        check(&[], None);
        check(&[0x80], None);
        check(&[0x80, 0], None);
        check(&[0xff, 0x80, 0], None);
        check(&[0xff, 0xff, 4], None);
        check(&[0xff, 0xff, 0xff, 1], None);
    }
}
