//! Builds real images, and lets the servers in them answer from inside their own trees.
//!
//! What needs `mkfs.erofs`, Landlock or a registry says so when it is missing, and fails where
//! `OSVM_REQUIRE` names `images`.

#![cfg(test)]

use osvm_build::{BuildError, BuildGuest, Built, GuestError, Guests, Recipe, Runtime, build};
use osvm_image::linux::{LinuxStore, SourceKind};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;

struct Bench {
    dir: tempfile::TempDir,
    store: LinuxStore,
}

/// A host without virtual machines.
struct NoGuests;

impl Guests for NoGuests {
    fn run(
        &self,
        _guest: &BuildGuest<'_>,
        _heard: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), GuestError> {
        Err(GuestError { source: "there is no virtual machine".into(), hint: None })
    }
}

/// Says that a test can't run here, unless it has to.
#[track_caller]
fn skip(reason: &str) {
    let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "images"), "cannot be tested: {reason}");
    eprintln!("SKIPPED: {reason}");
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LinuxStore::new(dir.path().join("images"));
        Self { dir, store }
    }

    /// Builds; `None` where a tool, Landlock or the registry is missing.
    #[track_caller]
    fn build(&self, recipe: &Recipe) -> Option<Built> {
        match build(recipe, &self.store, &NoGuests, &|step| eprintln!("{step}")) {
            Err(error @ (BuildError::NoTool { .. } | BuildError::NoJail(_))) => {
                skip(&error.to_string());
                None
            }
            Err(BuildError::Step { what, output, .. }) if is_offline(&output) => {
                skip(&format!("{what}: {output}"));
                None
            }
            built => Some(built.unwrap()),
        }
    }

    /// The tree that the image was made from, read back from the image itself.
    fn unpack(&self, built: &Built) -> Option<PathBuf> {
        let path = self.dir.path().join(format!("tree-{}", built.manifest.name));
        let image = self.store.blob_path(built.manifest.root.digest);
        let done = Command::new("fsck.erofs")
            .arg(format!("--extract={}", path.display()))
            .arg(image)
            .output();
        match done {
            Ok(done) if done.status.success() => Some(path),
            Ok(done) => panic!("fsck.erofs: {}", String::from_utf8_lossy(&done.stderr)),
            Err(error) => {
                skip(&format!("fsck.erofs: {error}"));
                None
            }
        }
    }

    /// What the server says to `initialize`, run with nothing but its own tree.
    fn initialize(&self, built: &Built) -> Option<String> {
        let tree = self.unpack(built)?;
        let mut command = Command::new("unshare");
        // Debian's /dev nodes are the guest's own business; programs only need this one here.
        std::fs::write(tree.join("dev/null"), "").unwrap();
        command
            .args(["--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "chroot"])
            .arg(&tree);
        command.args(&built.manifest.command).env_clear().envs(&built.manifest.env);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| skip(&format!("unshare: {error}"))).ok()?;
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{INITIALIZE}").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        drop(stdin);
        let _ = child.kill();
        child.wait().unwrap();
        Some(line)
    }

    #[track_caller]
    fn answers(&self, recipe: &Recipe) -> Option<Built> {
        let built = self.build(recipe)?;
        let answer = self.initialize(&built)?;
        assert!(answer.contains("serverInfo"), "{answer:?}");
        Some(built)
    }
}

fn is_offline(output: &str) -> bool {
    ["ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "Temporary failure", "ETIMEDOUT"]
        .iter()
        .any(|sign| output.contains(sign))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn rootfs(dir: &Path, names: &[&str]) {
    for name in names {
        write(&dir.join(name), name);
    }
    std::fs::set_permissions(dir.join("bin/server"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
}

#[test]
fn the_same_folder_gives_the_same_image_whenever_and_in_whatever_order_it_was_written() {
    let names = ["bin/server", "etc/motd", "a/b/c", "z"];
    let reversed: Vec<_> = names.iter().copied().rev().collect();
    let mut digests = Vec::new();
    for names in [&names[..], &reversed] {
        let bench = Bench::new();
        let folder = bench.dir.path().join("folder");
        rootfs(&folder, names);
        let recipe = Recipe {
            name: "small".into(),
            rootfs: Some(folder),
            command: vec!["/bin/server".into()],
            ..Recipe::default()
        };
        let Some(built) = bench.build(&recipe) else { return };
        let image = bench.store.load("small").unwrap();
        assert_eq!(image.digest, built.digest);
        digests.push((built.digest, built.manifest.root.digest));
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_changed_file_gives_another_image() {
    let bench = Bench::new();
    let folder = bench.dir.path().join("folder");
    rootfs(&folder, &["bin/server"]);
    let recipe = Recipe {
        name: "small".into(),
        rootfs: Some(folder.clone()),
        command: vec!["/bin/server".into()],
        ..Recipe::default()
    };
    let Some(before) = bench.build(&recipe) else { return };
    write(&folder.join("bin/server"), "another");
    let after = bench.build(&recipe).unwrap();
    assert_ne!(before.digest, after.digest);
    assert_ne!(before.manifest.build_id, after.manifest.build_id);
}

#[test]
fn a_command_with_added_files_gets_the_libraries_it_needs() {
    let bench = Bench::new();
    let script = bench.dir.path().join("server.sh");
    write(&script, "read line; echo '{\"result\":{\"serverInfo\":{}}}'\n");
    let recipe = Recipe {
        name: "shell".into(),
        command: ["/bin/sh", "/app/server.sh"].map(str::to_owned).into(),
        add: vec![format!("{}:/app/server.sh", script.display()), "/bin/sh:/bin/sh".into()],
        ..Recipe::default()
    };
    let Some(built) = bench.answers(&recipe) else { return };
    assert!(built.manifest.sources.iter().any(|source| source.kind == SourceKind::Files));
}

#[test]
fn a_server_of_npm_answers_from_its_own_tree_and_is_built_the_same_twice() {
    let recipe = |bundle, lock| Recipe {
        name: "everything".into(),
        npm: Some("@modelcontextprotocol/server-everything@2026.8.31".into()),
        bundle,
        lock,
        ..Recipe::default()
    };
    let bench = Bench::new();
    let Some(built) = bench.answers(&recipe(true, None)) else { return };
    let mut lock = bench.store.blob("everything", built.manifest.locks[0].digest).unwrap();
    let path = bench.dir.path().join("lock");
    std::io::copy(&mut lock, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let again = Bench::new().build(&recipe(true, Some(path))).unwrap();
    assert_eq!(again.manifest.root.digest, built.manifest.root.digest);
    assert_eq!(again.manifest.sources, built.manifest.sources);
}

#[test]
fn a_server_of_pypi_answers_from_its_own_tree() {
    let recipe = Recipe {
        name: "time".into(),
        pypi: Some("mcp-server-time==2026.10.19".into()),
        args: vec!["--local-timezone=UTC".into()],
        ..Recipe::default()
    };
    Bench::new().answers(&recipe);
}

#[test]
fn a_script_of_a_repository_runs_on_the_runtime_it_is_given() {
    let bench = Bench::new();
    let script = bench.dir.path().join("server.mjs");
    write(&script, "process.stdin.once('data', () => console.log('{\"serverInfo\":1}'));");
    let recipe = Recipe {
        name: "script".into(),
        from: Some(Runtime::Node),
        add: vec![format!("{}:/app/server.mjs", script.display())],
        command: ["/usr/bin/node", "/app/server.mjs"].map(str::to_owned).into(),
        ..Recipe::default()
    };
    bench.answers(&recipe);
}
