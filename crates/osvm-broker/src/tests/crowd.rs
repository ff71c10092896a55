//! Many requests at once.

use super::{rule, url};
use crate::fixture::{Guest, plain_broker, policy, response, serve};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory of this process that is in use, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_requests_of_fifty_calls_get_their_own_answers() {
    let server = serve(None, |request| {
        let body = format!("{}:{}", request.uri().path(), "x".repeat(100_000));
        response(200, body)
    });
    let broker = plain_broker();
    let rules = rule(server.port).replace("\"ports\"", "\"rate_per_minute\": 990, \"ports\"");
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let before = resident();
    let peak = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for caller in 0..50 {
            let (broker, rules, port) = (&broker, &rules, server.port);
            let (answered, refused, peak) = (&answered, &refused, &peak);
            scope.spawn(move || {
                let guest = Guest::new(broker, policy(rules));
                for request in 0..20 {
                    let path = format!("/{caller}/{request}");
                    match guest.http(json!({"url": url(port, &path)})) {
                        Ok(answer) => {
                            let body = answer["body"].as_str().unwrap();
                            assert!(body.starts_with(&format!("{path}:x")), "{path}");
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => {
                            assert!(error.message.contains("990 requests per minute"), "{error}");
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    let used = usize::try_from(resident().saturating_sub(before)).unwrap();
                    peak.fetch_max(used, Ordering::SeqCst);
                }
                assert_eq!(guest.noted().len(), 20);
            });
        }
    });
    assert_eq!((answered.into_inner(), refused.into_inner()), (990, 10));
    assert_eq!(server.connections.load(Ordering::SeqCst), 50);
    assert_eq!(broker.calls(), 0);
    let peak = peak.load(Ordering::SeqCst);
    assert!(peak < 256 * 1024, "{peak} KiB");
}
