//! The shape of Anthropic's messages, streamed.

use super::{Assembly, Model, ModelError, Prompt, Turn, Usage, arguments, shown};
use crate::conversation::{Call, Message};
use crate::limits::MAX_TURN;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Blocks that one answer may have.
const MOST_BLOCKS: usize = 256;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    system: &'a str,
    messages: Vec<Out<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    stream: bool,
}

#[derive(Serialize)]
struct Out<'a> {
    role: &'static str,
    content: Vec<OutBlock<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OutBlock<'a> {
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Box<RawValue> },
    ToolResult { tool_use_id: &'a str, content: &'a str, is_error: bool },
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a RawValue,
}

/// The body of a request.
pub(super) fn body(model: &Model, prompt: &Prompt<'_>) -> Result<Box<RawValue>, serde_json::Error> {
    let messages = prompt.messages.iter().filter_map(|message| {
        let (role, content) = match message {
            Message::User { text } => ("user", vec![OutBlock::Text { text }]),
            Message::Assistant { text, calls } => {
                // Empty text blocks are refused.
                let text = (!text.is_empty()).then_some(OutBlock::Text { text });
                let calls = calls.iter().map(|call| OutBlock::ToolUse {
                    id: &call.id,
                    name: &call.name,
                    input: input(&call.arguments),
                });
                ("assistant", text.into_iter().chain(calls).collect())
            }
            Message::Tools { results } => {
                let results = results.iter().map(|result| OutBlock::ToolResult {
                    tool_use_id: &result.id,
                    content: &result.text,
                    is_error: result.is_error,
                });
                ("user", results.collect())
            }
        };
        (!content.is_empty()).then_some(Out { role, content })
    });
    let tools = prompt.tools.iter().map(|tool| Tool {
        name: tool.name,
        description: tool.description,
        input_schema: tool.input_schema,
    });
    to_raw_value(&Body {
        model: &model.name,
        max_tokens: model.max_tokens,
        system: prompt.system,
        messages: messages.collect(),
        tools: tools.collect(),
        stream: true,
    })
}

/// `input` is an object, also where the model once wrote something else.
fn input(arguments: &RawValue) -> Box<RawValue> {
    if arguments.get().starts_with('{') {
        arguments.to_owned()
    } else {
        // A constant object can't fail to be one.
        RawValue::from_string("{}".into()).unwrap_or_default()
    }
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    blocks: Vec<Block>,
    usage: Usage,
    stop: Option<String>,
    over: bool,
}

#[derive(Debug)]
enum Block {
    Text(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    /// Of a kind that is not acted on.
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: usize,
        content_block: StartBlock,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta,
    },
    MessageDelta {
        delta: MessageDelta,
        #[serde(default)]
        usage: EventUsage,
    },
    MessageStop {},
    Error {
        error: EventError,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    usage: EventUsage,
}

#[derive(Default, Deserialize)]
struct EventUsage {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct EventError {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StartBlock {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct MessageDelta {
    #[serde(default)]
    stop_reason: Option<String>,
}

impl Assembled {
    fn count(&mut self, usage: &EventUsage) {
        self.usage.input_tokens = usage.input_tokens.unwrap_or(self.usage.input_tokens);
        self.usage.output_tokens = usage.output_tokens.unwrap_or(self.usage.output_tokens);
    }

    fn length(&self) -> usize {
        let lengths = self.blocks.iter().map(|block| match block {
            Block::Text(text) => text.len(),
            Block::Call { id, name, arguments } => id.len() + name.len() + arguments.len(),
            Block::Other => 0,
        });
        lengths.sum()
    }

    fn start(&mut self, index: usize, block: StartBlock) -> Result<Option<String>, ModelError> {
        if index != self.blocks.len() || MOST_BLOCKS <= index {
            return Err(ModelError::Rubbish { what: format!("a block with index {index}") });
        }
        let (block, text) = match block {
            StartBlock::Text { text } => (Block::Text(text.clone()), Some(text)),
            StartBlock::ToolUse { id, name } => {
                (Block::Call { id, name, arguments: String::new() }, None)
            }
            StartBlock::Other => (Block::Other, None),
        };
        self.blocks.push(block);
        Ok(text.filter(|text| !text.is_empty()))
    }
}

impl Assembly for Assembled {
    fn event(&mut self, data: &str) -> Result<Option<String>, ModelError> {
        let event: Event = serde_json::from_str(data)
            .map_err(|error| ModelError::Rubbish { what: error.to_string() })?;
        let text = match event {
            Event::MessageStart { message } => {
                self.count(&message.usage);
                None
            }
            Event::ContentBlockStart { index, content_block } => {
                self.start(index, content_block)?
            }
            Event::ContentBlockDelta { index, delta } => {
                match (self.blocks.get_mut(index), delta) {
                    (Some(Block::Text(all)), Delta::Text { text }) => {
                        all.push_str(&text);
                        Some(text)
                    }
                    (Some(Block::Call { arguments, .. }), Delta::Input { partial_json }) => {
                        arguments.push_str(&partial_json);
                        None
                    }
                    (Some(_), _) => None,
                    (None, _) => {
                        return Err(ModelError::Rubbish { what: format!("no block {index}") });
                    }
                }
            }
            Event::MessageDelta { delta, usage } => {
                self.count(&usage);
                self.stop = delta.stop_reason.or_else(|| self.stop.take());
                None
            }
            Event::MessageStop {} => {
                self.over = true;
                None
            }
            Event::Error { error } => {
                return Err(ModelError::Failed { message: shown(&error.message) });
            }
            Event::Other => None,
        };
        if MAX_TURN < self.length() {
            return Err(ModelError::TooLong);
        }
        Ok(text)
    }

    fn finish(self: Box<Self>) -> Result<Turn, ModelError> {
        if !self.over {
            return Err(ModelError::CutOff);
        }
        let mut turn = Turn {
            usage: self.usage,
            cut: self.stop.as_deref() == Some("max_tokens"),
            ..Turn::default()
        };
        for block in self.blocks {
            match block {
                Block::Text(text) => turn.text.push_str(&text),
                Block::Call { name, .. } if name.is_empty() => {
                    return Err(ModelError::Rubbish { what: "a call without a name".into() });
                }
                Block::Call { id, name, arguments: text } => {
                    turn.calls.push(Call { id, name, arguments: arguments(&text) });
                }
                Block::Other => {}
            }
        }
        Ok(turn)
    }
}
