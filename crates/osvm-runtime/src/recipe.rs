//! What a guest is made of: all that decides whether two guests are the same before their calls.

use crate::cids::Lease;
use osvm_image::{Digest, Image};
use osvm_vmm::{Backend, BootError, GuestImage, MachineSpec, MemoryMib};
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

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
    ///
    /// Each VM process gets an open file description of its own of the image: with a shared one,
    /// it could move the place where another one reads.
    pub(crate) fn spec(&self, lease: &Lease, console: File) -> Result<MachineSpec, BootError> {
        let image = format!("/proc/self/fd/{}", self.image.file.as_raw_fd());
        let image = File::open(image)
            .map_err(|source| BootError::Host { what: "the image in memory", source })?;
        Ok(MachineSpec {
            image: GuestImage { name: self.key.image.clone(), file: Arc::new(image) },
            memory: self.key.memory,
            cid: lease.cid(),
            boot_page: self.key.boot_page.clone(),
            console,
            lease: Some(lease.keep()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::cids::{Cids, Claim};
    use crate::id::CallId;
    use osvm_image::{Store, fixture};
    use osvm_vmm::fake::Fake;
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::time::Instant;

    #[test]
    fn a_vm_process_that_seeks_in_its_image_disturbs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        let bytes = fixture::image(&fixture::note(), "[]");
        std::fs::write(&file, &bytes).unwrap();
        let store = Store::new(dir.path().join("store"));
        store.install("x", &file, None).unwrap();
        let image = Arc::new(store.load("x").unwrap());
        let memory = MemoryMib::new(16).unwrap();
        let recipe = Recipe::new(Arc::new(Fake::new()), image, memory, Vec::new());
        let claim = Claim { call: CallId::now(), server: "s", tool: "t" };
        let cids = Cids::new(dir.path().join("run"), 200..=299);
        let lease = cids.take(claim, Instant::now(), &Cancel::default()).unwrap();
        let spec = || recipe.spec(&lease, tempfile::tempfile().unwrap()).unwrap();
        let [one, other] = [spec(), spec()];
        (&*one.image.file).seek(SeekFrom::End(0)).unwrap();
        let mut read = Vec::new();
        (&*other.image.file).read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
    }
}
