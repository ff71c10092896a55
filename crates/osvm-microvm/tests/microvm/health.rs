//! Servers that live on and hang, crash, or do not want to end.

use crate::guest::{Bench, Runtime, soon};
use osvm_microvm::Persistent;
use osvm_upstream::{
    ClientFacts, Deaf, Launch as _, Outgoing, Reply, Server, Spec, Stop, Target, UpstreamError,
};
use serde_json::value::RawValue;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The fixture as a server that lives on.
fn server(bench: &Bench) -> Option<Arc<Server>> {
    let recipe = bench.recipe(Runtime::Node)?;
    let launch = Arc::new(Persistent::new(bench.host.clone(), recipe));
    let spec = Spec {
        start_timeout: Duration::from_secs(120),
        ..Spec::new("fixture", Target::Launched(launch))
    };
    Some(Server::new(spec, None))
}

fn call(server: &Server, tool: &str, patience: Duration) -> Result<String, UpstreamError> {
    let params = RawValue::from_string(format!(r#"{{"name":"{tool}","arguments":{{}}}}"#)).unwrap();
    let outgoing = Outgoing {
        method: "tools/call",
        params: Some(&params),
        client: ClientFacts::default(),
        era_wanted: None,
        relay: &Deaf,
    };
    match server.request(&outgoing, Instant::now() + patience, &Stop::default())? {
        Reply::Result(result) => Ok(crate::guest::text(result.get())),
        Reply::Error(error) => panic!("{error}"),
    }
}

fn vm(server: &Server) -> PathBuf {
    format!("/proc/{}", server.status().links[0].facts["vm_pid"]).into()
}

#[test]
fn a_server_that_hangs_is_given_up_and_the_next_call_starts_another() {
    let Some(bench) = Bench::new() else { return };
    let Some(server) = server(&bench) else { return };
    assert_eq!(call(&server, "count", Duration::from_secs(120)).unwrap(), "1");
    assert_eq!(server.look_after(Duration::from_secs(60)), 0);
    let first = vm(&server);
    let hung = call(&server, "hang", Duration::from_millis(300));
    assert!(matches!(hung, Err(UpstreamError::Deadline { .. })));
    let late = {
        let server = Arc::clone(&server);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            call(&server, "count", Duration::from_secs(120))
        })
    };
    assert_eq!(server.look_after(Duration::from_secs(2)), 1);
    let error = late.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("did not answer `ping`"), "{error}");
    assert!(!first.exists(), "its microVM is still there");
    assert_eq!(call(&server, "count", Duration::from_secs(120)).unwrap(), "1");
    let status = server.status();
    assert_eq!((status.starts, status.deaths), (2, 1));
}

#[test]
fn a_crash_gives_every_waiting_call_its_error_at_once() {
    let Some(bench) = Bench::new() else { return };
    let Some(server) = server(&bench) else { return };
    assert_eq!(call(&server, "count", Duration::from_secs(120)).unwrap(), "1");
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let server = Arc::clone(&server);
            thread::spawn(move || call(&server, "mute", Duration::from_secs(120)))
        })
        .collect();
    while server.status().links[0].in_flight < 3 {
        thread::sleep(Duration::from_millis(10));
    }
    let crashed = Instant::now();
    let exit = call(&server, "exit", Duration::from_secs(120));
    assert!(matches!(exit, Err(UpstreamError::Gone { .. })));
    for waiting in waiting {
        let error = waiting.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("exited with code 3"), "{error}");
    }
    assert!(crashed.elapsed() < Duration::from_secs(10), "{:?}", crashed.elapsed());
    assert_eq!(call(&server, "count", Duration::from_secs(120)).unwrap(), "1");
}

/// How a server ends that runs `script` and whose stdin is closed.
#[track_caller]
fn ends(bench: &Bench, script: &str, expected: &str) {
    let Some(mut recipe) = bench.recipe(Runtime::Node) else { return };
    recipe.args = vec!["-e".into(), script.into()];
    let server = Persistent::new(bench.host.clone(), recipe);
    let mut link = server.launch(soon(), &Stop::default()).unwrap();
    let mut up = [0];
    link.read.read_exact(&mut up).unwrap();
    drop(link.write);
    let ending = Instant::now();
    let mut rest = String::new();
    link.read.read_to_string(&mut rest).unwrap();
    link.end.end(Duration::from_secs(20));
    assert!(ending.elapsed() < Duration::from_secs(20), "it had to be destroyed");
    let words = link.end.last_words().unwrap();
    assert!(words.contains(expected), "{words}");
    // Whoever was told by a signal was told by its stdin before.
    assert!(rest.contains("closed"), "{rest}");
}

/// Says that it runs, and when its stdin is closed.
const UP: &str = "process.stdin.on('end', () => console.log('{\"closed\":1}')).resume();
    setInterval(() => {}, 1e6); console.log('{}');";

#[test]
fn a_server_that_does_not_end_with_its_stdin_gets_a_signal_it_can_obey() {
    let Some(bench) = Bench::new() else { return };
    ends(&bench, &format!("process.on('SIGTERM', () => process.exit(7)); {UP}"), "code 7");
}

#[test]
fn a_server_that_obeys_nothing_is_killed_last() {
    let Some(bench) = Bench::new() else { return };
    ends(&bench, &format!("process.on('SIGTERM', () => {{}}); {UP}"), "SIGKILL");
}
