//! Destroys the guests of calls that were answered, so that no client waits for it.
//!
//! What waits here is bounded by the limits of the pool: every guest has a place among the VMs,
//! and gives it back only when it is gone.

use osvm_runtime::Remains;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Guests destroyed at once. A thread mostly waits for the kernel to free what a guest held.
const THREADS: usize = 4;

#[derive(Debug)]
pub(crate) struct Undertaker {
    work: Mutex<Work>,
}

#[derive(Debug)]
struct Work {
    /// None once it is over.
    sender: Option<Sender<Remains>>,
    threads: Vec<JoinHandle<()>>,
}

impl Undertaker {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let receiver = Arc::clone(&receiver);
            let bury = move || while bury_next(&receiver) {};
            threads.push(Builder::new().name("undertaker".into()).spawn(bury)?);
        }
        Ok(Self { work: Mutex::new(Work { sender: Some(sender), threads }) })
    }

    /// Destroys what is left of a call, soon.
    pub(crate) fn bury(&self, remains: Remains) {
        let sender = self.work().sender.clone();
        match sender {
            // Without anybody who receives it, dropping it here does the same.
            Some(sender) => drop(sender.send(remains)),
            None => drop(remains),
        }
    }

    /// Waits until nothing is left.
    pub(crate) fn finish(&self) {
        let threads = {
            let mut work = self.work();
            work.sender = None;
            std::mem::take(&mut work.threads)
        };
        for thread in threads {
            // A thread that panicked is as gone as one that returned.
            let _ended = thread.join();
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bury_next(receiver: &Mutex<Receiver<Remains>>) -> bool {
    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
    next.map(|remains| _ = remains.settle()).is_ok()
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        self.finish();
    }
}
