//! The gate as the runtime asks it: rules in a file, approvals of a person.
#![cfg(test)]

use osvm_policy::{Config, Env, Resolved};
use osvm_protocol::tool::Annotations;
use osvm_rules::{Approvals, Pending, Prompt, RuleFile, Rules};
use osvm_runtime::{Cancel, ClientName, Gate as _, Permit, Question, Refusal};
use serde_json::value::RawValue;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Home {
    dir: TempDir,
    prompt: Option<Arc<dyn Prompt>>,
}

impl Home {
    fn new(rules: Option<&str>) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap(), prompt: None };
        if let Some(rules) = rules {
            std::fs::write(home.file(), rules).unwrap();
        }
        home
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("policy.cedar")
    }

    fn rules(&self) -> Rules {
        let file = RuleFile { path: self.file(), required: false };
        Rules::new(file, &self.dir.path().join("state")).with_prompt(self.prompt.clone())
    }

    fn approvals(&self) -> Approvals {
        Approvals::new(self.dir.path().join("state/approvals"))
    }

    fn ask(&self, tool: &str, arguments: &str, patience: Duration) -> Result<Permit, Refusal> {
        ask(&self.rules(), tool, arguments, patience, &Cancel::default())
    }

    /// What waits, as soon as something does.
    fn waiting(&self) -> Pending {
        loop {
            if let Some(pending) = self.approvals().list().unwrap().pop() {
                return pending;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn ask(
    rules: &Rules,
    tool: &str,
    arguments: &str,
    patience: Duration,
    cancel: &Cancel,
) -> Result<Permit, Refusal> {
    let (server, tool) = tool.split_once('/').unwrap();
    let arguments = RawValue::from_string(arguments.into()).unwrap();
    rules.decide(&Question {
        call: "01M80GHH8C6KV0ZENYVJ8WR8WW".parse().unwrap(),
        client: &ClientName::new("cli"),
        server,
        tool,
        arguments: &arguments,
        policy: &policy(),
        deadline: Instant::now() + patience,
        cancel,
        annotations: Some(&Annotations::default()),
        observer: None,
    })
}

fn policy() -> Resolved {
    let env = Env::new(None, None, Some("/home/u".into())).unwrap();
    Config::parse("{}", Path::new("c"), &env).unwrap().resolve("s", "t")
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);
const PAY: &str = r#"permit(principal, action, resource);
    @id("pay") @approval("it is money") permit(principal, action, resource in Server::"pay");"#;

#[test]
fn without_a_file_everything_passes_but_what_asks_by_itself() {
    let home = Home::new(None);
    assert_eq!(home.ask("fs/rm", "{}", LONG), Ok(Permit::default()));
    assert!(!home.dir.path().join("state").exists(), "nothing is kept that nobody needs");
    let refusal = home.ask("solana/send_transaction", "{}", SHORT).unwrap_err();
    assert!(refusal.reason.contains("nobody answered in time"), "{refusal}");
    assert!(refusal.hint.unwrap().contains("osvm approvals allow "));
}

#[test]
fn a_file_that_is_wrong_or_missing_although_named_denies_all() {
    let home = Home::new(Some("permit(principal"));
    let refusal = home.ask("fs/ls", "{}", LONG).unwrap_err();
    assert!(refusal.reason.contains("line 1 column"), "{refusal}");
    let file = RuleFile { path: home.dir.path().join("absent"), required: true };
    let rules = Rules::new(file, home.dir.path());
    assert!(ask(&rules, "fs/ls", "{}", LONG, &Cancel::default()).is_err());
}

#[test]
fn rules_that_change_are_read_anew() {
    let home = Home::new(Some(r#"permit(principal, action, resource in Server::"fs");"#));
    let rules = home.rules();
    let ask = || ask(&rules, "fs/ls", "{}", LONG, &Cancel::default());
    assert!(ask().unwrap().rule.unwrap().ends_with("policy.cedar line 1"));
    std::fs::write(home.file(), r#"forbid(principal, action, resource in Server::"fs");"#).unwrap();
    let refusal = ask().unwrap_err();
    assert!(refusal.reason.contains("forbids") && refusal.hint.is_some(), "{refusal}");
    std::fs::remove_file(home.file()).unwrap();
    assert_eq!(ask(), Ok(Permit::default()));
}

#[test]
fn a_rate_is_counted_over_all_processes() {
    let home = Home::new(Some(
        "permit(principal, action, resource) when { context.calls_last_minute < 3 };",
    ));
    let calls: Vec<bool> = (0..5).map(|_| home.ask("fs/ls", "{}", LONG).is_ok()).collect();
    assert_eq!(calls, [true, true, true, false, false]);
    assert!(home.ask("fs/cat", "{}", LONG).is_ok());
}

#[test]
fn an_approval_lets_one_call_through_and_a_refusal_none() {
    for allow in [true, false] {
        let home = Home::new(Some(PAY));
        std::thread::scope(|scope| {
            let call = scope.spawn(|| home.ask("pay/send", r#"{"to":"x"}"#, LONG));
            let pending = home.waiting();
            assert_eq!(
                (pending.server.as_str(), pending.arguments.as_str()),
                ("pay", r#"{"to":"x"}"#)
            );
            assert_eq!(pending.why, "it is money");
            home.approvals().answer(&pending.id, allow, false).unwrap();
            let answer = call.join().unwrap();
            assert_eq!(answer.is_ok(), allow, "{answer:?}");
            let rule = answer.map_or_else(|refusal| refusal.rule, |permit| permit.rule).unwrap();
            assert!(rule.starts_with("`pay`"), "{rule}");
        });
        assert!(home.approvals().list().unwrap().is_empty());
        assert!(home.ask("pay/send", r#"{"to":"x"}"#, SHORT).is_err(), "asked anew");
    }
}

#[test]
fn an_approval_that_comes_late_is_for_the_next_attempt_with_the_same_arguments() {
    let home = Home::new(Some(PAY));
    assert!(home.ask("pay/send", r#"{"to":"x"}"#, SHORT).is_err());
    let pending = home.waiting();
    home.approvals().answer(&pending.id, true, false).unwrap();
    assert!(home.ask("pay/send", r#"{"to":"y"}"#, SHORT).is_err());
    assert!(home.ask("pay/send", r#"{"to":"x"}"#, SHORT).is_ok());
    assert!(home.ask("pay/send", r#"{"to":"x"}"#, SHORT).is_err());
}

#[test]
fn always_means_this_client_tool_and_rule() {
    let home = Home::new(Some(PAY));
    assert!(home.ask("pay/send", "{}", SHORT).is_err());
    home.approvals().answer(&home.waiting().id, true, true).unwrap();
    for arguments in ["{}", r#"{"to":"x"}"#, r#"{"to":"y"}"#] {
        assert!(home.ask("pay/send", arguments, SHORT).is_ok());
    }
    assert!(home.ask("pay/other", "{}", SHORT).is_err());
    std::fs::write(home.file(), format!("\n{PAY}")).unwrap();
    assert!(home.ask("pay/send", "{}", SHORT).is_err(), "the rule is another one");
}

#[test]
fn one_answer_is_for_one_of_two_calls() {
    let home = Home::new(Some(PAY));
    std::thread::scope(|scope| {
        let call = || scope.spawn(|| home.ask("pay/send", "{}", Duration::from_secs(1)).is_ok());
        let calls = [call(), call()];
        home.approvals().answer(&home.waiting().id, true, false).unwrap();
        let through = calls.map(|call| call.join().unwrap());
        assert_eq!(through.iter().filter(|through| **through).count(), 1);
    });
}

#[test]
fn a_cancelled_call_waits_no_longer() {
    let home = Home::new(Some(PAY));
    let cancel = Cancel::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| ask(&home.rules(), "pay/send", "{}", LONG, &cancel));
        home.waiting();
        cancel.cancel();
        assert!(call.join().unwrap().is_err());
    });
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn a_person_at_the_terminal_is_asked_and_so_is_everybody_else() {
    #[derive(Debug)]
    struct Says(Option<bool>);
    impl Prompt for Says {
        fn ask(&self, _pending: &Pending, is_over: &dyn Fn() -> bool) -> Option<bool> {
            while self.0.is_none() && !is_over() {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.0
        }
    }
    for says in [true, false] {
        let mut home = Home::new(Some(PAY));
        home.prompt = Some(Arc::new(Says(Some(says))));
        assert_eq!(home.ask("pay/send", "{}", SHORT).is_ok(), says);
        assert!(home.approvals().list().unwrap().is_empty());
    }
    let mut home = Home::new(Some(PAY));
    home.prompt = Some(Arc::new(Says(None)));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| home.ask("pay/send", "{}", LONG));
        home.approvals().answer(&home.waiting().id, true, false).unwrap();
        assert!(call.join().unwrap().is_ok());
    });
}

#[test]
fn a_person_who_is_there_may_think_for_longer_than_the_tool_may_work() {
    /// Answers after so long, where `there`; else knows nobody to ask.
    #[derive(Debug)]
    struct Slow {
        there: bool,
    }
    impl Prompt for Slow {
        fn ask(&self, _pending: &Pending, is_over: &dyn Fn() -> bool) -> Option<bool> {
            self.there.then(|| std::thread::sleep(3 * SHORT))?;
            (!is_over()).then_some(true)
        }
        fn is_there(&self) -> bool {
            self.there
        }
    }
    let mut home = Home::new(Some(PAY));
    home.prompt = Some(Arc::new(Slow { there: true }));
    let permit = home.ask("pay/send", "{}", SHORT).unwrap();
    assert!(3 * SHORT <= permit.waited, "{permit:?}");
    home.prompt = Some(Arc::new(Slow { there: false }));
    let begun = Instant::now();
    assert!(home.ask("pay/send", "{}", SHORT).is_err());
    assert!(SHORT <= begun.elapsed() && begun.elapsed() < LONG / 2);
}

#[test]
fn what_an_answer_took_is_told_and_an_answer_that_was_there_took_none() {
    let home = Home::new(Some(PAY));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| home.ask("pay/send", "{}", LONG));
        let pending = home.waiting();
        std::thread::sleep(SHORT);
        home.approvals().answer(&pending.id, true, true).unwrap();
        assert!(SHORT <= call.join().unwrap().unwrap().waited);
    });
    let known = home.ask("pay/send", "{}", SHORT).unwrap();
    assert!(known.waited < SHORT, "{known:?}");
}

#[test]
fn an_id_is_no_path() {
    let home = Home::new(None);
    for id in ["", "..", "../../x", "always", "zzzzzzzz", "0123456789"] {
        assert!(home.approvals().answer(id, true, false).is_err(), "{id}");
    }
}
