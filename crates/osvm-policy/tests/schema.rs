//! The schema, the parser and the documentation tell the same story.
#![cfg(test)]

use jsonschema::Validator;
use osvm_policy::{Config, Env, ProblemKind, default_text, schema};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

const DOCUMENT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/isolation-config.md"));

#[test]
fn the_schema_is_a_schema() {
    jsonschema::meta::validate(&schema_value()).unwrap();
}

#[test]
fn the_default_file_fits() {
    let file = serde_json::from_str(&default_text()).unwrap();
    assert!(validator().is_valid(&file));
}

#[test]
fn the_examples_of_the_documentation_are_whole_files_that_work() {
    let mut examples = 0;
    for block in DOCUMENT.split("```json\n").skip(1) {
        let text = block.split("```").next().unwrap();
        let config = parse(text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        assert!(config.warnings().is_empty(), "{:?}\n{text}", config.warnings());
        let file = serde_json::from_str(text).unwrap();
        assert!(validator().is_valid(&file), "{text}");
        examples += 1;
    }
    assert!(examples >= 5, "{examples}");
}

#[test]
fn the_documented_default_file_is_the_default_file() {
    let documented = DOCUMENT.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let values =
        [documented, &default_text()].map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(values[0], values[1]);
}

#[test]
fn every_option_is_documented() {
    for object in OBJECTS {
        for option in properties(object) {
            assert!(DOCUMENT.contains(&format!("`{option}`")), "`{option}` of {object:?}");
        }
    }
}

#[test]
fn schema_and_parser_know_the_same_fields() {
    for object in OBJECTS {
        let mut file = json!({});
        let parts = object.place.split('/').filter(|part| !part.is_empty());
        let mut value = &mut file;
        for part in parts {
            *value = match part {
                "[]" => json!([{}]),
                name => json!({ name: {} }),
            };
            value = match part {
                "[]" => &mut value[0],
                name => &mut value[name],
            };
        }
        *value = json!({ "zzzzzzzzzzzz": 1 });
        let problems = parse(&file.to_string()).unwrap_err();
        let known = problems.into_iter().find_map(|kind| match kind {
            ProblemKind::UnknownField { known, .. } => Some(known),
            _ => None,
        });
        let known: BTreeSet<_> = known.unwrap().into_iter().map(str::to_owned).collect();
        assert_eq!(known, properties(object), "{object:?}");
    }
}

#[test]
fn defaults_of_the_schema_are_those_of_the_parser() {
    let resolved = parse(r#"{"mcp_servers":{"s":{"egress":[{"host":"a.b"}]}},"pool":{"size":1}}"#);
    let config = resolved.unwrap();
    let explanation = config.explain("other", "t");
    let schema = schema_value();
    let default_of = |pointer: &str| schema.pointer(&format!("{pointer}/default")).cloned();
    let mut compared = 0;
    for option in explanation.options {
        let top = default_of(&format!("/properties/{}", option.name));
        let Some(default) = top.or_else(|| default_of(&format!("/$defs/{}", option.name))) else {
            continue;
        };
        // Variables are explained as a list of names.
        let default = if option.name == "env_vars" { json!([]) } else { default };
        assert_eq!(option.value, default, "{}", option.name);
        compared += 1;
    }
    assert!(compared >= 7, "{compared}");
    let rule = serde_json::to_value(&config.resolve("s", "t").egress[0]).unwrap();
    for field in ["methods", "paths", "ports", "max_bytes", "rate_per_minute"] {
        let default = default_of(&format!("/$defs/egress_rule/properties/{field}"));
        assert_eq!(Some(&rule[field]), default.as_ref(), "{field}");
    }
    let cids = json!([config.cid_range().start(), config.cid_range().end()]);
    assert_eq!(Some(&cids), default_of("/properties/cid_range").as_ref());
    let pool = serde_json::to_value(config.pool().unwrap()).unwrap();
    assert_eq!(Some(&pool["max_vms"]), default_of("/$defs/pool/properties/max_vms").as_ref());
}

#[test]
fn what_the_parser_refuses_by_shape_the_schema_refuses_too() {
    for text in [
        r#"{"default_execution_mode":"unikernal"}"#,
        r#"{"mcp_servers":{"s":{"memroy_mb":1}}}"#,
        r#"{"mcp_servers":{"s":{"memory_mb":8}}}"#,
        r#"{"mcp_servers":{"s":{"vcpus":17}}}"#,
        r#"{"mcp_servers":{"s":{"timeout_secs":3601}}}"#,
        r#"{"mcp_servers":{"*":{}}}"#,
        r#"{"mcp_servers":{"s":{"unikernel_image":"a/b"}}}"#,
        r#"{"mcp_servers":{"s":{"mounts":[{"host_path":"/a"}]}}}"#,
        r#"{"mcp_servers":{"s":{"mounts":[{"host_path":"/a","vm_path":"/b","guest_path":"/b"}]}}}"#,
        r#"{"mcp_servers":{"s":{"mounts":[{"host_path":"a","vm_path":"/b"}]}}}"#,
        r#"{"mcp_servers":{"s":{"env_vars":{"1":"a"}}}}"#,
        r#"{"mcp_servers":{"s":{"egress":[{"methods":["GET"]}]}}}"#,
        r#"{"mcp_servers":{"s":{"server_command":[]}}}"#,
        r#"{"mcp_servers":{"s":{"workspace":{"host_path":"/a"}}}}"#,
        r#"{"mcp_servers":{"s":{"workspace":{"host_path":"/a","guest_path":"/b","mode":"w"}}}}"#,
        r#"{"pool":{}}"#,
        r#"{"cid_range":[200]}"#,
        r#"{"cid_range":[199,300]}"#,
    ] {
        parse(text).unwrap_err();
        assert!(!validator().is_valid(&serde_json::from_str(text).unwrap()), "{text}");
    }
}

proptest! {
    #[test]
    fn the_schema_accepts_what_the_parser_does(file in file()) {
        if parse(&file.to_string()).is_ok() {
            prop_assert!(validator().is_valid(&file), "{file}");
        }
    }
}

#[test]
fn a_workspace_whose_changes_wait_is_for_calls_that_have_a_copy_each() {
    let file = |life: &str, mode: Option<&str>| {
        let mut workspace = json!({"host_path": "~/work", "guest_path": "/work"});
        if let Some(mode) = mode {
            workspace["mode"] = mode.into();
        }
        let server = json!({"execution_mode": "microvm", "life": life, "workspace": workspace});
        json!({"mcp_servers": {"s": server}}).to_string()
    };
    let workspace = parse(&file("clone", None)).unwrap().resolve("s", "t").workspace.unwrap();
    assert_eq!(workspace.host_path, Path::new("/home/u/work"));
    assert_eq!((&*workspace.guest_path, workspace.mode.as_str()), ("/work", "diff"));
    assert!(parse(&file("persistent", Some("rw"))).is_ok());
    for mode in [None, Some("diff")] {
        let problems = parse(&file("persistent", mode)).unwrap_err();
        assert!(matches!(&*problems, [ProblemKind::Contradiction { .. }]), "{problems:?}");
    }
}

/// An object of the file: where its fields are in the schema, and the way to it in a file.
#[derive(Debug)]
struct Object {
    schema: &'static str,
    place: &'static str,
}

const OBJECTS: &[Object] = &[
    Object { schema: "", place: "" },
    Object { schema: "/$defs/server", place: "mcp_servers/s" },
    Object { schema: "/$defs/tool", place: "mcp_servers/s/tools/t" },
    Object {
        schema: "/$defs/server/properties/microvm_config",
        place: "mcp_servers/s/microvm_config",
    },
    Object { schema: "/$defs/kraft_config", place: "mcp_servers/s/kraft_config" },
    Object { schema: "/$defs/mount", place: "mcp_servers/s/mounts/[]" },
    Object { schema: "/$defs/workspace", place: "mcp_servers/s/workspace" },
    Object { schema: "/$defs/egress_rule", place: "mcp_servers/s/egress/[]" },
    Object { schema: "/$defs/pool", place: "pool" },
];

fn properties(object: &Object) -> BTreeSet<String> {
    let schema = schema_value();
    let properties = schema.pointer(&format!("{}/properties", object.schema)).unwrap();
    properties.as_object().unwrap().keys().cloned().collect()
}

/// Files that are mostly right, so that a fair share of them parse.
fn file() -> impl Strategy<Value = Value> {
    let mode = prop::sample::select(vec!["unikernel", "microvm", "direct", "other"]);
    let mount = ("(/|~/|x)[a-z./]{0,6}", "/?[a-z/.*\u{7f}]{1,6}", any::<bool>()).prop_map(
        |(host, guest, readonly)| json!({"host_path": host, "guest_path": guest, "readonly": readonly}),
    );
    let rule = ("([*][.])?[a-z]{1,4}[.][a-z]{1,4}", "/[a-z*/ ]{0,5}", 0..70_000u32)
        .prop_map(|(host, path, port)| json!({"host": host, "paths": [path], "ports": [port]}));
    let table = prop_oneof![
        mode.prop_map(|mode| json!({ "execution_mode": mode })),
        (0..400u32, 0..3u32)
            .prop_map(|(memory, vcpus)| json!({"memory_mb": memory, "vcpus": vcpus})),
        prop::collection::vec(mount, 0..3).prop_map(|mounts| json!({ "mounts": mounts })),
        prop::collection::vec(rule, 0..3).prop_map(|rules| json!({ "egress": rules })),
        ("[A-Z_0-9]{1,4}", ".{0,4}").prop_map(|(name, value)| json!({"env_vars": {name: value}})),
        "[a-zA-Z0-9._/-]{0,5}".prop_map(|name| json!({ "unikernel_image": name })),
        "[a-z:/@ -]{0,5}".prop_map(|name| json!({"kraft_config": {"runtime": name}})),
        ".{0,5}".prop_map(|command| json!({ "server_command": command })),
    ];
    ("\\PC{1,3}|[a-z]{1,3}|.{0,3}", table)
        .prop_map(|(name, table)| json!({"mcp_servers": {name: table}}))
}

fn parse(text: &str) -> Result<Config, Vec<ProblemKind>> {
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    Config::parse(text, Path::new("c.json"), &env)
        .map_err(|errors| errors.problems.into_iter().map(|problem| problem.kind).collect())
}

fn schema_value() -> Value {
    serde_json::from_str(schema()).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema_value()).unwrap()
}
