//! The images of the store, read and checked once for as long as they do not change.
//!
//! What is kept is the sealed memory file whose bytes were hashed, so keeping it weakens nothing:
//! what was checked is what is booted. Each use asks the file system whether the files in the
//! store are still the ones that were read.

use osvm_image::{Image, ImageError, Stamp, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Images that are kept: those of one config, and of one that it replaced.
const MAX_KEPT: usize = 64;

#[derive(Debug)]
pub(crate) struct Images {
    store: Store,
    kept: Mutex<HashMap<String, (Stamp, Arc<Image>)>>,
}

impl Images {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, kept: Mutex::default() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The image as it is in the store now.
    pub(crate) fn load(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        // Without a stamp there is no image either, and loading says so in its own words.
        let stamp = self.store.stamp(name).ok();
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, image)) = kept().get(name)
            && stamp == Some(*of)
        {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(self.store.load(name)?);
        if let Some(stamp) = stamp {
            let mut kept = kept();
            if MAX_KEPT <= kept.len() {
                kept.clear();
            }
            kept.insert(name.into(), (stamp, Arc::clone(&image)));
        }
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osvm_image::fixture;

    #[test]
    fn an_image_is_read_again_when_it_was_installed_anew_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("store"));
        let install = |tools: &str| {
            let file = dir.path().join("image");
            std::fs::write(&file, fixture::image(&fixture::note(), tools)).unwrap();
            store.install("x", &file, None).unwrap();
        };
        install("[]");
        let images = Images::new(store.clone());
        let first = images.load("x").unwrap();
        assert!(Arc::ptr_eq(&first, &images.load("x").unwrap()));
        install("[ ]");
        let second = images.load("x").unwrap();
        assert_ne!(first.digest, second.digest);
    }

    #[test]
    fn an_image_that_was_altered_is_refused_although_it_was_good_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("store"));
        let file = dir.path().join("image");
        std::fs::write(&file, fixture::image(&fixture::note(), "[]")).unwrap();
        store.install("x", &file, None).unwrap();
        let images = Images::new(store.clone());
        images.load("x").unwrap();
        std::fs::write(store.image_path("x"), "altered").unwrap();
        assert!(matches!(images.load("x"), Err(ImageError::Altered { .. })));
    }
}
