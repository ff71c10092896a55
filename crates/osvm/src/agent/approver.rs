//! Who says yes: the person at the terminal, or a flag of the command line.
//!
//! # Invariants
//!
//! - The agent has no say: questions come from the rules, or from the host's own plan of it.
//! - `--yes` is for tools that say they change nothing. `--yes=all` is for all of them.
//! - "Always" lasts until osvm ends and holds for one tool and one rule.

use super::calls::planned;
use super::feed::{Answer, Feed, Happening, Question};
use super::refusals::Refusals;
use super::words;
use crate::cli::Yes;
use osvm_agent::{Event, PlannedCall};
use osvm_gateway::{Gateway, Listed};
use osvm_rules::{Pending, Prompt};
use osvm_supervisor::Terminal;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// How often it is looked whether a question is over.
const LOOK: Duration = Duration::from_millis(50);

/// Longest arguments a question shows, in letters.
const ARGUMENTS: usize = 1000;

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Approver {
    yes: Option<Yes>,
    /// `None`: nobody is there.
    person: Option<Feed>,
    gateway: OnceLock<Weak<Gateway>>,
    always: Mutex<HashSet<[String; 3]>>,
}

impl Approver {
    /// One that asks through `person`, if somebody is there.
    pub(crate) fn new(yes: Option<Yes>, person: Option<Feed>) -> Self {
        Self { yes, person, gateway: OnceLock::new(), always: Mutex::default() }
    }

    /// Learns what tools say of themselves.
    pub(crate) fn know(&self, gateway: &Arc<Gateway>) {
        // There is one gateway in a session.
        let _first = self.gateway.set(Arc::downgrade(gateway));
    }

    fn listed<T>(&self, is: impl Fn(&Listed) -> bool, say: impl Fn(&Listed) -> T) -> Option<T> {
        let catalog = self.gateway.get()?.upgrade()?.catalog();
        catalog.tools().find(|listed| is(listed)).map(say)
    }

    /// Whether a flag says yes.
    fn by_flag(&self, read_only: impl FnOnce() -> bool) -> bool {
        match self.yes {
            Some(Yes::All) => true,
            Some(Yes::ReadOnly) => read_only(),
            None => false,
        }
    }

    fn ask(&self, lines: Vec<String>, always: bool, is_over: &dyn Fn() -> bool) -> Option<Answer> {
        let person = self.person.as_ref()?;
        let (reply, answer) = mpsc::sync_channel(1);
        let over = Arc::new(AtomicBool::new(false));
        let question = Question { lines, always, reply, over: Arc::clone(&over) };
        person.send(Happening::Asked(question)).ok()?;
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) if !is_over() => {}
                // The terminal is gone, or somebody else has answered, or the call is over.
                Err(_) => {
                    over.store(true, Ordering::SeqCst);
                    return None;
                }
            }
        }
    }

    /// Whether a plan of the local planner is to run.
    fn confirm(&self, plan: &[PlannedCall]) -> bool {
        let read_only = |call: &PlannedCall| {
            self.listed(|listed| listed.name == call.name, Listed::is_read_only).unwrap_or(false)
        };
        if self.by_flag(|| plan.iter().all(read_only)) {
            return true;
        }
        let mut lines = vec!["run this plan?".to_owned()];
        lines.extend(plan.iter().map(|call| format!("  {}", planned(call))));
        self.ask(lines, false, &|| false) == Some(Answer::Yes)
    }
}

impl Prompt for Approver {
    fn ask(&self, pending: &Pending, is_over: &dyn Fn() -> bool) -> Option<bool> {
        let Pending { server, tool, rule, why, arguments, .. } = pending;
        let read_only = || {
            let is = |listed: &Listed| listed.server == *server && listed.tool == *tool;
            self.listed(is, Listed::is_read_only).unwrap_or(false)
        };
        let key = [server.clone(), tool.clone(), rule.clone()];
        let known = || self.always.lock().unwrap_or_else(PoisonError::into_inner).contains(&key);
        if self.by_flag(read_only) || known() {
            return Some(true);
        }
        let mut lines = vec![format!("`{server}/{tool}` needs your approval")];
        if !why.is_empty() {
            lines.push(words::brief(why, ARGUMENTS));
        }
        lines.push(format!("arguments: {}", words::brief(arguments, ARGUMENTS)));
        lines.push(format!("rule: {}", words::brief(rule, 200)));
        let answer = Self::ask(self, lines, true, is_over)?;
        if answer == Answer::Always {
            self.always.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        }
        Some(answer != Answer::No)
    }

