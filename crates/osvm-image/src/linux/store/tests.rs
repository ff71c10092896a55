//! Installing, loading, verifying, collecting, and what must be refused.

use super::*;
use crate::linux::{FORMAT, FileList, FileSystem, Root, Source, SourceKind};
use std::io::Write as _;

struct Bench {
    _dir: tempfile::TempDir,
    store: LinuxStore,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LinuxStore::new(dir.path().join("images"));
        Self { _dir: dir, store }
    }

    fn install(&self, name: &str, root: &[u8]) -> Digest {
        let writer = self.store.writer().unwrap();
        let mut file = writer.unfinished().unwrap();
        file.write_all(root).unwrap();
        let (digest, size) = writer.blob(file).unwrap();
        let files = writer.bytes(b"").unwrap();
        let manifest = manifest(name, Root { digest, size, fs: FileSystem::Erofs }, files);
        writer.install(&manifest).unwrap()
    }

    fn write_blob(&self, digest: Digest, bytes: &[u8]) {
        let path = self.store.blob_path(digest);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn manifest(name: &str, root: Root, files: Digest) -> Manifest {
    Manifest {
        format: FORMAT,
        name: name.into(),
        created: None,
        root,
        command: vec!["/bin/server".into()],
        env: [("A".to_owned(), "1".to_owned())].into(),
        cwd: "/".into(),
        default_memory_mb: 128,
        needs: [].into(),
        sources: vec![Source {
            kind: SourceKind::Npm,
            name: "x".into(),
            version: "1.0.0".into(),
            digest: None,
        }],
        files: FileList { digest: files, count: 0, bytes: 0 },
        locks: Vec::new(),
        scripts: None,
        build_id: Digest::of(b"build"),
    }
}

#[test]
fn what_was_installed_is_what_is_loaded() {
    let bench = Bench::new();
    let digest = bench.install("a", b"root");
    let image = bench.store.load("a").unwrap();
    assert_eq!((image.digest, image.manifest.command.len()), (digest, 1));
    let mut text = String::new();
    (&*image.root).read_to_string(&mut text).unwrap();
    assert_eq!(text, "root");
    assert_eq!(bench.store.verify("a", None).unwrap(), digest);
}

#[test]
fn the_same_image_installed_twice_has_the_same_digest_and_one_blob() {
    let bench = Bench::new();
    let first = bench.install("a", b"root");
    assert_eq!(bench.install("a", b"root"), first);
    assert_ne!(bench.install("b", b"root"), first);
    assert_eq!(files(&bench.store.blobs()).unwrap().len(), 2);
}

#[test]
fn an_altered_root_is_not_loaded_by_this_store_or_a_new_one() {
    let bench = Bench::new();
    bench.install("a", b"root");
    let root = bench.store.load("a").unwrap().manifest.root.digest;
    bench.write_blob(root, b"evil");
    let other = LinuxStore::new(bench.store.dir());
    for store in [&bench.store, &other] {
        let error = store.load("a").unwrap_err();
        assert!(matches!(error, LinuxError::Altered { .. }), "{error}");
        assert!(matches!(store.verify("a", None), Err(LinuxError::Altered { .. })));
    }
}

#[test]
fn a_root_is_hashed_once_until_it_changes() {
    let bench = Bench::new();
    bench.install("a", b"root");
    let root = bench.store.load("a").unwrap().manifest.root.digest;
    let note = bench.store.dir().join("verified").join(root.hex());
    let written = note.metadata().unwrap().modified().unwrap();
    LinuxStore::new(bench.store.dir()).load("a").unwrap();
    assert_eq!(note.metadata().unwrap().modified().unwrap(), written);
    bench.write_blob(root, b"root");
    LinuxStore::new(bench.store.dir()).load("a").unwrap();
    assert_ne!(note.metadata().unwrap().modified().unwrap(), written);
}

#[test]
fn a_missing_root_is_named() {
    let bench = Bench::new();
    bench.install("a", b"root");
    let digest = bench.store.load("a").unwrap().manifest.root.digest;
    std::fs::remove_file(bench.store.blob_path(digest)).unwrap();
    assert!(matches!(bench.store.load("a"), Err(LinuxError::MissingBlob { .. })));
}

#[test]
fn names_that_leave_the_store_or_are_its_own_are_refused() {
    let bench = Bench::new();
    for name in ["../a", "a/b", "", ".x", "blobs", "verified"] {
        assert!(matches!(bench.store.load(name), Err(LinuxError::BadName { .. })), "{name}");
        assert!(matches!(bench.store.remove(name), Err(LinuxError::BadName { .. })), "{name}");
    }
}

#[test]
fn an_unknown_image_is_answered_with_the_nearest_name() {
    let bench = Bench::new();
    bench.install("everything", b"root");
    let error = bench.store.load("everythin").unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean `everything`?"));
    assert!(matches!(bench.store.remove("everythin"), Err(LinuxError::NotFound { .. })));
}

#[test]
fn manifests_that_cannot_be_booted_from_are_refused() {
    let bench = Bench::new();
    bench.install("a", b"root");
    let (good, _) = bench.store.manifest("a").unwrap();
    let path = bench.store.dir().join("a").join(MANIFEST);
    let changes: [fn(&mut Manifest); 7] = [
        |manifest| manifest.format += 1,
        |manifest| manifest.name = "b".into(),
        |manifest| manifest.command.clear(),
        |manifest| manifest.cwd = "x".into(),
        |manifest| manifest.default_memory_mb = 1,
        |manifest| drop(manifest.env.insert("A=B".into(), String::new())),
        |manifest| manifest.command.push("a\0b".into()),
    ];
    for change in changes {
        let mut manifest = good.clone();
        change(&mut manifest);
        std::fs::write(&path, manifest.to_bytes().unwrap()).unwrap();
        let error = bench.store.load("a").unwrap_err();
        assert!(matches!(error, LinuxError::RefusedManifest { .. }), "{error}");
    }
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(bench.store.load("a"), Err(LinuxError::BadManifest { .. })));
    std::fs::write(&path, vec![b' '; (8 << 20) + 1]).unwrap();
    assert!(matches!(bench.store.load("a"), Err(LinuxError::RefusedManifest { .. })));
}

