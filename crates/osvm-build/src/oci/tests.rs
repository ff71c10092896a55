//! Layouts made by hand: good ones, and those that try to get out, to lie or to fill the host.

use super::*;
use crate::tree::Tree;
use serde_json::json;
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

struct Bench {
    yard: Yard,
    dir: tempfile::TempDir,
}

type Archive = Builder<Vec<u8>>;

fn entry(archive: &mut Archive, path: &str, kind: EntryType, link: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    // Written as bytes: the crate itself would refuse hostile names.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive.append(&header, bytes).unwrap();
}

fn file(archive: &mut Archive, path: &str, bytes: &[u8]) {
    entry(archive, path, EntryType::Regular, "", bytes);
}

fn layer(fill: impl FnOnce(&mut Archive)) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    fill(&mut archive);
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("layout/blobs/sha256")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        Self { yard: Yard::new().unwrap(), dir }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        std::fs::write(self.layout().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest.to_string()
    }

    /// Writes a layout with these layers, gzipped.
    fn write(&self, layers: &[Vec<u8>]) {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": diff_ids},
            "config": {"Entrypoint": ["/server"], "Cmd": ["x"], "Env": ["A=1=2", "bad"], "WorkingDir": "/w"}});
        let config = self.blob(config.to_string().as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": self.blob(&gzip(layer))}))
            .collect();
        let manifest = self
            .blob(json!({"config": {"digest": config}, "layers": layers}).to_string().as_bytes());
        let index = json!({"manifests": [
            {"digest": manifest, "platform": {"architecture": "amd64", "os": "linux"}},
            {"digest": Digest::of(b"").to_string(), "platform": {"architecture": "arm64", "os": "linux"}},
        ]});
        std::fs::write(self.layout().join("index.json"), index.to_string()).unwrap();
    }

    fn add(&self, path: &Path) -> Result<Assembly, BuildError> {
        let root =
            tempfile::Builder::new().tempdir_in(self.dir.path()).unwrap().keep().join("root");
        let mut assembly = Assembly::new(Tree::create(&root).unwrap());
        add(&self.yard, &mut assembly, path)?;
        Ok(assembly)
    }

    fn build(&self, layers: &[Vec<u8>]) -> Result<Assembly, BuildError> {
        self.write(layers);
        let built = self.add(&self.layout());
        let outside = std::fs::read_dir(self.dir.path().join("outside")).unwrap();
        assert_eq!(outside.count(), 0, "something got out of the tree");
        built
    }
}

fn read(assembly: &Assembly, path: &str) -> String {
    String::from_utf8(assembly.tree.read(path, 100).unwrap()).unwrap()
}

#[test]
fn later_layers_replace_and_remove_what_earlier_ones_have() {
    let bench = Bench::new();
    let first = layer(|tar| {
        file(tar, "a/one", b"1");
        file(tar, "a/two", b"2");
        file(tar, "b/one", b"1");
        file(tar, "c", b"old");
    });
    let second = layer(|tar| {
        file(tar, "a/.wh.one", b"");
        file(tar, "b/.wh..wh..opq", b"");
        file(tar, "b/new", b"n");
        file(tar, "./c", b"new");
        entry(tar, "d", EntryType::Link, "c", b"");
        entry(tar, "e", EntryType::Symlink, "/a", b"");
        file(tar, "e/three", b"3");
        entry(tar, "null", EntryType::Char, "", b"");
    });
    let built = bench.build(&[first, second]).unwrap();
    assert!(
        !built.tree.exists("a/one") && !built.tree.exists("b/one") && !built.tree.exists("null")
    );
    for (path, text) in
        [("a/two", "2"), ("b/new", "n"), ("c", "new"), ("d", "new"), ("a/three", "3")]
    {
        assert_eq!(read(&built, path), text, "{path}");
    }
    assert_eq!(built.command, ["/server", "x"]);
    assert_eq!(built.env.get("A").map(String::as_str), Some("1=2"));
    assert_eq!(built.cwd, "/w");
    assert!(built.tree.exists("etc/passwd") && built.tree.exists("workspace"));
}

#[test]
fn a_layout_in_an_archive_is_the_same_image() {
    let bench = Bench::new();
    bench.write(&[layer(|tar| file(tar, "x", b"1"))]);
    let mut archive = Builder::new(Vec::new());
    archive.append_dir_all(".", bench.layout()).unwrap();
    let path = bench.dir.path().join("image.tar");
    std::fs::write(&path, archive.into_inner().unwrap()).unwrap();
    assert_eq!(read(&bench.add(&path).unwrap(), "x"), "1");
}

