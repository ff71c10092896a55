//! The shape of OpenAI's chat completions, streamed.

use super::{Assembly, Model, ModelError, Prompt, Turn, Usage, arguments, shown};
use crate::conversation::{Call, Message};
use crate::limits::MAX_TURN;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Calls that one answer may ask for.
const MOST_CALLS: usize = 128;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Out<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    max_tokens: u32,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Out<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<OutCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
struct OutCall<'a> {
    id: &'a str,
    r#type: &'static str,
    function: OutFunction<'a>,
}

#[derive(Serialize)]
struct OutFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: ToolFunction<'a>,
}

#[derive(Serialize)]
struct ToolFunction<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a RawValue,
}

/// The body of a request.
pub(super) fn body(model: &Model, prompt: &Prompt<'_>) -> Result<Box<RawValue>, serde_json::Error> {
    let plain =
        |role, text| Out { role, content: Some(text), tool_calls: Vec::new(), tool_call_id: None };
    let mut messages = vec![plain("system", prompt.system)];
    for message in prompt.messages {
        match message {
            Message::User { text } => messages.push(plain("user", text)),
            Message::Assistant { text, calls } => messages.push(Out {
                role: "assistant",
                content: Some(text.as_str()).filter(|text| !text.is_empty() || calls.is_empty()),
                tool_calls: calls.iter().map(out_call).collect(),
                tool_call_id: None,
            }),
            Message::Tools { results } => messages.extend(results.iter().map(|result| Out {
                tool_call_id: Some(&result.id),
                ..plain("tool", &result.text)
            })),
        }
    }
    let tools = prompt.tools.iter().map(|tool| Tool {
        r#type: "function",
        function: ToolFunction {
            name: tool.name,
            description: tool.description,
            parameters: tool.input_schema,
        },
    });
    to_raw_value(&Body {
        model: &model.name,
        messages,
        tools: tools.collect(),
        max_tokens: model.max_tokens,
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    })
}

fn out_call(call: &Call) -> OutCall<'_> {
    let function = OutFunction { name: &call.name, arguments: call.arguments.get() };
    OutCall { id: &call.id, r#type: "function", function }
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    text: String,
    calls: Vec<Partial>,
    usage: Usage,
    finish: Option<String>,
}

#[derive(Debug, Default)]
struct Partial {
    id: String,
    name: String,
    arguments: String,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<ChunkUsage>,
    #[serde(default)]
    error: Option<ChunkError>,
}

#[derive(Deserialize)]
struct ChunkError {
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct ChunkUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<DeltaCall>>,
}

#[derive(Deserialize)]
struct DeltaCall {
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<DeltaFunction>,
}

#[derive(Deserialize)]
struct DeltaFunction {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

impl Assembled {
    fn length(&self) -> usize {
        let calls =
            self.calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len());
        self.text.len() + calls.sum::<usize>()
    }

    fn add_call(&mut self, delta: DeltaCall) -> Result<(), ModelError> {
        // Some servers leave the index out and send each call whole.
        let index = delta.index.unwrap_or(self.calls.len());
        if MOST_CALLS <= index {
            return Err(ModelError::Rubbish { what: format!("a call with index {index}") });
        }
        while self.calls.len() <= index {
            self.calls.push(Partial::default());
        }
        let Some(call) = self.calls.get_mut(index) else { return Ok(()) };
        call.id.push_str(delta.id.as_deref().unwrap_or_default());
        if let Some(function) = delta.function {
            call.name.push_str(function.name.as_deref().unwrap_or_default());
            call.arguments.push_str(function.arguments.as_deref().unwrap_or_default());
        }
        Ok(())
    }
}

impl Assembly for Assembled {
    fn event(&mut self, data: &str) -> Result<Option<String>, ModelError> {
        if data == "[DONE]" {
            return Ok(None);
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|error| ModelError::Rubbish { what: error.to_string() })?;
        if let Some(error) = chunk.error {
            return Err(ModelError::Failed { message: shown(&error.message) });
        }
        if let Some(usage) = chunk.usage {
            self.usage =
                Usage { input_tokens: usage.prompt_tokens, output_tokens: usage.completion_tokens };
        }
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(None) };
        for call in choice.delta.tool_calls.unwrap_or_default() {
            self.add_call(call)?;
        }
        self.finish = choice.finish_reason.or_else(|| self.finish.take());
        let text = choice.delta.content.filter(|text| !text.is_empty());
        self.text.push_str(text.as_deref().unwrap_or_default());
        if MAX_TURN < self.length() {
            return Err(ModelError::TooLong);
        }
        Ok(text)
    }

    fn finish(self: Box<Self>) -> Result<Turn, ModelError> {
        let finish = self.finish.ok_or(ModelError::CutOff)?;
        let mut calls = Vec::new();
        for (index, call) in self.calls.into_iter().enumerate() {
            if call.name.is_empty() {
                return Err(ModelError::Rubbish { what: "a call without a name".into() });
            }
            let id = if call.id.is_empty() { format!("call_{index}") } else { call.id };
            calls.push(Call { id, name: call.name, arguments: arguments(&call.arguments) });
        }
        Ok(Turn { text: self.text, calls, usage: self.usage, cut: finish == "length" })
    }
}
