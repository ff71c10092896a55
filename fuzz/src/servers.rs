//! The list of MCP servers: any bytes are servers or problems with a place, and every edit of a
//! file that reads gives one that reads, with the other servers as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_servers::{Entry, Servers, Stdio, Target, from_environment, listed};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let mut servers = match Servers::parse(bytes, Path::new("mcp_servers.json")) {
        Ok(servers) => servers,
        Err(problems) => return assert!(!problems.to_string().is_empty()),
    };
    let _ = listed(&servers, &from_environment([]));
    let before: Vec<(String, Entry)> =
        servers.iter().map(|(name, entry)| (name.to_owned(), entry.clone())).collect();
    let stdio = Stdio { command: Some("x".into()), ..Stdio::default() };
    if servers.set("added", &Entry::new(Target::Stdio(stdio))).is_err() {
        return;
    }
    for (name, entry) in before.iter().filter(|(name, _)| name != "added") {
        assert_eq!(servers.get(name), Some(entry));
        servers.set_enabled(name, !entry.enabled).unwrap();
        assert_eq!(servers.get(name).map(|entry| entry.enabled), Some(!entry.enabled));
        assert!(servers.remove(name).unwrap());
    }
    assert_eq!(servers.iter().count(), 1);
});
