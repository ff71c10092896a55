//! One thread that waits for many descriptors: guests that should be silent, clients that leave.
//!
//! A descriptor has an id, and whoever waits is told the ids of those that have something to say.
//! Several descriptors may have the same id. Each wakes the watch once. What has been closed is
//! forgotten by itself.

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Told once at most in one go, so that a burst does not take memory.
const BATCH: usize = 64;

/// The id under which a watch hears that it is over.
const STOP: u64 = u64::MAX;

/// What is worth waking up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Bytes, an error, or a hang-up.
    Anything,
    /// The peer has hung up, or will write nothing more.
    HangUp,
}

/// Descriptors that are waited for.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    stop: OwnedFd,
}

impl Watch {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// The host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        Ok(Self { epoll, stop })
    }

    /// Waits for `fd` too, as `id`, which must not be `u64::MAX`.
    ///
    /// # Errors
    ///
    /// The host can't watch it.
    pub fn add(&self, id: u64, fd: impl AsFd, sign: Sign) -> io::Result<()> {
        let flags = match sign {
            Sign::Anything => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Sign::HangUp => epoll::EventFlags::RDHUP,
        };
        let flags = flags | epoll::EventFlags::ONESHOT;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(id), flags)?)
    }

    /// No longer waits for `fd`; without effect where it does not.
    pub fn remove(&self, fd: impl AsFd) {
        // The only failure there can be is that it was not watched.
        let _absent = epoll::delete(&self.epoll, fd);
    }

    /// Waits, and says whose descriptors woke it; `None` once [`Watch::stop`] was called.
    pub fn wait(&self) -> Option<Vec<u64>> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let mut ids: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.last() == Some(&STOP) { None } else { Some(ids) }
    }

    /// Ends every [`Watch::wait`], now and from now on.
    pub fn stop(&self) {
        // It fails only when the counter is full, which wakes the waiters just as well.
        let _full = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_wake_a_watch_for_anything_only() {
        let watch = Watch::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (quiet, other) = UnixStream::pair().unwrap();
        watch.add(7, &ours, Sign::HangUp).unwrap();
        theirs.write_all(b"x").unwrap();
        watch.add(8, &quiet, Sign::Anything).unwrap();
        drop(other);
        assert_eq!(watch.wait(), Some(vec![8]));
        // It is not told a second time, although there is still something to read.
        drop(theirs);
        assert_eq!(watch.wait(), Some(vec![7]));
        drop(quiet);
    }

    #[test]
    fn what_was_removed_wakes_nobody() {
        let watch = Watch::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        watch.add(7, &ours, Sign::Anything).unwrap();
        watch.remove(&ours);
        watch.remove(&ours);
        drop(theirs);
        watch.stop();
        assert_eq!(watch.wait(), None);
        assert_eq!(watch.wait(), None);
    }
}
