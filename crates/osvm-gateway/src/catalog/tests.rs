//! Names, selections, and definitions that stay what they are.

use super::entry::may_show;
use super::*;
use crate::trust::Held;
use crate::words::Era;
use osvm_upstream::Offer;
use serde_json::value::RawValue;

/// The catalog of these tools, each given as `SERVER/TOOL`.
fn catalog(tools: &[&str], selection: &Selection) -> Result<Catalog, CatalogError> {
    let tool = |pair: &&str| {
        let (server, name) = pair.split_once('/').unwrap();
        let definition = serde_json::json!({
            "server": server, "name": name, "description": "", "inputSchema": {"type": "object"},
            "outputSchema": {"type": "object"}, "annotations": {},
        });
        let definition = definition.to_string().leak();
        Found::of_image(&serde_json::from_str(definition).unwrap(), RunMode::Unikernel)
    };
    let mut found: Vec<Found> = tools.iter().map(tool).collect();
    let known: BTreeSet<String> = found.iter().map(|tool| tool.server.clone()).collect();
    check_servers(&known.iter().map(String::as_str).collect(), selection)?;
    found.retain(|tool| selection.has(&tool.server));
    Ok(Catalog { tools: select(found, selection, true)?, ..Catalog::default() })
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
    let listed = Found::of_image(&tool, RunMode::Unikernel).listed("s__t".into());
    let shown = listed.shown.to(Era::Stateless).get();
    assert!(shown.contains(r#""inputSchema":{"maximum": 1.0e2}"#), "{shown}");
    assert!(shown.contains(r#""outputSchema":{"x": 12345678901234567890123}"#), "{shown}");
    assert!(!listed.shown.to(Era::Handshake).get().contains("outputSchema"));
}

/// What a server offers, each list as JSON.
fn offer(tools: &str, prompts: &str, resources: &str, templates: &str) -> Offer {
    serde_json::from_value(serde_json::json!({
        "era": "legacy", "version": "2025-11-25", "dual": false,
        "capabilities": {"tools": {}, "prompts": {}, "resources": {"subscribe": true}},
        "server_info": null, "instructions": " Be kind. ",
        "tools": serde_json::from_str::<serde_json::Value>(tools).unwrap(),
        "prompts": serde_json::from_str::<serde_json::Value>(prompts).unwrap(),
        "resources": serde_json::from_str::<serde_json::Value>(resources).unwrap(),
        "resource_templates": serde_json::from_str::<serde_json::Value>(templates).unwrap(),
        "left_out": [],
    }))
    .unwrap()
}

/// The catalog of these servers.
fn of_servers(servers: &[(&str, Offer)], selection: &Selection) -> Catalog {
    let mut catalog = Catalog::default();
    for (name, offer) in servers {
        catalog.add_features(name, offer);
    }
    let offers = servers.iter().map(|(name, offer)| (*name, offer));
    catalog.prompts = resources::prompts(offers.clone(), selection);
    (catalog.resources, catalog.templates) = resources::resources(offers);
    catalog
}

#[test]
fn a_definition_of_a_server_keeps_all_but_its_name() {
    let raw =
        r#"{"title":"T","name":"t.x","x":1.0,"_meta":{"k":[1e2]},"outputSchema":{"type":"array"}}"#;
    let raw = RawValue::from_string(raw.into()).unwrap();
    let listed = Found::of_server("s", &raw, |_| RunMode::Direct, &Held::default())
        .unwrap()
        .listed("n".into());
    let meta = r#""_meta":{"k":[1e2],"osvm/tool":{"server":"s","name":"t.x"}}"#;
    let modern =
        format!(r#"{{"title":"T","name":"n","x":1.0,{meta},"outputSchema":{{"type":"array"}}}}"#);
    assert_eq!(listed.shown.to(Era::Stateless).get(), modern);
    let legacy = format!(r#"{{"title":"T","name":"n","x":1.0,{meta}}}"#);
    assert_eq!(listed.shown.to(Era::Handshake).get(), legacy);
    assert_eq!((listed.tool.as_str(), listed.mode()), ("t.x", "direct"));
    let same = Found::of_server("s", &raw, |_| RunMode::Direct, &Held::default())
        .unwrap()
        .listed("t.x".into());
    assert_eq!(same.shown.to(Era::Stateless).get(), raw.get(), "under its own name");
    let nameless = RawValue::from_string("{}".into()).unwrap();
    assert!(Found::of_server("s", &nameless, |_| RunMode::Direct, &Held::default()).is_none());
}

#[test]
fn a_uri_that_two_servers_have_is_shown_with_their_names() {
    let lists = r#"[{"uri":"x://1","name":"n"}]"#;
    let a = offer("[]", "[]", lists, r#"[{"uriTemplate":"t://{id}"}]"#);
    let b = offer(
        "[]",
        "[]",
        r#"[{"uri":"x://1"},{"uri":"x://2"}]"#,
        r#"[{"uriTemplate":"t://b/{id}"}]"#,
    );
    let catalog = of_servers(&[("a", a), ("b", b)], &Selection::default());
    let uris: Vec<&str> = catalog.resources.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(uris, ["osvm://a/x://1", "osvm://b/x://1", "x://2"]);
    for (uri, server, own) in [
        ("osvm://b/x://1", "b", "x://1"),
        ("osvm://a/unlisted", "a", "unlisted"),
        ("x://2", "b", "x://2"),
        ("t://7", "a", "t://7"),
        ("t://b/7", "b", "t://b/7"),
        ("t://{id}", "a", "t://{id}"),
    ] {
        let found = catalog.resource(uri).unwrap();
        assert_eq!((found.server, found.own.as_str()), (server, own), "{uri}");
    }
    assert_eq!(catalog.resource("x://1"), None);
    assert_eq!(catalog.resource("osvm://c/x"), None);
}

#[test]
fn where_one_server_alone_has_resources_all_are_its() {
    let catalog = of_servers(&[("a", offer("[]", "[]", "[]", "[]"))], &Selection::default());
    assert_eq!(catalog.resource("what:ever").unwrap().server, "a");
}

#[test]
fn prompts_are_named_like_tools() {
    let prompts = r#"[{"name":"p","x":1.0}]"#;
    let offers =
        || [("a", offer("[]", prompts, "[]", "[]")), ("b", offer("[]", prompts, "[]", "[]"))];
    let catalog = of_servers(&offers(), &Selection::default());
    assert_eq!(catalog.prompt("a__p").unwrap().own, "p");
    let short = Selection { no_prefix: true, ..Selection::default() };
    assert!(of_servers(&offers(), &short).prompt("p").is_none(), "the name clashes");
    let catalog = of_servers(&offers()[..1], &short);
    assert_eq!(
        catalog.prompt("p").unwrap().shown.to(Era::Stateless).get(),
        r#"{"name":"p","x":1.0}"#
    );
    assert_eq!(catalog.instructions, [("a".to_owned(), "Be kind.".to_owned())]);
    assert!(catalog.features.subscribe && !catalog.features.logging);
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
