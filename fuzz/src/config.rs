//! The isolation config: any bytes are a config or errors with a place, and a config resolves
//! every tool without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_policy::{Config, Env};
use std::path::{Path, PathBuf};

fuzz_target!(|bytes: &[u8]| {
    let env = Env::new(None, None, Some(PathBuf::from("/home/user"))).unwrap();
    match Config::parse(bytes, Path::new("isolation_config.json"), &env) {
        Ok(config) => {
            for (server, tool) in [("osvm-mcp", "x"), ("solana", "get_balance"), ("", "")] {
                let _ = config.resolve(server, tool);
                let _ = config.explain(server, tool);
            }
            let _ = config.warnings();
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
});
