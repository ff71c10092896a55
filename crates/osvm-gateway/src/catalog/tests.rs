//! Names, selections, and definitions that stay what they are.

use super::*;

/// The catalog of these tools, each given as `SERVER/TOOL`.
fn catalog(tools: &[&str], selection: &Selection) -> Result<Catalog, CatalogError> {
    let tool = |pair: &&str| {
        let (server, name) = pair.split_once('/').unwrap();
        let definition = serde_json::json!({
            "server": server, "name": name, "description": "", "inputSchema": {"type": "object"},
            "outputSchema": {"type": "object"}, "annotations": {},
        });
        let definition = definition.to_string().leak();
        (ExecutionMode::Unikernel, serde_json::from_str(definition).unwrap())
    };
    Catalog::of(tools.iter().map(tool).collect(), selection)
}

#[track_caller]
fn check(tools: &[&str], selection: &Selection, names: &[&str]) {
    let catalog = catalog(tools, selection).unwrap();
    let found: Vec<&str> = catalog.tools().map(|tool| tool.name.as_str()).collect();
    assert_eq!(found, names);
}

fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

const TOOLS: &[&str] = &["b/two", "a/one", "a/two"];

#[test]
fn tools_are_named_after_their_server_and_sorted() {
    check(TOOLS, &Selection::default(), &["a__one", "a__two", "b__two"]);
}

#[test]
fn without_prefix_only_names_that_clash_keep_it() {
    let selection = Selection { no_prefix: true, ..Selection::default() };
    check(TOOLS, &selection, &["a__two", "b__two", "one"]);
}

#[test]
fn names_that_no_longer_clash_lose_the_prefix() {
    let selection = Selection { no_prefix: true, servers: list(&["a"]), ..Selection::default() };
    check(TOOLS, &selection, &["one", "two"]);
}

#[test]
fn tools_are_selected_by_either_name() {
    let selection = Selection { tools: list(&["a/one", "b__two"]), ..Selection::default() };
    check(TOOLS, &selection, &["a__one", "b__two"]);
}

#[test]
fn an_unknown_server_is_an_error_with_the_nearest_name() {
    let selection = Selection { servers: list(&["solano"]), ..Selection::default() };
    let error = catalog(&["solana/x"], &selection).unwrap_err();
    assert_eq!(error.to_string(), "no server is called `solano`");
    assert_eq!(error.hint().unwrap(), "did you mean `solana`?");
}

#[test]
fn an_unknown_tool_is_an_error_with_the_nearest_name() {
    let selection = Selection { tools: list(&["a__on"]), ..Selection::default() };
    let error = catalog(TOOLS, &selection).unwrap_err();
    assert_eq!(error.to_string(), "no tool is called `a__on`");
    assert_eq!(error.hint().unwrap(), "did you mean `a__one`?");
}

#[test]
fn a_tool_keeps_its_schemas_to_the_letter() {
    let text = r#"{"server":"s","name":"t","description":"d","inputSchema":{"maximum": 1.0e2},
        "outputSchema":{"x": 12345678901234567890123},"annotations":{}}"#;
    let tool: Tool<'static> = serde_json::from_str(text).unwrap();
    let catalog =
        Catalog::of(vec![(ExecutionMode::Unikernel, tool)], &Selection::default()).unwrap();
    let shown =
        serde_json::to_string(&catalog.get("s__t").unwrap().definition(Era::Stateless)).unwrap();
    assert!(shown.contains(r#""inputSchema":{"maximum": 1.0e2}"#), "{shown}");
    assert!(shown.contains(r#""outputSchema":{"x": 12345678901234567890123}"#), "{shown}");
}

#[test]
fn a_schema_of_results_is_shown_only_to_clients_that_accept_it() {
    for (schema, stateless, handshake) in [
        ("true", false, false),
        (r#"{"type":"array"}"#, true, false),
        (r#"{"type":"object"}"#, true, true),
    ] {
        let schema = RawValue::from_string(schema.into()).unwrap();
        assert_eq!(may_show(&schema, Era::Stateless), stateless, "{schema}");
        assert_eq!(may_show(&schema, Era::Handshake), handshake, "{schema}");
    }
}
