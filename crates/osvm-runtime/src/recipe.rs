//! What a guest is made of: all that decides whether two guests are the same before their calls.

use osvm_image::{Digest, Image};
use osvm_vmm::{Backend, GuestImage, MachineSpec, MemoryMib};
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use crate::cids::Lease;

/// Everything a guest gets from the host before its call. Guests with equal keys are alike, and
/// no call is given a guest of another key: its variables, which may be secrets, are part of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) backend: &'static str,
    /// Name in the image store.
    pub(crate) image: String,
    pub(crate) digest: Digest,
    pub(crate) memory: MemoryMib,
    /// Encoded [`osvm_protocol::boot::BootPage`].
    pub(crate) boot_page: Vec<u8>,
}

// The boot page holds variables, which may be credentials.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("backend", &self.backend)
            .field("image", &self.image)
            .field("digest", &self.digest)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// How to make a guest of one key.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) key: Key,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) image: Arc<Image>,
}

impl Recipe {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        image: Arc<Image>,
        memory: MemoryMib,
        boot_page: Vec<u8>,
    ) -> Self {
        let (backend_name, name) = (backend.name(), image.name.clone());
        let key =
            Key { backend: backend_name, image: name, digest: image.digest, memory, boot_page };
        Self { key, backend, image }
    }

    /// What the backend is told. The guest keeps the lease for as long as it lives.
    pub(crate) fn spec(&self, lease: &Lease, console: File) -> MachineSpec {
        MachineSpec {
            image: GuestImage { name: self.key.image.clone(), file: Arc::clone(&self.image.file) },
            memory: self.key.memory,
            cid: lease.cid(),
            boot_page: self.key.boot_page.clone(),
            console,
            lease: Some(lease.keep()),
        }
    }
}
