//! Install scripts of packages, run while an image is built: in a microVM, which reaches the registry,
//! has no file of the host, and leaves nothing but what it wrote below its packages.

use crate::microvm::{call, home_without_image, osvm, skip, target};
use crate::npm_registry::{Package, Registry};
use crate::support::Home;
use crate::web::Web;
use serde_json::{Value, json};
use std::fs::File;
use std::process::{Command, Output};

/// A server whose own script, and that of a package it needs, write what it says. It also needs a
/// package of other people whose script puts its program in the place of another.
fn scripted() -> [Package; 2] {
    let dependency = json!({"name": "scripted-dependency", "version": "1.0.0",
        "scripts": {"install": "printf made > value"}});
    let server = json!({"name": "scripted-server", "version": "1.0.0", "bin": "server.mjs",
        "scripts": {"postinstall": "node postinstall.mjs"},
        "dependencies": {"scripted-dependency": "1.0.0", "esbuild": "0.28.2"}});
    let files: &[_] = &[
        ("server.mjs", include_str!("image_scripts/server.mjs")),
        ("postinstall.mjs", include_str!("image_scripts/postinstall.mjs")),
    ];
    [Package { json: dependency, files: &[] }, Package { json: server, files }]
}

/// A package whose script fails.
fn failing() -> Package {
    let json = json!({"name": "failing", "version": "1.0.0",
        "scripts": {"install": "echo these are its last words; exit 3"}});
    Package { json, files: &[] }
}

