//! Folders of the host in real guests: each in its place, with what its mode allows.

use crate::guest::{Bench, Runtime, soon};
use crate::persistent::Client;
use osvm_microvm::workspace::{Pending, Workspace};
use osvm_microvm::{Cloned, Persistent};
use osvm_policy::WorkspaceMode;
use osvm_upstream::{Launch, Stop};
use serde_json::{Value, json};
use std::fs;

/// A diff and two mounts, in folders of their own.
fn places(bench: &Bench) -> Vec<Workspace> {
    let modes =
        [("diff", WorkspaceMode::Diff), ("rw", WorkspaceMode::Rw), ("ro", WorkspaceMode::Ro)];
    let place = |(name, mode): (&str, WorkspaceMode)| {
        let host_path = bench.dir().join(name);
        fs::create_dir(&host_path).unwrap();
        fs::write(host_path.join(format!("{name}.txt")), "host").unwrap();
        let pending = Pending::new(bench.dir().join("pending"));
        let (guest_path, is_mount) = (format!("/files/{name}"), mode != WorkspaceMode::Diff);
        Workspace { host_path, guest_path, mode, pending, is_mount }
    };
    modes.map(place).into()
}

/// One call that writes to each folder and lists them.
fn check(bench: &Bench, launch: &dyn Launch) -> Value {
    let link = launch.launch(soon(), &Stop::default()).unwrap();
    let mut client = Client::new(link);
    if !launch.once() {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        client.ask(1, "initialize", &params);
    }
    let arguments = json!({
        "write": {"/files/diff/new": "1", "/files/rw/new": "2", "/files/ro/new": "3"},
        "list": ["/files/diff", "/files/rw", "/files/ro"],
    });
    let result = client.ask(2, "tools/call", &json!({"name": "files", "arguments": arguments}));
    let told: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(
        told,
        json!({"/files/ro/new": "Read-only file system", "/files/diff": ["diff.txt", "new"],
            "/files/rw": ["new", "rw.txt"], "/files/ro": ["ro.txt"]})
    );
    let file = |path: &str| fs::read_to_string(bench.dir().join(path)).ok();
    assert_eq!((file("diff/new"), file("ro/new")), (None, None));
    assert_eq!(file("rw/new").as_deref(), Some("2"));
    result["_meta"]["osvm/workspace"].clone()
}

#[test]
fn a_clone_has_every_folder_in_its_place_and_leaves_what_may_be_left() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Python) else { return };
    let mut places = places(&bench);
    recipe.workspace = Some(places.remove(0));
    recipe.mounts = places;
    let server = Cloned::new(bench.host.clone(), recipe, 0).unwrap();
    let news = check(&bench, &server);
    assert_eq!((&news["mode"], &news["changes"][0]["path"]), (&json!("diff"), &json!("new")));
    assert_eq!(news["mounts"].as_array().unwrap().len(), 1);
    assert_eq!(news["mounts"][0]["guest_path"], "/files/rw");
    assert_eq!(Pending::new(bench.dir().join("pending")).list().unwrap().len(), 1);
}

#[test]
fn a_server_that_lives_on_has_its_mounts_before_it_starts() {
    let Some(bench) = Bench::new() else { return };
    let Some(mut recipe) = bench.recipe(Runtime::Python) else { return };
    recipe.mounts = places(&bench).split_off(1);
    fs::write(bench.dir().join("ro/start"), "").unwrap();
    recipe.cwd = "/files/ro".into();
    let link = Persistent::new(bench.host.clone(), recipe).launch(soon(), &Stop::default());
    let mut client = Client::new(link.unwrap());
    client.ask(1, "initialize", &json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
    let mut files = |id: u32, arguments: &Value| {
        client.ask(id, "tools/call", &json!({"name": "files", "arguments": arguments}))
    };
    let listed = files(2, &json!({"list": ["."]}));
    assert_eq!(listed["content"][0]["text"], r#"{".": ["ro.txt", "start"]}"#);
    files(3, &json!({"write": {"/files/rw/rw.txt": "guest"}}));
    let host = fs::read_to_string(bench.dir().join("rw/rw.txt")).unwrap();
    assert_eq!(host, "guest");
}
