//! What the list of tools promises.

use super::*;
use osvm_protocol::tool::Annotations;
use serde_json::Value;

fn definitions() -> Vec<Value> {
    serde_json::from_str(&manifest_json()).unwrap()
}

#[test]
fn every_tool_is_in_the_manifest() {
    let listed: Vec<_> = definitions()
        .iter()
        .map(|tool| (tool["server"].to_string(), tool["name"].to_string()))
        .collect();
    let declared: Vec<_> =
        ALL.iter().map(|tool| (format!("{:?}", tool.server), format!("{:?}", tool.name))).collect();
    assert_eq!(listed, declared);
}

#[test]
fn no_server_has_two_tools_of_one_name() {
    for (at, tool) in ALL.iter().enumerate() {
        let same = |other: &Tool| (other.server, other.name) == (tool.server, tool.name);
        assert_eq!(ALL.iter().position(same), Some(at), "{}", tool.name);
    }
}

#[test]
fn every_schema_is_a_good_schema_of_its_dialect_and_closed() {
    for tool in definitions() {
        for schema in [&tool["inputSchema"], &tool["outputSchema"]] {
            jsonschema::draft202012::meta::validate(schema).unwrap();
            assert_eq!(schema["type"], "object", "{tool}");
            assert_eq!(schema["additionalProperties"], false, "{tool}");
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(schema["properties"].get(name.as_str().unwrap()).is_some(), "{tool}");
            }
        }
    }
}

#[test]
fn compacting_a_schema_changes_nothing_but_its_length() {
    for tool in &ALL {
        for schema in [tool.input, tool.output] {
            let compacted = compact(schema);
            let [before, after]: [Value; 2] =
                [schema, &compacted].map(|text| serde_json::from_str(text).unwrap());
            assert_eq!(before, after);
            assert!(compacted.len() <= schema.len());
        }
    }
    assert_eq!(compact(r#"{ "a \" b" : " \\" , "c":1 }"#), r#"{"a \" b":" \\","c":1}"#);
}

#[test]
fn a_tool_needs_the_network_if_it_asks_it_and_else_changes_only_files() {
    for tool in &ALL {
        let Annotations { read_only_hint, open_world_hint, .. } = tool.annotations;
        assert_eq!(tool.needs_network, open_world_hint, "{}", tool.name);
        let changes = tool.name == "write_file";
        assert!(tool.needs_network || read_only_hint != changes, "{}", tool.name);
    }
}

#[test]
fn what_cannot_be_undone_is_called_destructive() {
    let is_destructive = |name: &str| {
        ALL.iter().find(|tool| tool.name == name).unwrap().annotations.destructive_hint
    };
    assert!(is_destructive("send_transaction"));
    assert!(is_destructive("write_file"));
    assert!(!is_destructive("solana_rpc_call"), "it calls only what reads");
    assert!(!is_destructive("simulate_transaction"));
}
