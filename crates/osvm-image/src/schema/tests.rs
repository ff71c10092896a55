//! Schemas osvm can check in full, schemas it must refuse, and agreement with a full validator.

use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Schemas that together use every keyword that is checked.
const SCHEMAS: &[&str] = &[
    "true",
    "false",
    "{}",
    r#"{"type":"string","minLength":1,"maxLength":3}"#,
    r#"{"type":["integer","null"]}"#,
    r#"{"type":"integer","minimum":0,"maximum":255}"#,
    r#"{"exclusiveMinimum":-1.5,"exclusiveMaximum":1}"#,
    r#"{"enum":["a",1,null,[1],{"a":1}]}"#,
    r#"{"const":null}"#,
    r#"{"const":1.0}"#,
    r#"{"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":2}"#,
    r#"{"type":"object","minProperties":1,"maxProperties":2}"#,
    r#"{"type":"object","required":["a"],"properties":{"a":{"type":"number"},"b":{}},
        "additionalProperties":false}"#,
    r#"{"properties":{"a":{"properties":{"b":{"type":"string"}},"required":["b"]}},
        "additionalProperties":{"type":"integer"}}"#,
    r#"{"allOf":[{"type":"object"},{"required":["b"]}]}"#,
    r#"{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"string"}}]}"#,
    r#"{"oneOf":[{"type":"number"},{"type":"integer"},{"type":"string"}]}"#,
    r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"t","description":"d",
        "default":1,"examples":[1],"format":"uint8","type":"number"}"#,
];

/// The reference says what fits; the wording is ours.
#[track_caller]
fn check_like_the_reference(schema: &str, value: &Value) {
    let ours = Schema::parse(schema).unwrap().check(value);
    let reference = jsonschema::draft202012::new(&serde_json::from_str(schema).unwrap()).unwrap();
    assert_eq!(ours.is_empty(), reference.is_valid(value), "{schema} {value} {ours:?}");
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..300).prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1.0), Just(-1.5), Just(1e300)].prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[abä]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_fits_is_what_the_reference_implementation_says(value in values()) {
        for schema in SCHEMAS {
            check_like_the_reference(schema, &value);
        }
    }

    #[test]
    fn any_text_is_a_schema_or_an_error(text: String) {
        let _ = Schema::parse(&text);
    }
}

#[test]
fn numbers_are_compared_by_value_not_by_spelling() {
    for (schema, value) in [
        (r#"{"const":1}"#, json!(1.0)),
        (r#"{"type":"integer"}"#, json!(2.0)),
        (r#"{"maximum":18446744073709551615}"#, json!(u64::MAX)),
        (r#"{"maximum":18446744073709551614}"#, json!(u64::MAX)),
        (r#"{"minimum":-9223372036854775808}"#, json!(i64::MIN)),
    ] {
        check_like_the_reference(schema, &value);
    }
}

#[test]
fn a_keyword_that_cannot_be_checked_makes_the_schema_unreadable() {
    for keyword in ["pattern", "$ref", "if", "multipleOf", "uniqueItems", "dependentRequired"] {
        let error = Schema::parse(&format!(r#"{{"items":{{"{keyword}":1}}}}"#)).unwrap_err();
        assert!(error.to_string().contains(keyword), "{error}");
    }
}

#[test]
fn keywords_of_the_wrong_shape_make_the_schema_unreadable() {
    for schema in [
        "1",
        "[]",
        r#"{"type":"strnig"}"#,
        r#"{"type":1}"#,
        r#"{"required":"a"}"#,
        r#"{"properties":[]}"#,
        r#"{"minLength":-1}"#,
        r#"{"minimum":"0"}"#,
        r#"{"items":[]}"#,
    ] {
        assert!(Schema::parse(schema).is_err(), "{schema}");
    }
}

#[test]
fn violations_say_where_what_and_what_is_expected() {
    let schema = r#"{"type":"object","required":["kind"],"additionalProperties":false,"properties":{
        "kind":{"type":"string","enum":["legacy","v0"]},
        "filters":{"type":"array","maxItems":2,"items":{
            "type":"object","properties":{"size":{"type":"integer","minimum":1}}}}}}"#;
    let check = |value: Value| {
        let violations = Schema::parse(schema).unwrap().check(&value);
        violations.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        check(json!({"filters": [{"size": 0}, {"size": "x"}, 7]})),
        [
            "argument `kind` is missing: it must be one of `\"legacy\"`, `\"v0\"`",
            "argument `filters` has 3 items: it must have at most 2",
            "argument `filters[0].size` is 0: it must be at least 1",
            "argument `filters[1].size` is a string: it must be a whole number",
            "argument `filters[2]` is a number: it must be an object",
        ]
    );
    assert_eq!(
        check(json!({"kind": "v1", "x": 1, "filter": 1})),
        [
            "argument `kind` is `\"v1\"`: it must be one of `\"legacy\"`, `\"v0\"`",
            "argument `x` is not known: there are `filters`, `kind`",
            "argument `filter` is not known: did you mean `filters`?",
        ]
    );
}

#[test]
fn a_value_with_thousands_of_mistakes_gives_a_short_report() {
    let schema = Schema::parse(r#"{"items":{"type":"string"}}"#).unwrap();
    let value = Value::from(vec![0; 10_000]);
    assert_eq!(schema.check(&value).len(), 8);
}

#[test]
fn quoted_values_are_cut_and_cannot_act_on_a_terminal() {
    let schema = Schema::parse(r#"{"const":1,"additionalProperties":false}"#).unwrap();
    let long = format!("\u{1b}[2J{}", "x".repeat(10_000));
    let problem = schema.check(&json!(long))[0].to_string();
    assert!(problem.len() < 200 && !problem.contains('\u{1b}'), "{problem}");
    let problem = schema.check(&json!({long: 1}))[1].to_string();
    assert!(problem.len() < 200 && !problem.contains('\u{1b}'), "{problem}");
}

#[test]
fn an_object_with_too_few_or_too_many_members_is_told_how_many() {
    let schema = Schema::parse(r#"{"minProperties":1,"maxProperties":1}"#).unwrap();
    let check = |value: Value| schema.check(&value).iter().map(ToString::to_string).collect();
    let fitting: Vec<String> = check(json!({"a": 1}));
    assert!(fitting.is_empty(), "{fitting:?}");
    let too_few: Vec<String> = check(json!({}));
    assert!(too_few[0].ends_with("has 0 members: it must have at least 1"), "{too_few:?}");
    let too_many: Vec<String> = check(json!({"a": 1, "b": 2}));
    assert!(too_many[0].ends_with("has 2 members: it must have at most 1"), "{too_many:?}");
}
