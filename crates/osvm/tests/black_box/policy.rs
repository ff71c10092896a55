//! Rules about calls: checked, explained, tried, and obeyed by calls that are really made.

use crate::support::Home;
use serde_json::Value;
use snapbox::str;
use std::fs;

/// Lets everything run but an echo of what is secret.
const RULES: &str = r#"permit(principal, action, resource);

@id("no-secrets")
forbid(principal, action, resource == Tool::"system/echo")
when { context.arguments has text && context.arguments.text like "*secret*" };

@approval("somebody should look")
permit(principal, action, resource == Tool::"solana/decode_transaction");
"#;

fn with_rules(rules: &str) -> Home {
    let home = Home::new();
    write_rules(&home, rules);
    home
}

fn write_rules(home: &Home, rules: &str) {
    let path = home.config_path().with_file_name("policy.cedar");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, rules).unwrap();
}

#[test]
fn a_call_that_a_rule_forbids_is_not_made_and_names_the_rule_with_its_line() {
    let home = with_rules(RULES);
    let forbidden = home.osvm(["mcp", "call-tool", "system", "echo", r#"{"text":"a secret"}"#]);
    forbidden.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the rules do not let `system/echo` run: a rule forbids it: `no-secrets` ([HOME]/.config/osvm/policy.cedar line 3)

hint: `osvm policy explain system echo` tells why

"#]]);
    let allowed = home.osvm(["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#]);
    allowed.assert().code(0).stdout_eq("{\"text\":\"hi\"}\n").stderr_eq("");
    let receipts = home.osvm(["receipts", "export"]).output().unwrap().stdout;
    let receipts: Vec<Value> = String::from_utf8(receipts)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen = |of: &Value| {
        (of["decision"].clone(), of["exit"].clone(), of["isolation"]["vm_pid"].is_null())
    };
    assert_eq!(seen(&receipts[0]), ("deny".into(), "denied".into(), true), "no VM was started");
    assert!(receipts[0]["rule"].as_str().unwrap().starts_with("`no-secrets` ("), "{receipts:?}");
    assert_eq!(
        (&receipts[1]["decision"], &receipts[1]["exit"]),
        (&"allow".into(), &"result".into())
    );
    home.assert_nothing_left();
}

#[test]
fn rules_that_are_wrong_let_no_call_run() {
    let home = with_rules("permit(principal, action, resource");
    let call = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];
    home.osvm(call).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the rules in `[HOME]/.config/osvm/policy.cedar` are wrong: line 1 column 35: unexpected end of input

hint: `osvm policy check` tells all that is wrong

"#]]);
    // Put right, they count from the next call on.
    write_rules(&home, "permit(principal, action, resource);");
    home.osvm(call).assert().code(0).stdout_eq("{\"text\":\"hi\"}\n");
}

#[test]
fn rules_that_a_flag_names_win_and_have_to_be_there() {
    let home = with_rules("permit(principal, action, resource);");
    home.write("other.cedar", "@id(\"nothing\")\nforbid(principal, action, resource);");
    let call = ["--policy", "other.cedar", "mcp", "call", "system", "echo", r#"{"text":"hi"}"#];
    home.osvm(call).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the rules do not let `system/echo` run: a rule forbids it: `nothing` (other.cedar line 1)

hint: `osvm policy explain system echo` tells why

"#]]);
    let call = ["--policy", "nowhere.cedar", "mcp", "call", "system", "echo", r#"{"text":"hi"}"#];
    home.osvm(call).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there are no rules at `nowhere.cedar`

hint: they are named by `--policy`, or by `policy` in the isolation config

"#]]);
}

#[test]
fn a_file_with_forbid_only_lets_nothing_run() {
    let home = with_rules("forbid(principal, action, resource == Tool::\"pay/send\");");
    let call = ["mcp", "call-tool", "system", "echo", r#"{"text":"hi"}"#];
    home.osvm(call).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: the rules do not let `system/echo` run: no rule permits it

hint: `osvm policy explain system echo` tells why

"#]]);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let home = Home::without_images();
    home.osvm(["policy", "check"]).assert().code(0).stdout_eq("").stderr_eq(str![[r#"
there are no rules: the isolation config decides alone

"#]]);
    home.write(
        "bad.cedar",
        "permit(principal, action, resource) when { context.tiem.hour > 3 };\n\
         forbid(principal, action, resource) when { context.read_only > 1 };\n",
    );
    let check = home.osvm(["policy", "check", "bad.cedar"]);
    check
        .assert()
        .code(2)
        .stdout_eq(str![[r#"
bad.cedar: line 1 column 44: for policy `policy0`, attribute `tiem` in context for Action::"call" not found (did you mean `time`?)
bad.cedar: line 2 column 44: for policy `policy1`, unexpected type: expected Long but saw Bool

"#]])
        .stderr_eq(str![[r#"
error: the rules in `bad.cedar` are wrong

"#]]);
    home.write("open.cedar", "permit(principal, action, resource)\nforbid();");
    let check = home.osvm(["policy", "check", "open.cedar"]);
    check.assert().code(2).stdout_eq(str![[r#"
open.cedar: line 2 column 7: unexpected token `(`

"#]]);
    write_rules(&home, RULES);
    home.osvm(["policy", "check"]).assert().code(0).stderr_eq("").stdout_eq(str![[r#"
`[HOME]/.config/osvm/policy.cedar` is valid: 3 rules

"#]]);
}

#[test]
fn a_file_that_others_can_write_decides_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::without_images();
    let path = home.write("mine.cedar", "permit(principal, action, resource);");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    home.osvm(["policy", "check", "mine.cedar"]).assert().code(2).stdout_eq("").stderr_eq(str![[
        r#"
error: the rules in `mine.cedar` are not used: it can be written by every user (mode 0666)

hint: read it, and if it is what you want: `chmod o-w 'mine.cedar'`

"#
    ]]);
}

#[test]
fn a_decision_is_explained_with_the_rule_and_the_line_of_the_config() {
    let home = with_rules(RULES);
    home.write_config("{\n  \"default_execution_mode\": \"unikernel\"\n}");
    let explain = home.osvm(["policy", "explain", "system", "echo", r#"{"text":"a secret"}"#]);
    explain.assert().code(0).stderr_eq("").stdout_eq(str![[r#"
decision  deny
rule      `no-secrets` ([HOME]/.config/osvm/policy.cedar line 3)
why       a rule forbids it
runs in   unikernel, [HOME]/.config/osvm/isolation_config.json line 2 `default_execution_mode`

"#]]);
    let explain = home.osvm(["policy", "explain", "system", "echo", r#"{"text":"hi"}"#]);
    explain.assert().code(0).stdout_eq(str![[r#"
decision  allow
rule      [HOME]/.config/osvm/policy.cedar line 1
runs in   unikernel, [HOME]/.config/osvm/isolation_config.json line 2 `default_execution_mode`

"#]]);
    let explain = home.osvm(["policy", "explain", "solana", "decode_transaction", "--json"]);
    explain.assert().code(0).stdout_eq(str![[r#"
{
  "decision": "ask",
  "rule": "[HOME]/.config/osvm/policy.cedar line 7",
  "reason": "somebody should look",
  "mode": "unikernel",
  "origin": "line 2 `default_execution_mode`",
  "config": "[HOME]/.config/osvm/isolation_config.json"
}

"#]]);
}

#[test]
fn cases_that_do_not_hold_are_named() {
    let home = with_rules(RULES);
    home.write(
        "cases.json",
        r#"[{"server": "system", "tool": "echo", "arguments": {"text": "x"}, "expect": "allow"},
            {"server": "system", "tool": "echo", "arguments": {"text": "secret"}, "expect": "allow"},
            {"client": "claude-code/2.1", "server": "solana", "tool": "decode_transaction",
             "expect": "deny"}]"#,
    );
    home.osvm(["policy", "test", "cases.json"])
        .assert()
        .code(1)
        .stdout_eq(str![[r#"
case 2: `system/echo` by `cli` is deny: `no-secrets` ([HOME]/.config/osvm/policy.cedar line 3)
case 3: `solana/decode_transaction` by `claude-code/2.1` is ask: [HOME]/.config/osvm/policy.cedar line 7

"#]])
        .stderr_eq("1 of 3 cases hold\n");
    home.write("good.json", r#"[{"server": "system", "tool": "echo", "expect": "allow"}]"#);
    let good = home.osvm(["policy", "test", "good.json"]);
    good.assert().code(0).stdout_eq("").stderr_eq("1 of 1 cases hold\n");
    home.write("typo.json", r#"[{"server": "system", "tol": "echo", "expect": "allow"}]"#);
    home.osvm(["policy", "test", "typo.json"])
        .assert()
        .code(2)
        .stdout_eq("")
        .stderr_eq(str![[r#"
error: cannot use the cases in `typo.json`
  caused by: this is no list of cases
  caused by: unknown field `tol`, expected one of `client`, `server`, `tool`, `arguments`, `read_only`, `destructive`, `time`, `calls_last_minute`, `expect` at line 1 column 27

"#]]);
}

#[test]
fn the_schema_is_what_rules_are_checked_against() {
    let home = Home::without_images();
    let schema = home.osvm(["policy", "schema"]).output().unwrap();
    assert!(schema.status.success() && schema.stderr.is_empty());
    let schema = String::from_utf8(schema.stdout).unwrap();
    for name in ["entity Client", "entity Tool", "calls_last_minute"] {
        assert!(schema.contains(name), "{name} is missing from {schema}");
    }
}