#[test]
fn entries_that_leave_the_tree_are_refused_or_stay_inside() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside").display().to_string();
    let refused: [fn(&mut Archive); 4] = [
        |tar| file(tar, "../outside/x", b"x"),
        |tar| file(tar, "a/../../outside/x", b"x"),
        |tar| entry(tar, "x", EntryType::Link, "../outside", b""),
        |tar| file(tar, "../.wh.outside", b""),
    ];
    for fill in refused {
        let error = bench.build(&[layer(fill)]).unwrap_err();
        assert!(matches!(error, BuildError::Refused { .. }), "{error}");
    }
    let through_link = layer(|tar| {
        entry(tar, "a", EntryType::Symlink, &outside, b"");
        file(tar, "a/x", b"x");
        entry(tar, "b", EntryType::Symlink, "../../../outside", b"");
        file(tar, "b/x", b"x");
        file(tar, "/absolute", b"x");
    });
    let _ = bench.build(&[through_link]);
    let host = layer(|tar| entry(tar, "x", EntryType::Link, "/etc/passwd", b""));
    assert!(bench.build(&[host]).is_err());
    let through = layer(|tar| {
        entry(tar, "l", EntryType::Symlink, "/etc/passwd", b"");
        entry(tar, "x", EntryType::Link, "l", b"");
    });
    assert!(bench.build(&[through]).is_err());
}

#[test]
fn long_names_are_read_and_endless_ones_refused() {
    let bench = Bench::new();
    let long = format!("{}/x", "d".repeat(150));
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let built = bench.build(&[tar.into_inner().unwrap()]).unwrap();
    assert_eq!(read(&built, &long), "1");
    let endless = layer(|tar| {
        entry(tar, "././@LongLink", EntryType::GNULongName, "", &vec![b'x'; (1 << 20) + 1]);
        file(tar, "x", b"");
    });
    assert!(bench.build(&[endless]).is_err());
    let pax = layer(|tar| {
        entry(tar, "h", EntryType::XHeader, "", b"15 path=p/axes\n");
        file(tar, "x", b"1");
    });
    assert_eq!(read(&bench.build(&[pax]).unwrap(), "p/axes"), "1");
    let sized = layer(|tar| {
        entry(tar, "h", EntryType::XHeader, "", b"10 size=9\n");
        file(tar, "x", b"1");
    });
    assert!(bench.build(&[sized]).is_err());
}

#[test]
fn blobs_that_are_not_what_their_digest_says_are_refused() {
    for victim in 0..3 {
        let bench = Bench::new();
        bench.write(&[layer(|tar| file(tar, "x", b"1"))]);
        let mut blobs: Vec<_> = std::fs::read_dir(bench.layout().join("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        blobs.sort();
        let mut bytes = std::fs::read(&blobs[victim]).unwrap();
        bytes.push(b' ');
        std::fs::write(&blobs[victim], bytes).unwrap();
        let error = bench.add(&bench.layout()).unwrap_err();
        assert!(matches!(error, BuildError::Refused { .. }), "{error}");
    }
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused() {
    let bench = Bench::new();
    bench.write(&[layer(|tar| file(tar, "x", b"1"))]);
    let text = std::fs::read_to_string(bench.layout().join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap()[7..].to_owned();
    let blob = |hex: &str| bench.layout().join("blobs/sha256").join(hex);
    let manifest = std::fs::read(blob(&digest(&index["manifests"][0]))).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let other = gzip(&layer(|tar| file(tar, "x", b"2")));
    manifest["layers"][0]["digest"] = json!(bench.blob(&other));
    index["manifests"][0]["digest"] = json!(bench.blob(manifest.to_string().as_bytes()));
    std::fs::write(bench.layout().join("index.json"), index.to_string()).unwrap();
    let error = bench.add(&bench.layout()).unwrap_err().to_string();
    assert!(error.contains("unpacks to"), "{error}");
}

#[test]
fn any_cut_or_flip_of_a_layer_is_an_error_or_a_tree() {
    let bench = Bench::new();
    let good = layer(|tar| {
        file(tar, "a/x", b"1");
        entry(tar, "l", EntryType::Symlink, "a", b"");
    });
    for place in 0..good.len().min(2048) {
        let mut bytes = good.clone();
        bytes[place] ^= 0xff;
        for bytes in [&bytes[..], &good[..place]] {
            let _ = layer::entries(bytes, &mut |_, _| Ok(()));
        }
    }
    assert!(bench.build(&[good]).is_ok());
}
