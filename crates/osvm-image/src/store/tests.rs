//! What a store gives back is what was put in, and nothing that was changed since.

use super::*;
use crate::fixture;
use crate::{DEFAULT_IMAGE, LookupError};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use tempfile::TempDir;

const TOOLS: &str = r#"[
  {"server":"system","name":"echo","description":"","inputSchema":{"type":"object"},
   "outputSchema":true,"annotations":{}},
  {"server":"solana","name":"validate_address","description":"","inputSchema":{},
   "outputSchema":true,"annotations":{"readOnlyHint":true}}]"#;

/// A store beside a place for files that are to be installed.
struct Bench {
    dir: TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("unikernels"));
        Self { dir, store }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn installed() -> Self {
        let bench = Self::new();
        let image = bench.file("image", &fixture::image(&fixture::note(), TOOLS));
        let program = bench.file("program", b"#!/bin/true\n");
        bench.store.install(DEFAULT_IMAGE, &image, Some(&program)).unwrap();
        bench
    }

    fn load(&self) -> Result<Image, ImageError> {
        self.store.load(DEFAULT_IMAGE)
    }
}

#[test]
fn what_is_installed_is_what_is_loaded() {
    let bench = Bench::installed();
    let image = bench.load().unwrap();
    let bytes = fixture::image(&fixture::note(), TOOLS);
    assert_eq!(image.digest, Digest::of(&bytes));
    assert_eq!(image.size, bytes.len() as u64);
    assert_eq!(image.note, fixture::note());
    let mut sealed = vec![0; bytes.len()];
    image.file.read_exact_at(&mut sealed, 0).unwrap();
    assert_eq!(sealed, bytes);
    assert!(image.tools.get("solana", "validate_address").unwrap().annotations.read_only_hint);
}

#[test]
fn installed_files_can_be_run_by_everybody_and_written_by_their_owner() {
    let bench = Bench::installed();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bench.store.image_path(DEFAULT_IMAGE)), 0o755);
    assert_eq!(mode(bench.store.executor_path(DEFAULT_IMAGE)), 0o755);
}

#[test]
fn the_executor_is_checked_like_the_image() {
    let bench = Bench::installed();
    let executor = bench.store.executor(DEFAULT_IMAGE).unwrap();
    assert_eq!(executor.digest, Digest::of(b"#!/bin/true\n"));
    std::fs::write(&executor.path, b"#!/bin/false\n").unwrap();
    let error = bench.store.executor(DEFAULT_IMAGE).unwrap_err();
    assert!(matches!(error, ImageError::Altered { .. }), "{error}");
}

#[test]
fn a_missing_image_is_named_with_its_path() {
    let bench = Bench::new();
    let error = bench.load().unwrap_err();
    let path = bench.store.image_path(DEFAULT_IMAGE);
    assert_eq!(error.to_string(), format!("unikernel image not found: `{}`", path.display()));
    assert!(error.hint().is_some());
}

#[test]
fn an_altered_image_is_refused_with_both_digests() {
    let bench = Bench::installed();
    let good = bench.load().unwrap().digest;
    let path = bench.store.image_path(DEFAULT_IMAGE);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = bench.load().unwrap_err().to_string();
    assert!(error.contains(&good.to_string()), "{error}");
    assert!(error.contains(&Digest::of(&bytes).to_string()), "{error}");
}

#[test]
fn an_image_that_was_only_copied_there_is_refused() {
    let bench = Bench::installed();
    let stray = bench.store.image_path("stray");
    std::fs::copy(bench.store.image_path(DEFAULT_IMAGE), &stray).unwrap();
    let error = bench.store.load("stray").unwrap_err();
    assert!(matches!(error, ImageError::NotIndexed { .. }), "{error}");
}

#[test]
fn an_image_of_another_protocol_is_refused() {
    let bench = Bench::new();
    let note = ImageNote { protocol: PROTOCOL_VERSION + 1, ..fixture::note() };
    let image = bench.file("image", &fixture::image(&note, TOOLS));
    let error = bench.store.install("x", &image, None).unwrap_err();
    assert!(matches!(error, ImageError::WrongProtocol { found, .. } if found == note.protocol));
}

#[test]
fn what_is_no_image_is_not_installed() {
    let bench = Bench::new();
    let good = fixture::image(&fixture::note(), TOOLS);
    let no_tools = fixture::image(&fixture::note(), "{}");
    for bytes in [b"".as_slice(), b"#!/bin/sh", &good[..good.len() - 1], &good[..64], &no_tools] {
        let image = bench.file("image", bytes);
        let error = bench.store.install("x", &image, None).unwrap_err();
        assert!(matches!(error, ImageError::NotAnImage { .. }), "{error}");
    }
    assert!(!bench.store.dir().exists());
}

