//! Files of other clients: any bytes are servers or problems, what was imported can be exported,
//! and osvm can be put into a client's file and taken out again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_servers::client::Client;
use osvm_servers::{Format, export, import};
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    for name in ["mcp.json", "config.toml"] {
        match import(bytes, Path::new(name)) {
            Ok(imported) => {
                for format in [Format::McpServers, Format::VsCode, Format::Codex] {
                    let servers = imported.servers.iter().map(|(name, entry)| (&**name, entry));
                    let _ = export(servers, format);
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    for client in Client::ALL {
        let path = Path::new("file");
        if let Ok(connected) = client.connect(text, path, "/bin/osvm", &["mcp".into()]) {
            assert!(client.find(&connected, path).unwrap().is_some());
            assert!(client.disconnect(&connected, path).unwrap().is_some());
        }
    }
});
