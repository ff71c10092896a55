//! Servers that misbehave hurt their own guest and nobody else's.

use crate::guest::{Bench, Runtime, call, soon, text};
use osvm_microvm::clones::Ready;
use osvm_microvm::{Gone, Guest, Template};
use osvm_upstream::Stop;
use serde_json::json;
use std::time::{Duration, Instant};

/// A template, a clone of it, and a witness that has to work afterwards.
struct Scene {
    bench: Bench,
    template: Template,
}

impl Scene {
    fn new() -> Option<Self> {
        let bench = Bench::new()?;
        let recipe = bench.recipe(Runtime::Node)?;
        let template = Template::make(&bench.host, &recipe, soon(), &Stop::default()).unwrap();
        Some(Self { bench, template })
    }

    fn clone(&self) -> Guest {
        Ready::make(&self.bench.host, &self.template, false, soon()).unwrap().into_guest()
    }
}

fn tool(guest: &mut Guest, tool: &str, deadline: Instant) -> Result<String, Gone> {
    let result = guest.talk().request("tools/call", &call(tool), deadline)?;
    Ok(text(result.get()))
}

fn look(guest: &mut Guest, path: &str) -> String {
    let params = json!({"name": "look", "arguments": {"path": path}});
    text(guest.talk().request("tools/call", &params, soon()).unwrap().get())
}

#[test]
fn a_memory_hog_is_ended_by_its_own_kernel_and_the_reason_is_told() {
    let Some(scene) = Scene::new() else { return };
    let (mut hog, mut witness) = (scene.clone(), scene.clone());
    let gone = tool(&mut hog, "hog", soon()).unwrap_err();
    let Gone::Ended(exit) = gone else { panic!("{gone:?}") };
    // Node gives up by itself if it sees the end coming.
    assert!(exit.out_of_memory || exit.signal == Some(6), "{exit:?}");
    assert_eq!(tool(&mut witness, "count", soon()).unwrap(), "1");
}

#[test]
fn a_full_disk_is_the_servers_own_problem() {
    let Some(scene) = Scene::new() else { return };
    let mut guest = scene.clone();
    let said = tool(&mut guest, "fill", soon()).unwrap();
    assert_eq!(said, "ENOSPC");
    assert_eq!(tool(&mut guest, "count", soon()).unwrap(), "1");
}

#[test]
fn a_fork_bomb_and_endless_output_leave_other_guests_alone() {
    let Some(scene) = Scene::new() else { return };
    let (mut bomb, mut flood, mut witness) = (scene.clone(), scene.clone(), scene.clone());
    assert_eq!(tool(&mut bomb, "bomb", soon()).unwrap(), "started");
    let soon_over = Instant::now() + Duration::from_secs(2);
    let flooded = tool(&mut flood, "flood", soon_over).unwrap_err();
    assert!(matches!(flooded, Gone::Deadline), "{flooded:?}");
    assert_eq!(tool(&mut witness, "count", soon()).unwrap(), "1");
    let deadline = Instant::now() + Duration::from_secs(30);
    drop((bomb, flood));
    assert!(Instant::now() < deadline);
}

#[test]
fn a_line_without_an_end_ends_its_server_with_the_reason() {
    let Some(scene) = Scene::new() else { return };
    let mut guest = scene.clone();
    let gone = tool(&mut guest, "endless", soon()).unwrap_err();
    assert!(gone.to_string().contains("a line of more than"), "{gone}");
}

#[test]
fn a_guest_sees_no_network_no_disk_and_no_orders() {
    let Some(scene) = Scene::new() else { return };
    let mut guest = scene.clone();
    let interfaces = tool(&mut guest, "interfaces", soon()).unwrap();
    let names: Vec<_> =
        interfaces.lines().filter_map(|l| l.split_once(':')).map(|(n, _)| n.trim()).collect();
    assert_eq!(names, ["lo"]);
    assert_eq!(look(&mut guest, "/osvm.json"), "ENOENT");
    assert_eq!(look(&mut guest, "/init"), "ENOENT");
    assert_eq!(look(&mut guest, "/dev/vda"), "EACCES");
    let port = look(&mut guest, "/dev/vport0p1");
    assert!(["EACCES", "ENOENT"].contains(&port.as_str()), "{port}");
    assert_eq!(look(&mut guest, "/proc/1/environ"), "EACCES");
}
