//! The byte stream between guest and host, as the platform provides it.

use alloc::vec::Vec;

/// One connection to the host.
pub trait Stream {
    /// Why the platform could not read or write.
    type Error: core::fmt::Debug;

    /// Waits for bytes and copies some to the front of `buf`; 0 means that the host hung up.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Self::Error>;

    /// Sends all of `bytes`.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Waits for bytes and appends at most `limit` of them to `buf`; 0 means that the host hung up.
    ///
    /// A platform that holds received bytes in memory can append them directly. This default has
    /// to fill the room with zeros first, so it makes room in steps.
    fn append(&mut self, buf: &mut Vec<u8>, limit: usize) -> Result<usize, Self::Error> {
        let start = buf.len();
        buf.resize(start.saturating_add(limit.min(STEP)), 0);
        let room = buf.get_mut(start..).unwrap_or_default();
        let read = self.read(room).map(|read| read.min(room.len()));
        buf.truncate(start.saturating_add(*read.as_ref().unwrap_or(&0)));
        read
    }
}

/// Bytes the default [`Stream::append`] asks for at once.
const STEP: usize = 64 * 1024;
