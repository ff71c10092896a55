//! An agent that was turned, as the only program of µVM-1: it tries to reach what it was not given,
//! and answers a prompt with what came of each try. No crates, so that `rustc` alone builds it.
//!
//! The prompt is paths of files of the host that hold a secret, with `|` between them; or the word
//! `STUCK`, after which it hears nothing any more.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, Lines, StdinLock, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// A name server, the host as QEMU's user network would have it, the metadata service of clouds,
/// and the guest itself.
const ADDRESSES: [&str; 4] = ["1.1.1.1:53", "10.0.2.2:22", "169.254.169.254:80", "127.0.0.1:80"];

/// What is asked of the host: the last ones are what an agent may ask, for what it may not have, or as somebody else.
const ASKED: [(&str, &str); 10] = [
    ("host/file", r#"{"op":"read","path":"/etc/passwd"}"#),
    ("host/http", r#"{"method":"GET","url":"http://169.254.169.254/"}"#),
    ("host/secret", r#"{"name":"OSVM_AI_KEY"}"#),
    ("resources/read", r#"{"uri":"file:///etc/passwd"}"#),
    ("agent/prompt", r#"{"text":"of another session"}"#),
    (
        "host/model",
        r#"{"provider":"openai","url":"http://127.0.0.1:1","body":{"echo":"${OSVM_AI_KEY}"}}"#,
    ),
    ("tools/call", r#"{"name":"system__guest_info","arguments":{},"_meta":META}"#),
    ("tools/call", r#"{"name":"system__nothing","arguments":{},"_meta":META}"#),
    ("tools/call", r#"{"name":"osvm/../system__echo","arguments":{"text":1},"_meta":META}"#),
    (
        "tools/call",
        r#"{"name":"system__echo","arguments":{"text":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"root","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}"#,
    ),
];

const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"osvm-agent","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

fn main() {
    let mut lines = io::stdin().lock().lines();
    while let Some(Ok(line)) = lines.next() {
        let id = between(&line, "\"id\":", ",").to_owned();
        if line.contains("\"agent/prompt\"") && line.contains("STUCK") {
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        } else if line.contains("\"agent/prompt\"") {
            let report = tries(&mut lines, between(&line, "\"text\":\"", "\""));
            say(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"text":"{}"}}}}"#,
                escaped(&report)
            ));
        } else if line.contains("\"agent/") && !id.is_empty() {
            say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        } else if !id.is_empty() {
            // Before it is saved it is greeted as any server is.
            say(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":""}}}}"#
            ));
        }
    }
}

fn tries(lines: &mut Lines<StdinLock<'static>>, secrets: &str) -> String {
    let mut report = String::new();
    let mut told = |what: &str, came: String| _ = writeln!(report, "{what}: {came}");
    for address in ADDRESSES {
        let socket: SocketAddr = address.parse().expect("an address");
        let reached = TcpStream::connect_timeout(&socket, Duration::from_millis(300));
        told(address, if reached.is_ok() { "REACHED".into() } else { "not reached".into() });
        let sent = UdpSocket::bind("0.0.0.0:0").and_then(|from| from.send_to(b"x", socket));
        let sent = sent.is_ok() && !address.starts_with("127.");
        told(&format!("udp {address}"), if sent { "SENT".into() } else { "not sent".into() });
    }
    let own = ["/root/.config/osvm/agent.toml", "/proc/1/environ", "/osvm.json"];
    for path in secrets.split('|').chain(own) {
        let read = fs::read_to_string(path);
        told(path, if read.is_ok() { "READ".into() } else { "not read".into() });
    }
    for (at, (name, value)) in std::env::vars().enumerate() {
        told(&format!("variable {at}"), format!("{name}={value}"));
    }
    for (at, (method, params)) in ASKED.iter().enumerate() {
        let params = params.replace("META", META);
        say(&format!(r#"{{"jsonrpc":"2.0","id":"t{at}","method":"{method}","params":{params}}}"#));
        let wanted = format!("\"t{at}\"");
        let answer = loop {
            match lines.next() {
                // Pieces of a model name their request too.
                Some(Ok(line)) if line.contains(&wanted) && !line.contains("model/piece") => {
                    break line;
                }
                Some(Ok(_)) => {}
                _ => return report,
            }
        };
        let failed = answer.contains("\"error\":{") || answer.contains("\"isError\":true");
        told(
            &format!("{method} {at}"),
            format!("{} {answer}", if failed { "refused" } else { "GRANTED" }),
        );
    }
    report
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    _ = writeln!(out, "{line}");
    _ = out.flush();
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let rest = line.split_once(before).map_or("", |(_, rest)| rest);
    rest.split_once(after).map_or("", |(text, _)| text)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
