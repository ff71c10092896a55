//! Images of Linux microVMs: built from a folder, looked at, checked, removed.

use crate::support::Home;
use serde_json::Value;
use snapbox::str;
use std::fs;
use std::process::{Command, Output};

/// A home with an image `demo`, built from a folder; `None`, said on stderr, where it can't be built.
fn with_image() -> Option<Home> {
    if Command::new("mkfs.erofs").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no mkfs.erofs here");
        let required = std::env::var("OSVM_REQUIRE").unwrap_or_default();
        assert!(!required.contains("erofs"), "OSVM_REQUIRE names erofs");
        return None;
    }
    let home = Home::without_images();
    let root = home.path().join("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/server"), "#!/bin/sh\nexit 0\n").unwrap();
    let built = build(&home, "demo");
    let stderr = String::from_utf8(built.stderr).unwrap();
    assert!(built.status.success(), "{stderr}");
    Some(home)
}

/// Builds from the folder `root`; finds `mkfs.erofs` as this test does.
fn build(home: &Home, name: &str) -> Output {
    let args = ["image", "build", name, "--rootfs", "root", "--command", "/usr/bin/server --x"];
    let mut build = home.osvm_std(&args);
    build.env("PATH", std::env::var_os("PATH").unwrap_or_default()).output().unwrap()
}

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.osvm_of(args).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_image_of_a_folder_is_listed_shown_and_verified() {
    let Some(home) = with_image() else { return };
    let list = json(&home, &["image", "ls", "--json"]);
    assert_eq!(list[0]["name"], "demo", "{list}");
    let manifest = json(&home, &["image", "show", "demo", "--json"]);
    assert_eq!(manifest["command"], serde_json::json!(["/usr/bin/server", "--x"]));
    let shown = home.osvm(["image", "show", "demo"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("command      /usr/bin/server --x"), "{shown}");
    let files = home.osvm(["image", "show", "demo", "--files"]).output().unwrap();
    assert!(String::from_utf8(files.stdout).unwrap().contains("usr/bin/server"));
    assert_eq!(json(&home, &["image", "show", "demo", "--sbom"])["bomFormat"], "CycloneDX");
    home.osvm(["image", "verify"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
demo  sha256:[..]  ok

"#]]);
}

#[test]
fn the_same_folder_gives_the_same_image() {
    let Some(home) = with_image() else { return };
    assert!(build(&home, "again").status.success());
    let [one, two] = ["demo", "again"].map(|name| json(&home, &["image", "show", name, "--json"]));
    assert_eq!(one["root"]["digest"], two["root"]["digest"]);
}

#[test]
fn an_image_that_was_altered_is_found() {
    let Some(home) = with_image() else { return };
    let manifest = json(&home, &["image", "show", "demo", "--json"]);
    let digest = manifest["root"]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let root = home.path().join(".osvm/images/blobs/sha256").join(digest);
    let mut bytes = fs::read(&root).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::remove_file(&root).unwrap();
    fs::write(&root, bytes).unwrap();
    let verify = home.osvm(["image", "verify", "demo"]).output().unwrap();
    assert_eq!(verify.status.code(), Some(2));
    let stdout = String::from_utf8(verify.stdout).unwrap();
    assert!(stdout.starts_with("demo  ") && !stdout.contains("ok"), "{stdout}");
}

#[test]
fn an_image_that_was_removed_leaves_nothing_after_gc() {
    let Some(home) = with_image() else { return };
    home.osvm(["image", "rm", "demo"]).assert().code(0).stderr_eq("removed `demo`\n");
    home.osvm(["image", "rm", "demo"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: Linux image `demo` not found

hint: build one with `osvm image build`; `osvm image ls` lists them

"#]]);
    let freed = json(&home, &["image", "gc", "--json"]);
    assert!(
        freed["files"].as_u64().unwrap() >= 2 && freed["bytes"].as_u64().unwrap() > 0,
        "{freed}"
    );
    let blobs = home.path().join(".osvm/images/blobs/sha256");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    home.osvm(["image", "ls"]).assert().code(0).stdout_eq("").stderr_eq(str![[r#"
no images yet: `osvm image build --help`

"#]]);
}

#[test]
fn a_recipe_that_is_wrong_is_refused() {
    let home = Home::without_images();
    let build = home.osvm(["image", "build", "x", "--rootfs", "nowhere", "--command", "/x"]);
    build.assert().code(2).stdout_eq("");
    let build = home.osvm(["image", "build", "x", "--git", "https://a.example/r.git@main"]);
    build.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
checking out the repository
error: the recipe is refused: `https://a.example/r.git@main` does not end with a full commit id, 40 hexadecimal digits

"#]]);
    home.osvm(["image", "build", "x"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the recipe is refused: it names nothing to make an image from

"#]]);
    home.osvm(["image", "verify", "x"]).assert().code(2);
    assert!(!home.path().join(".osvm/images/x").exists());
}

#[test]
fn a_recipe_file_makes_what_its_flags_make() {
    let Some(home) = with_image() else { return };
    let recipe = "name = \"again\"\nrootfs = \"root\"\ncommand = [\"/usr/bin/server\", \"--x\"]\n\
                  needs = [\"state\"]\nmemory_mb = 192\n";
    fs::write(home.path().join("again.toml"), recipe).unwrap();
    let mut build = home.osvm_std(&["image", "build", "--recipe", "again.toml"]);
    build.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    assert!(build.output().unwrap().status.success());
    let [one, two] = ["demo", "again"].map(|name| json(&home, &["image", "show", name, "--json"]));
    assert_eq!(
        (&one["root"]["digest"], &one["command"]),
        (&two["root"]["digest"], &two["command"])
    );
    assert_eq!(two["needs"], serde_json::json!(["state"]));
    assert_eq!(two["default_memory_mb"], 192);
}

/// The example of RFC 8410, section 10.3, and its public half from 10.1.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
/// The public key of the first test of RFC 8032, section 7.1.
const OTHER: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

#[test]
fn a_signature_holds_for_its_key_and_until_the_image_is_another() {
    let Some(home) = with_image() else { return };
    for (name, text) in [("key.pem", KEY), ("public.pem", PUBLIC), ("other.pem", OTHER)] {
        fs::write(home.path().join(name), text).unwrap();
    }
    let verify = |key: &str| {
        let output = home.osvm(["image", "verify", "demo", "--key", key]).output().unwrap();
        output.status.success()
    };
    assert!(!verify("public.pem"), "it is not signed");
    home.osvm(["image", "sign", "demo", "--key", "key.pem"]).assert().code(0);
    assert!(verify("public.pem") && !verify("other.pem"));
    fs::write(home.path().join("root/usr/bin/server"), "#!/bin/sh\nexit 1\n").unwrap();
    assert!(build(&home, "demo").status.success());
    assert!(!verify("public.pem"), "it is another image");
}
