//! Requests of a guest to the broker: any parameters get an answer or an error, no byte leaves the
//! host, and no file outside of the mount is touched.
//!
//! The first byte chooses the method, the rest is the parameters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_broker::{Broker, NoSecrets, Protected, Resolver};
use osvm_policy::{Config, Env, Resolved};
use osvm_runtime::{CallId, Cancel, HostRequest, HostServices as _, Trace};
use serde_json::value::RawValue;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

const METHODS: [&str; 5] =
    ["host/http", "host/http.read", "host/http.write", "host/http.close", "host/file"];

/// A name that leads nowhere a request may go.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![[127, 0, 0, 1].into(), [169, 254, 169, 254].into()])
    }
}

static BROKER: LazyLock<Broker> = LazyLock::new(|| {
    let protected = Protected::new("/home/user".into(), Vec::new());
    Broker::new(Arc::new(NoSecrets), protected).with_network(Arc::new(Nowhere), None)
});

static POLICY: LazyLock<Resolved> = LazyLock::new(|| {
    let config = r#"{"mcp_servers": {"s": {
        "network_enabled": true,
        "egress": [{"host": "*.example.com", "paths": ["/v1/*"], "rate_per_minute": 1000000}],
        "mounts": [{"host_path": "/usr/share", "guest_path": "/in"}]
    }}}"#;
    let env = Env::new(None, None, Some("/home/user".into())).unwrap();
    Config::parse(config, Path::new("fuzz.json"), &env).unwrap().resolve("s", "t")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((first, params)) = bytes.split_first() else { return };
    let Ok(params) = str::from_utf8(params) else { return };
    let Ok(params) = RawValue::from_string(params.to_owned()) else { return };
    let call: CallId = "00000000000000000000000001".parse().unwrap();
    let (trace, cancel) = (Trace::default(), Cancel::default());
    let answer = BROKER.serve(&HostRequest {
        call,
        policy: &POLICY,
        method: METHODS[usize::from(*first) % METHODS.len()],
        params: Some(&params),
        deadline: Instant::now() + Duration::from_secs(5),
        cancel: &cancel,
        trace: &trace,
    });
    if let Ok(answer) = answer {
        assert!(!answer.get().contains("\"status\""), "a response from nowhere: {answer}");
    }
    BROKER.ended(call, &trace);
});
