//! What has been said, as data: kept by the host line by line, sent to a model in its own shape.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", try_from = "Flat")]
pub enum Message {
    /// The person's.
    User {
        /// What was typed.
        text: String,
    },
    /// The model's.
    Assistant {
        /// What it said.
        #[serde(skip_serializing_if = "String::is_empty")]
        text: String,
        /// What it wants called.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        calls: Vec<Call>,
    },
    /// Results of the calls in the message before, in their order.
    Tools {
        /// One for each call.
        results: Vec<CallResult>,
    },
}

/// A message as it is read: raw text can't be read from below a tag.
#[derive(Deserialize)]
struct Flat {
    role: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    calls: Vec<Call>,
    #[serde(default)]
    results: Vec<CallResult>,
}

impl TryFrom<Flat> for Message {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<Self, Self::Error> {
        let Flat { role, text, calls, results } = flat;
        match role.as_str() {
            "user" => Ok(Self::User { text }),
            "assistant" => Ok(Self::Assistant { text, calls }),
            "tools" => Ok(Self::Tools { results }),
            _ => Err("`role` is not `user`, `assistant` or `tools`"),
        }
    }
}

/// A call that a model asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The model's name for this call.
    pub id: String,
    /// The tool, as the model was told its name.
    pub name: String,
    /// Its arguments: an object, or what the model wrote instead of one.
    pub arguments: Box<RawValue>,
}

/// What a call came to, as the model is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResult {
    /// The call's id.
    pub id: String,
    /// The text of it.
    pub text: String,
    /// Whether it failed.
    #[serde(default)]
    pub is_error: bool,
}

/// All messages of a session, with a mark where each prompt begins.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    /// One that goes on. Turns that never came to an answer are left out: a crash or a failure may
    /// have cut the results off that a provider insists on.
    pub fn resumed(messages: Vec<Message>) -> Self {
        let mut conversation = Self::default();
        for message in messages {
            if matches!(message, Message::User { .. }) {
                conversation.drop_unfinished();
            }
            if conversation.fits(&message) {
                conversation.messages.push(message);
            }
        }
        conversation.drop_unfinished();
        conversation
    }

    /// The messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds one.
    pub(crate) fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Takes back what was said since there were `length` messages.
    pub(crate) fn cut(&mut self, length: usize) {
        self.messages.truncate(length);
    }

    /// Whether a message may follow: results belong to the calls right before them, and only to
    /// those; everything else follows a turn or a result.
    fn fits(&self, message: &Message) -> bool {
        match (self.messages.last(), message) {
            (Some(Message::Assistant { calls, .. }), Message::Tools { results }) => {
                calls.len() == results.len()
                    && calls.iter().zip(results).all(|(call, result)| call.id == result.id)
            }
            (_, Message::Tools { .. }) => false,
            (last, Message::Assistant { .. }) => {
                matches!(last, Some(Message::User { .. } | Message::Tools { .. }))
            }
            (_, Message::User { .. }) => true,
        }
    }

    /// Drops a turn at the end that has no answer.
    fn drop_unfinished(&mut self) {
        while let Some(last) = self.messages.last() {
            match last {
                Message::Assistant { calls, .. } if calls.is_empty() => return,
                _ => _ = self.messages.pop(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Message {
        Message::User { text: "hi".into() }
    }

    fn assistant(ids: &[&str]) -> Message {
        let call = |id: &&str| Call {
            id: (*id).into(),
            name: "a".into(),
            arguments: RawValue::from_string("{}".into()).unwrap(),
        };
        Message::Assistant { text: "x".into(), calls: ids.iter().map(call).collect() }
    }

    fn tools(ids: &[&str]) -> Message {
        let result = |id: &&str| CallResult { id: (*id).into(), text: "r".into(), is_error: false };
        Message::Tools { results: ids.iter().map(result).collect() }
    }

    #[test]
    fn a_turn_that_a_crash_cut_off_is_left_out() {
        let all = vec![user(), assistant(&["1"]), tools(&["1"]), assistant(&[]), user()];
        assert_eq!(Conversation::resumed(all).messages().len(), 4);
        let cut = vec![user(), assistant(&[]), user(), assistant(&["1"])];
        assert_eq!(Conversation::resumed(cut).messages().len(), 2);
    }

    #[test]
    fn a_turn_that_failed_does_not_take_the_next_one_with_it() {
        let all =
            vec![user(), assistant(&["1"]), user(), assistant(&[]), user(), user(), assistant(&[])];
        assert_eq!(Conversation::resumed(all).messages().len(), 4);
    }

    #[test]
    fn results_of_other_calls_are_left_out() {
        let all = vec![user(), assistant(&["1"]), tools(&["2"]), user(), assistant(&[])];
        let kept = Conversation::resumed(all);
        assert_eq!(kept.messages().len(), 2);
        assert!(!kept.messages().iter().any(|message| matches!(message, Message::Tools { .. })));
    }

    #[test]
    fn a_message_is_one_line_of_json() {
        let line = serde_json::to_string(&assistant(&["1"])).unwrap();
        assert_eq!(
            line,
            r#"{"role":"assistant","text":"x","calls":[{"id":"1","name":"a","arguments":{}}]}"#
        );
        assert!(serde_json::from_str::<Message>(&line).is_ok());
    }
}
