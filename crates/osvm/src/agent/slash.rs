//! What a person can type besides prompts: `/help` and its like.

use super::feed::Work;
use serde_json::value::RawValue;

/// What `/help` shows.
pub(crate) const HELP: &str = "\
/help                      this
/tools                     the tools, and where each of them runs
/status                    the status line
/calls                     the calls of this session
/call SERVER TOOL {JSON}   call a tool without a model
/model                     the model, tokens and what they cost
/clear                     forget the conversation
/exit                      leave; Ctrl-D does too

Ctrl-C cancels what runs and destroys its virtual machines; when nothing runs it leaves.";

const COMMANDS: [&str; 8] =
    ["/help", "/tools", "/status", "/calls", "/call", "/model", "/clear", "/exit"];

/// What was typed.
#[derive(Debug)]
pub(crate) enum Said {
    /// Nothing.
    Nothing,
    /// Something for the agent.
    Work(Work),
    /// Something to show.
    Show(Show),
    /// To leave.
    Exit,
    /// What makes no sense, and why.
    Wrong(String),
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// The commands.
    Help,
    /// The tools.
    Tools,
    /// The status line.
    Status,
    /// The calls.
    Calls,
    /// The model.
    Model,
}

/// Reads what was typed.
pub(crate) fn read(text: &str) -> Said {
    let text = text.trim();
    if !text.starts_with('/') {
        let said = || Said::Work(Work::Prompt(text.to_owned()));
        return if text.is_empty() { Said::Nothing } else { said() };
    }
    let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if command != "/call" && !rest.trim().is_empty() && COMMANDS.contains(&command) {
        return Said::Wrong(format!("`{command}` takes nothing"));
    }
    match command {
        "/help" => Said::Show(Show::Help),
        "/tools" => Said::Show(Show::Tools),
        "/status" => Said::Show(Show::Status),
        "/calls" => Said::Show(Show::Calls),
        "/model" => Said::Show(Show::Model),
        "/clear" => Said::Work(Work::Clear),
        "/exit" | "/quit" => Said::Exit,
        "/call" => call(rest),
        other => {
            let near = COMMANDS
                .iter()
                .max_by(|one, two| strsim::jaro(other, one).total_cmp(&strsim::jaro(other, two)));
            let near = near.filter(|near| 0.8 < strsim::jaro(other, near));
            let near = near.map(|near| format!(": did you mean `{near}`?"));
            let near = near.unwrap_or_else(|| ": `/help` lists all".to_owned());
            Said::Wrong(format!("there is no `{other}`{near}"))
        }
    }
}

fn call(rest: &str) -> Said {
    const USAGE: &str = "`/call SERVER TOOL {JSON}`, such as `/call system echo {\"text\":\"hi\"}`";
    let mut words = rest.trim().splitn(3, char::is_whitespace);
    let (Some(server), Some(tool)) = (words.next().filter(|word| !word.is_empty()), words.next())
    else {
        return Said::Wrong(USAGE.to_owned());
    };
    let arguments = words.next().map(str::trim).filter(|text| !text.is_empty()).unwrap_or("{}");
    match RawValue::from_string(arguments.to_owned()) {
        Ok(arguments) if arguments.get().starts_with('{') => {
            Said::Work(Work::Call { server: server.into(), tool: tool.into(), arguments })
        }
        Ok(_) => Said::Wrong(format!("the arguments are no JSON object: {USAGE}")),
        Err(error) => Said::Wrong(format!("the arguments are no JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_slash_is_a_command_and_all_else_a_prompt() {
        assert!(matches!(read("  "), Said::Nothing));
        assert!(matches!(read(" hi "), Said::Work(Work::Prompt(text)) if text == "hi"));
        assert!(matches!(read("/tools"), Said::Show(Show::Tools)));
        assert!(matches!(read("/quit"), Said::Exit));
        assert!(matches!(read("/clear all"), Said::Wrong(why) if why == "`/clear` takes nothing"));
        assert!(
            matches!(read("/tolls"), Said::Wrong(why) if why.ends_with("did you mean `/tools`?"))
        );
    }

    #[test]
    fn a_call_by_hand_takes_an_object_or_nothing() {
        let Said::Work(Work::Call { server, tool, arguments }) = read("/call s t {\"a\": 1}")
        else {
            panic!("no call");
        };
        assert_eq!((server.as_str(), tool.as_str(), arguments.get()), ("s", "t", "{\"a\": 1}"));
        assert!(matches!(read("/call s t"), Said::Work(Work::Call { .. })));
        for wrong in ["/call", "/call s", "/call s t [1]", "/call s t {"] {
            assert!(matches!(read(wrong), Said::Wrong(_)), "{wrong}");
        }
    }
}
