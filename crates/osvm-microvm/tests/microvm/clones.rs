//! Clones of a warm server: unique, separate, gone after their request.

use crate::guest::{Bench, Runtime, call, soon, text};
use osvm_microvm::clones::{Pool, Ready};
use osvm_microvm::{Recipe, Template};
use osvm_upstream::Stop;
use serde_json::Value;
use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Clones of which no two may be alike. The whole suite takes `OSVM_TEST_CLONES=200`.
fn clones() -> usize {
    std::env::var("OSVM_TEST_CLONES").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

fn template(bench: &Bench, recipe: &Recipe) -> Template {
    Template::make(&bench.host, recipe, soon(), &Stop::default()).unwrap()
}

/// Calls one tool in a clone that is gone afterwards.
fn once(bench: &Bench, template: &Template, tool: &str) -> String {
    let ready = Ready::make(&bench.host, template, false, soon()).unwrap();
    let mut guest = ready.into_guest();
    text(guest.talk().request("tools/call", &call(tool), soon()).unwrap().get())
}

fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// Draws from many clones and looks for anything that two of them share.
fn no_two_are_alike(runtime: Runtime, alike: &[&str]) {
    let Some(bench) = Bench::new() else { return };
    let Some(recipe) = bench.recipe(runtime) else { return };
    let template = template(&bench, &recipe);
    let mut seen = HashSet::new();
    for number in 0..clones() {
        let ready = Ready::make(&bench.host, &template, false, soon()).unwrap();
        assert!(0 < ready.hooks(), "the {runtime:?} server has not loaded its hook");
        let sure = ready.clock_error() < Duration::from_millis(50);
        let mut guest = ready.into_guest();
        let before = unix_ms();
        let drawn = guest.talk().request("tools/call", &call("draw"), soon()).unwrap();
        let after = unix_ms();
        let drawn: Value = serde_json::from_str(&text(drawn.get())).unwrap();
        for (name, value) in drawn.as_object().unwrap() {
            if name == "now" {
                let now = value.as_f64().unwrap();
                // On a host that is too busy to tell, the clone says so.
                let right = before - 50.0 < now && now < after + 50.0;
                assert!(right || !sure, "{before} {now} {after}");
            } else if !alike.contains(&name.as_str()) {
                let new = seen.insert((name.clone(), value.to_string()));
                assert!(new, "clone {number}: `{name}` is {value} again");
            }
        }
    }
}

#[test]
fn no_two_clones_of_a_node_server_draw_the_same() {
    no_two_are_alike(Runtime::Node, &[]);
}

#[test]
fn no_two_clones_of_a_python_server_draw_the_same_unless_they_chose_the_seed() {
    no_two_are_alike(Runtime::Python, &["seeded"]);
}

#[test]
fn what_one_clone_writes_the_next_does_not_see() {
    let Some(bench) = Bench::new() else { return };
    let Some(recipe) = bench.recipe(Runtime::Node) else { return };
    let template = template(&bench, &recipe);
    assert!(template.snapshot_is_sealed());
    assert_eq!(once(&bench, &template, "write"), "written");
    assert_eq!(once(&bench, &template, "read"), "absent");
    assert_eq!(once(&bench, &template, "count"), "1");
    assert_eq!(once(&bench, &template, "count"), "1");
}

#[test]
fn a_template_has_called_what_its_server_calls_harmless_and_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let Some(recipe) = bench.recipe(Runtime::Node) else { return };
    let template = template(&bench, &recipe);
    assert_ne!(once(&bench, &template, "drawn"), "0");
    assert_eq!(once(&bench, &template, "count"), "1");
}

#[test]
fn a_pool_hands_out_clones_that_were_never_used() {
    let Some(bench) = Bench::new() else { return };
    let Some(recipe) = bench.recipe(Runtime::Node) else { return };
    let pool = Pool::new(bench.host.clone(), template(&bench, &recipe), 2).unwrap();
    for _ in 0..4 {
        let started = Instant::now();
        while pool.status().0 < 2 {
            assert!(started.elapsed().as_secs() < 60, "{:?}", pool.status());
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut guest = pool.take(soon()).unwrap().into_guest();
        let called = Instant::now();
        let result = guest.talk().request("tools/call", &call("count"), soon()).unwrap();
        eprintln!("pooled call: {:?}", called.elapsed());
        assert_eq!(text(result.get()), "1");
    }
}