/// Builds from this registry; `None`, said on stderr, where that can't be done.
fn build(home: &Home, registry: &Registry, name: &str, args: &[&str]) -> Option<Output> {
    // The builder is made once, by whoever comes first.
    let lock = File::create(target().join("mcp-images/builder.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let made = std::fs::read_dir(target().join("mcp-images/images")).unwrap().flatten();
    let mut made = made.map(|image| image.file_name().into_string().unwrap());
    if made.any(|name| name.starts_with("osvm-builder-node-")) || args.contains(&"--no-scripts") {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    }
    let args = [&["image", "build", name], args].concat();
    let mut build = osvm(home, &args);
    build.env("npm_config_registry", registry.url()).env("SECRET_OF_THE_HOST", "known");
    let output = build.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let missing =
        ["ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "not found: it is needed"];
    if missing.iter().any(|missing| stderr.contains(missing)) {
        skip("packages", &stderr);
        return None;
    }
    Some(output)
}

fn has_npm() -> bool {
    let there = Command::new("npm").arg("--version").output().is_ok();
    if !there {
        skip("packages", "npm is not installed");
    }
    there
}

fn show(home: &Home, name: &str, what: &str) -> String {
    let shown = osvm(home, &["image", "show", name, what]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

#[test]
fn install_scripts_reach_the_registry_and_write_below_their_packages_alone() {
    let Some(home) = home_without_image().filter(|_| has_npm()) else { return };
    let registry = Registry::start(&scripted());
    let elsewhere = Web::start(|_| Some("reached".into()));
    let file = home.path().join("file-of-the-host");
    std::fs::write(&file, "known").unwrap();
    let targets = json!({"elsewhere": elsewhere.url("/"), "file": file}).to_string();
    registry.pages.set([("/-/targets".to_owned(), targets)].into()).unwrap();

    let Some(built) = build(&home, &registry, "scripted", &["--npm", "scripted-server@1.0.0"])
    else {
        return;
    };
    let told = String::from_utf8(built.stderr).unwrap();
    assert!(built.status.success(), "{told}");
    let reached = format!("it reaches `127.0.0.1:{}` and nothing else", registry.port);
    assert!(told.contains(&reached), "{told}");

    the_manifest_says_what_ran(&home);
    only_what_is_below_the_packages_is_in_the_image(&show(&home, "scripted", "--files"));
    the_receipt_says_what_was_reached(&home, registry.port, elsewhere.port);
    let made = asked_in_a_copy(&home);
    // What the script did in its own guest it could do, and nobody else has seen it.
    let expected = json!({"dependency": "made", "proxied": "refused", "direct": "ECONNREFUSED",
        "file": "ENOENT", "secret": null, "user": 1000, "event": "postinstall", "beside": "done",
        "above": "done"});
    assert_eq!(made, expected);
    assert_eq!(elsewhere.connections(), 0);
    assert!(!std::path::Path::new("/usr/bin/planted").exists());
    home.assert_nothing_left();
}

/// And in which order.
fn the_manifest_says_what_ran(home: &Home) {
    let manifest: Value = serde_json::from_str(&show(home, "scripted", "--json")).unwrap();
    let scripts = &manifest["scripts"];
    assert!(scripts["builder"].as_str().unwrap().starts_with("osvm-builder-node-"), "{scripts}");
    assert!(scripts["builder_digest"].as_str().unwrap().starts_with("sha256:"), "{scripts}");
    let runs: Vec<_> = scripts["runs"].as_array().unwrap().iter().collect();
    let runs: Vec<_> =
        runs.iter().map(|run| [&run["package"], &run["event"], &run["outcome"]]).collect();
    assert_eq!(
        runs,
        [
            ["esbuild", "postinstall", "ok"],
            ["scripted-dependency", "install", "ok"],
            ["scripted-server", "postinstall", "ok"]
        ]
    );
}

/// Where a script has also put the program of one package in the place of another's.
fn only_what_is_below_the_packages_is_in_the_image(files: &str) {
    assert!(files.contains("/app/node_modules/scripted-server/made.json"), "{files}");
    assert!(!files.contains("planted"), "{files}");
    let line = |path: &str| {
        let line = files.lines().find_map(|line| line.strip_suffix(path));
        line.unwrap_or_else(|| panic!("{path}: {files}"))
    };
    let [native, program] = ["@esbuild/linux-x64", "esbuild"]
        .map(|package| line(&format!("/app/node_modules/{package}/bin/esbuild")));
    assert!(native.starts_with("exec ") && native == program, "{native} {program}");
}

fn the_receipt_says_what_was_reached(home: &Home, registry: u16, elsewhere: u16) {
    let receipt = osvm(home, &["receipts", "export"]).output().unwrap().stdout;
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(
        (&receipt["server"], &receipt["tool"]),
        (&json!("osvm-builder"), &json!("install-scripts"))
    );
    let reaches = receipt["reaches"].as_array().unwrap().iter().map(|reach| &reach["http"]);
    let reaches: Vec<_> = reaches
        .map(|http| json!([http["port"], http["status"], http["refused"].is_string()]))
        .collect();
    assert_eq!(reaches.len(), 2, "{receipt}");
    for expected in [json!([registry, null, false]), json!([elsewhere, null, true])] {
        assert!(reaches.contains(&expected), "{receipt}");
    }
}

/// What the server in the image says that scripts have written.
fn asked_in_a_copy(home: &Home) -> Value {
    home.write_config(
        &json!({"mcp_servers": {"scripted": {"use_microvm": true, "timeout_secs": 120}}})
            .to_string(),
    );
    let servers =
        json!({"mcpServers": {"scripted": {"command": "npx", "args": ["scripted-server@1.0.0"]}}});
    std::fs::write(home.config_path().with_file_name("mcp_servers.json"), servers.to_string())
        .unwrap();
    let answer = call(home, "scripted", "made", "{}");
    assert_eq!(answer["isolation"]["mode"], "microvm", "{answer}");
    let made =
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(made).unwrap()
}

#[test]
fn a_script_that_fails_is_named_with_its_last_words_and_there_is_no_image() {
    let Some(home) = home_without_image().filter(|_| has_npm()) else { return };
    let registry = Registry::start(&[failing()]);
    let Some(built) = build(&home, &registry, "failing", &["--npm", "failing@1.0.0"]) else {
        return;
    };
    let told = String::from_utf8(built.stderr).unwrap();
    assert_eq!(built.status.code(), Some(2), "{told}");
    let expected = "error: `install` of package `failing` ended with exit status 3:\nthese are its last words\n\nhint: if the package works without, say `--skip-script failing`\n";
    assert!(told.ends_with(expected), "{told}");
    assert!(!osvm(&home, &["image", "show", "failing"]).output().unwrap().status.success());
    home.assert_nothing_left();
}

#[test]
fn scripts_whose_time_is_over_are_ended() {
    let Some(home) = home_without_image().filter(|_| has_npm()) else { return };
    let registry = Registry::start(&[failing()]);
    // Less than a guest takes to boot.
    let args = ["--npm", "failing@1.0.0", "--builder-timeout", "1"];
    let Some(built) = build(&home, &registry, "failing", &args) else { return };
    let told = String::from_utf8(built.stderr).unwrap();
    assert_eq!(built.status.code(), Some(2), "{told}");
    let expected = "they took longer than 1 s";
    assert!(told.contains(expected) && told.contains("`--builder-timeout`"), "{told}");
    home.assert_nothing_left();
}

#[test]
fn scripts_are_refused_where_none_is_to_run() {
    let Some(home) = home_without_image().filter(|_| has_npm()) else { return };
    let registry = Registry::start(&[failing()]);
    let args = ["--npm", "failing@1.0.0", "--no-scripts"];
    let Some(built) = build(&home, &registry, "failing", &args) else { return };
    let told = String::from_utf8(built.stderr).unwrap();
    assert_eq!(built.status.code(), Some(2), "{told}");
    let expected = "package `failing` needs its install script, and the recipe has none run";
    assert!(told.contains(expected) && told.contains("leave out `--no-scripts`"), "{told}");
}
