//! `osvm mcp serve` against the client of the official Rust SDK, which refuses what is not in the
//! specification. It is connected by a socket, as some clients connect what they start.

use crate::support::Home;
use rmcp::ClientServiceExt as _;
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::ClientLifecycleMode;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

#[test]
fn the_sdk_lists_and_calls_with_a_handshake() {
    check(ClientLifecycleMode::Initialize, &ProtocolVersion::V_2025_11_25);
}

#[test]
fn the_sdk_lists_and_calls_without_a_handshake() {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    check(ClientLifecycleMode::Discover { preferred_versions }, &ProtocolVersion::V_2026_07_28);
}

#[test]
fn the_sdk_that_may_choose_takes_the_newest_revision() {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let mode = ClientLifecycleMode::Auto { preferred_versions, legacy_version: None };
    check(mode, &ProtocolVersion::V_2026_07_28);
}

#[track_caller]
fn check(mode: ClientLifecycleMode, version: &ProtocolVersion) {
    let home = Home::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = home.osvm_std(&["mcp", "serve"]);
    command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
    let mut osvm = command.stderr(Stdio::null()).spawn().unwrap();
    // The child's ends are the only ones left when this is gone.
    drop(command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        ours.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let client = ().serve_with_lifecycle(stream.into_split(), mode).await.unwrap();
        assert_eq!(client.peer_info().unwrap().protocol_version, *version);
        let tools = client.list_all_tools().await.unwrap();
        assert!(tools.iter().any(|tool| tool.name == "system__echo"), "{tools:?}");
        let arguments = json!({"text": "hi"}).as_object().unwrap().clone();
        let call = CallToolRequestParams::new("system__echo").with_arguments(arguments);
        let result = client.call_tool(call).await.unwrap();
        assert_eq!(result.structured_content, Some(json!({"text": "hi"})));
        assert_eq!(result.is_error, Some(false));
        let isolation = &result.meta.unwrap()["osvm/isolation"]["isolation"];
        assert_eq!(isolation["mode"], "unikernel");
        let wrong = client.call_tool(CallToolRequestParams::new("system__eco")).await;
        assert!(wrong.unwrap_err().to_string().contains("-32602"));
        client.cancel().await.unwrap();
    });
    assert!(osvm.wait().unwrap().success());
    home.assert_nothing_left();
}
