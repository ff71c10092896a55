//! Paths and links that try to get out, and what a tree makes of modes and devices.

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    tree: Tree,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        let tree = Tree::create(&dir.path().join("root")).unwrap();
        Self { dir, tree }
    }

    fn outside_is_empty(&self) -> bool {
        std::fs::read_dir(self.dir.path().join("outside")).unwrap().next().is_none()
    }
}

#[test]
fn a_path_with_dots_is_refused() {
    let mut bench = Bench::new();
    for path in ["../outside/x", "a/../../outside/x", "/../outside/x"] {
        let error = bench.tree.file(path, false, &b"x"[..]).unwrap_err();
        assert!(matches!(error, BuildError::Refused { .. }), "{error}");
        assert!(bench.tree.remove(Path::new(path)).is_err());
    }
    assert!(bench.outside_is_empty());
}

#[test]
fn writing_through_links_stays_in_the_tree() {
    let mut bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    for (number, target) in [outside.as_path(), Path::new("../outside"), Path::new("../../../..")]
        .into_iter()
        .enumerate()
    {
        let link = format!("link{number}");
        bench.tree.link(&link, target).unwrap();
        let _ = bench.tree.file(format!("{link}/x"), false, &b"x"[..]);
        let _ = bench.tree.dir(format!("{link}/y"));
        let _ = bench.tree.clear(Path::new(&link));
    }
    assert!(bench.outside_is_empty());
}

#[test]
fn a_folder_link_inside_the_tree_is_followed() {
    let mut bench = Bench::new();
    bench.tree.dir("usr/lib").unwrap();
    bench.tree.link("lib", Path::new("usr/lib")).unwrap();
    bench.tree.file("lib/x", true, &b"x"[..]).unwrap();
    assert_eq!(std::fs::read(bench.tree.path().join("usr/lib/x")).unwrap(), b"x");
}

#[test]
fn a_file_replaces_a_link_and_does_not_write_through_it() {
    let mut bench = Bench::new();
    let victim = bench.dir.path().join("victim");
    std::fs::write(&victim, "old").unwrap();
    bench.tree.link("x", &victim).unwrap();
    bench.tree.file("x", false, &b"new"[..]).unwrap();
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "old");
    assert_eq!(bench.tree.read("x", 10).unwrap(), b"new");
}

#[test]
fn reading_follows_links_inside_the_tree_only() {
    let mut bench = Bench::new();
    bench.tree.link("x", Path::new("/etc/passwd")).unwrap();
    assert!(bench.tree.read("x", 1 << 20).is_err());
    bench.tree.text("etc/passwd", "ours").unwrap();
    assert_eq!(bench.tree.read("x", 1 << 20).unwrap(), b"ours");
    assert!(bench.tree.read("x", 3).is_err());
    let error = bench.tree.copy(Path::new("y"), Path::new("etc")).unwrap_err();
    assert!(matches!(error, BuildError::Refused { .. }), "{error}");
}

#[test]
fn folders_and_files_give_way_to_each_other() {
    let mut bench = Bench::new();
    bench.tree.text("a/b/c", "1").unwrap();
    bench.tree.text("a", "2").unwrap();
    bench.tree.text("a/b", "3").unwrap();
    assert_eq!(bench.tree.read("a/b", 10).unwrap(), b"3");
    bench.tree.remove(Path::new("a")).unwrap();
    bench.tree.remove(Path::new("a/b/c")).unwrap();
    assert!(!bench.tree.exists("a"));
}

#[test]
fn what_is_copied_from_the_host_loses_devices_setuid_bits_and_what_is_not_kept() {
    let mut bench = Bench::new();
    let host = bench.dir.path().join("outside");
    for name in ["run", "read", "drop"] {
        std::fs::write(host.join(name), name).unwrap();
    }
    let mode = |name, mode| {
        std::fs::set_permissions(host.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("run", 0o4711);
    mode("read", 0o600);
    let socket = std::os::unix::net::UnixListener::bind(host.join("socket")).unwrap();
    bench.tree.add(&host, Path::new("/app"), &|path| path != Path::new("drop")).unwrap();
    drop(socket);
    let entries = bench.tree.entries().unwrap();
    let shown: Vec<_> =
        entries.iter().map(|entry| (entry.path.to_str().unwrap(), &entry.kind)).collect();
    let file = |executable, size| Kind::File { executable, size };
    let expected =
        [("app", &Kind::Dir), ("app/read", &file(false, 4)), ("app/run", &file(true, 3))];
    assert_eq!(shown, expected);
    let run = bench.tree.path().join("app/run").metadata().unwrap();
    assert_eq!(run.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn the_list_of_files_does_not_depend_on_the_order_of_writing() {
    let list = |names: &[&str]| {
        let mut bench = Bench::new();
        for name in names {
            bench.tree.text(name, name.rsplit('/').next().unwrap()).unwrap();
        }
        bench.tree.link("l", Path::new("a b")).unwrap();
        let list = bench.tree.listing(&bench.tree.entries().unwrap()).unwrap();
        String::from_utf8(list).unwrap()
    };
    let one = list(&["d/x", "d/y", "a"]);
    assert_eq!(one, list(&["a", "d/y", "d/x"]));
    assert_eq!(one.lines().count(), 5);
    assert!(one.contains("link - a b /l\n"), "{one}");
}

#[test]
fn a_tree_that_is_too_deep_is_refused() {
    let mut bench = Bench::new();
    assert!(bench.tree.dir("x/".repeat(MAX_DEPTH + 1)).is_err());
}

impl Tree {
    /// Reads a file of at most `limit` bytes, links followed inside the tree.
    pub(crate) fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, BuildError> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        let read = self.open(path)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(BuildError::io(path))?;
        if bytes.len() as u64 > limit {
            return Err(BuildError::refused(shown(path), format!("it is over {limit} bytes")));
        }
        Ok(bytes)
    }
}