#[test]
fn an_image_whose_schemas_cannot_be_checked_is_not_installed() {
    let bench = Bench::new();
    let tools = TOOLS.replace(r#"{"type":"object"}"#, r#"{"patternProperties":{}}"#);
    let image = bench.file("image", &fixture::image(&fixture::note(), &tools));
    let error = bench.store.install("x", &image, None).unwrap_err().to_string();
    assert!(error.contains("system/echo") && error.contains("patternProperties"), "{error}");
}

#[test]
fn any_cut_or_flip_of_an_image_is_an_error_or_an_image() {
    let good = fixture::image(&fixture::note(), TOOLS);
    let path = Path::new("x");
    for end in 0..good.len() {
        let _ = describe(&good[..end], path);
        let mut bytes = good.clone();
        bytes[end] ^= 0xff;
        let _ = describe(&bytes, path);
    }
}

#[test]
fn an_unreadable_index_is_named() {
    let bench = Bench::installed();
    std::fs::write(bench.store.dir().join(index::FILE), "{\"x\":1}").unwrap();
    assert!(matches!(bench.load(), Err(ImageError::BadIndex { .. })));
    assert!(matches!(bench.store.list(), Err(ImageError::BadIndex { .. })));
}

#[test]
fn a_name_that_leaves_the_store_is_refused() {
    let bench = Bench::installed();
    assert!(matches!(bench.store.load("../image"), Err(ImageError::BadName { .. })));
    assert!(matches!(bench.store.executor("a/b"), Err(ImageError::BadName { .. })));
}

#[test]
fn an_image_that_is_a_directory_is_refused() {
    let bench = Bench::installed();
    let path = bench.store.image_path("dir");
    std::fs::create_dir(path).unwrap();
    assert!(matches!(bench.store.load("dir"), Err(ImageError::TooLong { .. })));
}

#[test]
fn the_list_tells_good_altered_missing_and_foreign_images_apart() {
    let bench = Bench::installed();
    let image = bench.dir.path().join("image");
    for name in ["altered", "missing", "foreign"] {
        bench.store.install(name, &image, None).unwrap();
    }
    std::fs::write(bench.store.image_path("altered"), "x").unwrap();
    std::fs::remove_file(bench.store.image_path("missing")).unwrap();
    let index_path = bench.store.dir().join(index::FILE);
    let mut index = index::read(bench.store.dir()).unwrap();
    index.remove("foreign");
    std::fs::write(index_path, serde_json::to_vec(&index).unwrap()).unwrap();

    let listed = bench.store.list().unwrap();
    let states: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.image.clone())).collect();
    let expected = [
        ("altered", FileState::Altered { found: Digest::of(b"x") }),
        ("foreign", FileState::NotIndexed),
        ("missing", FileState::Missing),
        (DEFAULT_IMAGE, FileState::Ok),
    ];
    assert_eq!(states, expected);
    assert_eq!(listed[3].executor, Some(FileState::Ok));
    assert_eq!(listed[0].executor, None);
}

#[test]
fn an_empty_store_lists_nothing() {
    assert!(Bench::new().store.list().unwrap().is_empty());
}

#[test]
fn a_new_image_replaces_the_old_one_and_its_executor() {
    let bench = Bench::installed();
    let note = ImageNote { build: "newer".into(), ..fixture::note() };
    let image = bench.file("image", &fixture::image(&note, "[]"));
    let entry = bench.store.install(DEFAULT_IMAGE, &image, None).unwrap();
    assert_eq!(entry.build, "newer");
    assert_eq!(bench.load().unwrap().note, note);
    assert!(matches!(bench.store.executor(DEFAULT_IMAGE), Err(ImageError::NotFound { .. })));
}

#[test]
fn loading_beside_installing_never_sees_half_of_it() {
    let bench = Bench::installed();
    let other = fixture::image(&ImageNote { build: "b".into(), ..fixture::note() }, TOOLS);
    let images = [bench.dir.path().join("image"), bench.file("other", &other)];
    std::thread::scope(|scope| {
        let installer = scope.spawn(|| {
            for image in images.iter().cycle().take(40) {
                bench.store.install(DEFAULT_IMAGE, image, None).unwrap();
            }
        });
        while !installer.is_finished() {
            bench.load().unwrap();
        }
    });
}

#[test]
fn unknown_servers_and_tools_are_answered_with_the_nearest_name() {
    let tools = Bench::installed().load().unwrap().tools;
    let nearest = |name: &str| Some(name.to_owned());
    assert_eq!(
        tools.get("solona", "x").unwrap_err(),
        LookupError::UnknownServer { server: "solona".into(), nearest: nearest("solana") }
    );
    let error = tools.get("solana", "valid_address").unwrap_err();
    assert_eq!(error.to_string(), "server `solana` has no tool `valid_address`");
    assert_eq!(error.hint().as_deref(), Some("did you mean `validate_address`?"));
    let error = tools.get("system", "qqq").unwrap_err();
    assert_eq!(error.hint(), None);
}
