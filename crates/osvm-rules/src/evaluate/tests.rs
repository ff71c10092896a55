//! Rules as users write them, and what comes of them.

use super::*;
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

fn policies(text: &str) -> Policies {
    Policies::parse(text.as_bytes(), Path::new("policy.cedar")).unwrap()
}

fn ask(text: &str, tool: &str, arguments: &str) -> Verdict {
    ask_as(text, "claude-code/2.1", tool, arguments)
}

fn ask_as(text: &str, client: &str, tool: &str, arguments: &str) -> Verdict {
    let arguments: Box<RawValue> = serde_json::from_str(arguments).unwrap();
    let (server, tool) = tool.split_once('/').unwrap();
    // A Thursday, 10:30 UTC.
    let now = UNIX_EPOCH + Duration::from_secs(1_767_868_200);
    evaluate(
        Some(&policies(text)),
        &Asked {
            client,
            server,
            tool,
            arguments: &arguments,
            read_only: false,
            destructive: false,
            now,
            calls_last_minute: 3,
        },
    )
}

fn allowed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Allow { .. })
}

const ALL: &str = "permit(principal, action, resource);";

#[test]
fn what_no_rule_permits_is_denied() {
    let verdict = ask(r#"permit(principal, action, resource in Server::"fs");"#, "git/log", "{}");
    assert_eq!(verdict, Verdict::Deny { rule: None, reason: "no rule permits it".into() });
    assert!(allowed(&ask(r#"permit(principal, action, resource in Server::"fs");"#, "fs/x", "{}")));
}

#[test]
fn a_forbid_is_the_last_word_and_says_where_it_stands() {
    let text =
        format!("{ALL}\n@id(\"no-rm\")\nforbid(principal, action, resource == Tool::\"fs/rm\");");
    let Verdict::Deny { rule, .. } = ask(&text, "fs/rm", "{}") else { panic!("allowed") };
    assert_eq!(rule.as_deref(), Some("`no-rm` (policy.cedar line 2)"));
    assert!(allowed(&ask(&text, "fs/ls", "{}")));
}

#[test]
fn clients_and_agents_are_told_apart() {
    let text = r#"permit(principal == Client::"claude-code", action, resource);
        permit(principal is Agent, action, resource in Server::"fs");"#;
    assert!(allowed(&ask_as(text, "claude-code/2.1", "git/log", "{}")));
    assert!(!allowed(&ask_as(text, "other/2.1", "git/log", "{}")));
    assert!(allowed(&ask_as(text, "agent:planner/1", "fs/ls", "{}")));
    assert!(!allowed(&ask_as(text, "agent:claude-code", "git/log", "{}")));
    let text = r#"permit(principal, action, resource) when { principal.version like "2.*" };"#;
    assert!(allowed(&ask_as(text, "x/2.1", "git/log", "{}")));
    assert!(!allowed(&ask_as(text, "x", "git/log", "{}")));
}

#[test]
fn arguments_time_and_rate_are_there() {
    let text =
        |condition: &str| format!("permit(principal, action, resource) when {{ {condition} }};");
    let arguments = r#"{"n":5,"s":"x","list":["a","b",null],"o":{"deep":true},"none":null,
        "big":18446744073709551615,"real":1.5}"#;
    for condition in [
        "context.arguments.n < 6",
        r#"context.arguments.list.contains("a")"#,
        r#"context.arguments.list == ["b", "a"]"#,
        "context.arguments.o.deep",
        "!(context.arguments has none)",
        r#"context.arguments.big == "18446744073709551615""#,
        r#"context.arguments.real == "1.5""#,
        "context.time.hour == 10 && context.time.weekday == 4",
        "context.calls_last_minute == 3",
        "!context.destructive && !context.read_only",
    ] {
        let verdict = ask(&text(condition), "a/b", arguments);
        assert!(allowed(&verdict), "{condition}: {verdict:?}");
    }
    assert!(!allowed(&ask(&text("context.arguments.n > 6"), "a/b", arguments)));
}

#[test]
fn an_approval_asks_unless_a_rule_without_one_names_the_tool() {
    let ask_for = r#"@approval("money") permit(principal, action, resource in Server::"pay");"#;
    let Verdict::Ask { why, .. } = ask(&format!("{ALL}{ask_for}"), "pay/send", "{}") else {
        panic!("not asked")
    };
    assert_eq!(why, "money");
    let named = r#"permit(principal, action, resource == Tool::"pay/send");"#;
    assert!(allowed(&ask(&format!("{ALL}{ask_for}{named}"), "pay/send", "{}")));
    assert!(!allowed(&ask(&format!("{ALL}{ask_for}{named}"), "pay/other", "{}")));
}

#[test]
fn a_destructive_tool_of_osvms_own_asks_by_itself() {
    let asked = |policies: Option<&Policies>, tool, destructive| {
        let arguments = RawValue::from_string("{}".into()).unwrap();
        let (client, server, now) = ("c", "solana", SystemTime::now());
        let (read_only, calls_last_minute) = (false, 0);
        let arguments = &*arguments;
        let asked = Asked {
            client,
            server,
            tool,
            arguments,
            read_only,
            destructive,
            now,
            calls_last_minute,
        };
        evaluate(policies, &asked)
    };
    assert!(matches!(asked(None, "send_transaction", false), Verdict::Ask { .. }));
    assert!(matches!(asked(None, "burn", true), Verdict::Ask { .. }));
    assert_eq!(asked(None, "get_balance", false), Verdict::Allow { rule: None });
    let all = policies(ALL);
    assert!(matches!(asked(Some(&all), "send_transaction", true), Verdict::Ask { .. }));
    let named =
        policies(r#"permit(principal, action, resource == Tool::"solana/send_transaction");"#);
    assert!(allowed(&asked(Some(&named), "send_transaction", true)));
}

#[test]
fn a_rule_that_fails_holds_the_call_back_as_if_it_held() {
    for rule in [
        "forbid(principal, action, resource) when { context.arguments.amount > 5 };",
        r#"@approval("x") permit(principal, action, resource) when { context.arguments.amount > 5 };"#,
    ] {
        let text = format!("{ALL}{rule}");
        let Verdict::Deny { reason, .. } = ask(&text, "a/b", "{}") else { panic!("{rule}") };
        assert!(reason.contains("amount"), "{reason}");
        assert!(matches!(ask(&text, "a/b", r#"{"amount":"5"}"#), Verdict::Deny { .. }));
    }
    let permit = "permit(principal, action, resource) when { context.arguments.amount > 5 };";
    assert!(allowed(&ask(&format!("{ALL}{permit}"), "a/b", "{}")));
}

#[test]
fn a_name_that_is_there_twice_is_refused_where_rules_look_at_arguments() {
    let looks = "permit(principal, action, resource) when { context.arguments.n == 1 };";
    let Verdict::Deny { reason, .. } = ask(looks, "a/b", r#"{"n":1,"n":2}"#) else { panic!() };
    assert!(reason.contains("twice"), "{reason}");
    // Escapes are another way to write the same name, here and in the rules.
    let Verdict::Deny { .. } = ask(looks, "a/b", r#"{"n":1,"\u006e":2}"#) else { panic!() };
    let escaped =
        r#"permit(principal, action, resource) when { context["\u{61}rguments"].n == 1 };"#;
    assert!(allowed(&ask(escaped, "a/b", r#"{"n":1}"#)));
}

proptest! {
    #[test]
    fn any_names_and_arguments_are_decided(
        client in "\\PC{0,20}", server in "\\PC{0,20}", tool in "\\PC{0,20}", text in "\\PC{0,40}",
    ) {
        let arguments = serde_json::value::to_raw_value(&serde_json::json!({ &text: [&text, { &text: 1 }] }));
        let policies = policies(&format!("{ALL} forbid(principal, action, resource) \
            when {{ context.arguments has lamports }};"));
        let arguments = arguments.unwrap();
        let verdict = evaluate(Some(&policies), &Asked {
            client: &client, server: &server, tool: &tool, arguments: &arguments,
            read_only: false, destructive: false, now: SystemTime::now(), calls_last_minute: 0,
        });
        prop_assert!(allowed(&verdict), "{:?}", verdict);
    }
}