#[test]
fn collecting_keeps_what_images_name_and_removes_the_rest() {
    let bench = Bench::new();
    bench.install("a", b"root a");
    bench.install("b", b"root b");
    std::fs::write(bench.store.blobs().join(".new-left-behind"), "12345").unwrap();
    assert_eq!(bench.store.gc().unwrap(), Freed { blobs: 1, bytes: 5 });
    bench.store.remove("a").unwrap();
    assert_eq!(bench.store.names().unwrap(), ["b"]);
    assert_eq!(bench.store.gc().unwrap(), Freed { blobs: 1, bytes: 6 });
    bench.store.load("b").unwrap();
    assert_eq!(Bench::new().store.gc().unwrap(), Freed::default());
}

#[test]
fn a_damaged_manifest_stops_the_collection() {
    let bench = Bench::new();
    bench.install("a", b"root");
    std::fs::write(bench.store.dir().join("a").join(MANIFEST), "{}").unwrap();
    assert!(bench.store.gc().is_err());
    assert!(bench.store.list().unwrap()[0].manifest.is_err());
}

#[test]
fn a_signature_does_not_outlive_its_image() {
    let bench = Bench::new();
    bench.install("a", b"root");
    let signature = Signature { key: String::new(), signature: String::new() };
    bench.store.put_signature("a", &signature).unwrap();
    bench.install("a", b"root");
    assert_eq!(bench.store.signature("a").unwrap(), Some(signature));
    bench.install("a", b"another");
    assert_eq!(bench.store.signature("a").unwrap(), None);
}