    fn is_there(&self) -> bool {
        self.person.is_some()
    }
}

/// The supervisor's end of the queue.
pub(crate) struct Desk {
    feed: Feed,
    approver: Arc<Approver>,
    refusals: Refusals,
    /// The plan that was told last.
    plan: Mutex<Vec<PlannedCall>>,
}

impl Desk {
    /// One that tells `feed`.
    pub(crate) fn new(feed: Feed, approver: Arc<Approver>, refusals: Refusals) -> Self {
        Self { feed, approver, refusals, plan: Mutex::default() }
    }
}

impl Terminal for Desk {
    fn event(&self, mut event: Event) {
        if let Event::Plan { calls, .. } = &mut event {
            for call in &mut *calls {
                // The host knows better than the agent where its calls run.
                let is = |listed: &Listed| listed.name == call.name;
                call.mode = self.approver.listed(is, |listed| listed.mode().to_owned());
            }
            self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone_from(calls);
        }
        // With the loop gone there is nobody to tell.
        let _told = self.feed.send(Happening::Event(event));
    }

    fn confirm(&self, calls: u32) -> bool {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What is run is what was shown, or nothing is.
        usize::try_from(calls).is_ok_and(|calls| calls == plan.len())
            && self.approver.confirm(&plan)
    }

    fn refused(&self, method: &str, params: &str) {
        self.refusals.write(method, params);
    }

    fn gone(&self) {
        let _told = self.feed.send(Happening::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::feed;
    use super::*;
    use std::thread;

    fn pending(tool: &str) -> Pending {
        serde_json::from_value(serde_json::json!({"id": "1", "time": "", "until": "",
            "client": "osvm-agent", "server": "s", "tool": tool, "arguments": "{\"a\":\"\u{1b}[2J\"}",
            "arguments_digest": "", "why": "it deletes", "rule": "r"}))
        .unwrap()
    }

    #[test]
    fn always_holds_for_its_tool_and_no_other() {
        let (to, from) = feed();
        let approver = Approver::new(None, Some(to));
        let person = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in [Answer::Always, Answer::No, Answer::Yes] {
                let Happening::Asked(question) = from.recv().unwrap() else {
                    panic!("no question")
                };
                question.answer(answer);
                asked.push(question.lines.join("\n"));
            }
            asked
        });
        let ask = |tool| Prompt::ask(&approver, &pending(tool), &|| false);
        assert_eq!(ask("a"), Some(true));
        assert_eq!(ask("a"), Some(true));
        assert_eq!(ask("b"), Some(false));
        assert_eq!(ask("b"), Some(true));
        let asked = person.join().unwrap();
        assert_eq!(
            asked[0],
            "`s/a` needs your approval\nit deletes\n\
            arguments: {\"a\":\"\\u001b[2J\"}\nrule: r"
        );
    }

    #[test]
    fn a_question_that_is_over_is_given_up() {
        let (to, from) = feed();
        let approver = Approver::new(None, Some(to));
        assert_eq!(Prompt::ask(&approver, &pending("a"), &|| true), None);
        let Happening::Asked(question) = from.recv().unwrap() else { panic!("no question") };
        assert!(question.is_over());
        question.answer(Answer::Yes);
    }

    #[test]
    fn without_a_person_only_flags_say_yes() {
        let ask = |yes, person| Prompt::ask(&Approver::new(yes, person), &pending("a"), &|| false);
        assert_eq!(ask(None, None), None);
        assert_eq!(ask(Some(Yes::ReadOnly), None), None);
        assert_eq!(ask(Some(Yes::All), None), Some(true));
    }

    #[test]
    fn a_plan_that_was_not_shown_is_not_confirmed() {
        let (to, _from) = feed();
        let approver = Arc::new(Approver::new(Some(Yes::All), None));
        let dir = tempfile::tempdir().unwrap();
        let refusals = Refusals::new(osvm_receipts::Receipts::new(dir.path()));
        let desk = Desk::new(to, approver, refusals);
        assert!(!desk.confirm(1) && desk.confirm(0));
    }
}
