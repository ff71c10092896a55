//! A server that is there to reach the world, in a microVM: what it reaches is what the egress
//! rules allow, and the receipts say so.

use crate::microvm::{Sample, call, home, osvm};
use crate::support::Home;
use crate::web::Web;
use serde_json::{Value, json};

const FETCH: Sample = Sample {
    name: "fetch",
    // The tests' own web server is at an address that is written down, 127.0.0.1, and the server by itself
    // refuses that one.
    build: &["--pypi", "mcp-server-fetch==2026.10.19", "--arg=--allow-private-ips"],
    command: &["uvx", "mcp-server-fetch@2026.10.19", "--allow-private-ips"],
    env: &[],
};

fn fetch(home: &Home, url: &str) -> String {
    let arguments = json!({"url": url, "raw": true}).to_string();
    let answer = call(home, "fetch", "fetch", &arguments);
    assert_eq!(answer["isolation"]["mode"], "microvm", "{answer}");
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// What the newest receipt says was reached: method, port, path, status, and whether it was refused.
fn reached(home: &Home) -> Vec<Value> {
    let all = osvm(home, &["receipts", "export"]).output().unwrap().stdout;
    let all = String::from_utf8(all).unwrap();
    let receipt: Value = serde_json::from_str(all.lines().last().unwrap()).unwrap();
    let reaches = receipt["reaches"].as_array().unwrap_or_else(|| panic!("{receipt}")).iter();
    let http = reaches.map(|reach| &reach["http"]);
    http.map(|http| {
        assert_eq!(http["host"], "127.0.0.1", "{http}");
        let refused = http["refused"].is_string();
        json!([http["method"], http["port"], http["path"], http["status"], refused])
    })
    .collect()
}

#[test]
fn a_fetching_server_reaches_what_is_allowed_and_nothing_else() {
    let (allowed, other) = (web(), web());
    let rule = json!({"host": "127.0.0.1", "ports": [allowed.port],
        "paths": ["/robots.txt", "/page"]});
    let options = json!({"execution_mode": "microvm", "timeout_secs": 120,
        "network_enabled": true, "egress": [rule]});
    let Some(home) = home(&FETCH, &options) else { return };

    let page = fetch(&home, &allowed.url("/page"));
    assert!(page.contains("this is /page"), "{page}");
    assert_eq!(
        reached(&home),
        [
            json!(["GET", allowed.port, "/robots.txt", 200, false]),
            json!(["GET", allowed.port, "/page", 200, false]),
        ]
    );
    let secret = fetch(&home, &allowed.url("/secret"));
    assert!(secret.contains("status code 403"), "{secret}");
    assert_eq!(
        reached(&home),
        [
            json!(["GET", allowed.port, "/robots.txt", 200, false]),
            json!(["GET", allowed.port, "/secret", null, true]),
        ]
    );
    let elsewhere = fetch(&home, &other.url("/page"));
    assert!(elsewhere.contains("received status 403"), "{elsewhere}");
    assert_eq!(reached(&home), [json!(["GET", other.port, "/robots.txt", null, true])]);
    assert_eq!(other.connections(), 0);
    home.assert_nothing_left();
}

#[test]
fn a_name_has_an_address_that_a_server_takes_for_public() {
    let rule = json!({"host": "allowed.test", "ports": [80]});
    let strict = ["/usr/bin/python3.11", "-s", "-B", "/app/start.py"];
    let options = json!({"execution_mode": "microvm", "timeout_secs": 120,
        "network_enabled": true, "egress": [rule], "server_command": strict});
    let Some(home) = home(&FETCH, &options) else { return };

    let refused = fetch(&home, "http://127.0.0.1/page");
    assert!(refused.contains("not a public address"), "{refused}");
    // The server asks for the page; that there is no such name, the host finds.
    let missing = fetch(&home, "http://allowed.test/page");
    assert!(!missing.contains("public address"), "{missing}");
    let all = osvm(&home, &["receipts", "export"]).output().unwrap().stdout;
    let receipt = String::from_utf8(all).unwrap().lines().last().unwrap().to_owned();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let asked = receipt["reaches"].as_array().unwrap().iter().any(|reach| {
        let http = &reach["http"];
        http["method"] == "GET" && http["host"] == "allowed.test" && http["path"] == "/robots.txt"
    });
    assert!(asked, "{receipt}");
    home.assert_nothing_left();
}

fn web() -> Web {
    Web::start(|asked| {
        let robots = asked.target == "/robots.txt";
        let body = format!("this is {}", asked.target);
        Some(if robots { "User-agent: *\nAllow: /\n".to_owned() } else { body })
    })
}
