//! What is said to each provider, and what becomes of its answers.

use super::*;
use crate::conversation::CallResult;

fn model(provider: Provider) -> Model {
    Model { provider, name: "m".into(), max_tokens: 100, retry_ms: 1 }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

fn conversation() -> Vec<Message> {
    let call = Call { id: "c1".into(), name: "echo".into(), arguments: raw(r#"{"n":1.0}"#) };
    let result = CallResult { id: "c1".into(), text: "one".into(), is_error: true };
    vec![
        Message::User { text: "hi".into() },
        Message::Assistant { text: String::new(), calls: vec![call] },
        Message::Tools { results: vec![result] },
    ]
}

fn body(provider: Provider) -> String {
    let schema = raw(r#"{"type":"object"}"#);
    let tool = ToolForModel { name: "echo", description: "d", input_schema: &schema };
    let (messages, tools) = (conversation(), [tool]);
    let prompt = Prompt { system: "s", messages: &messages, tools: &tools };
    let body = match provider {
        Provider::OpenAi => openai::body(&model(provider), &prompt),
        Provider::Anthropic => anthropic::body(&model(provider), &prompt),
    };
    body.unwrap().get().to_owned()
}

#[test]
fn a_conversation_has_the_shape_of_chat_completions() {
    assert_eq!(
        body(Provider::OpenAi),
        concat!(
            r#"{"model":"m","messages":[{"role":"system","content":"s"},"#,
            r#"{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"id":"c1","#,
            r#""type":"function","function":{"name":"echo","arguments":"{\"n\":1.0}"}}]},"#,
            r#"{"role":"tool","content":"one","tool_call_id":"c1"}],"tools":[{"type":"function","#,
            r#""function":{"name":"echo","description":"d","parameters":{"type":"object"}}}],"#,
            r#""max_tokens":100,"stream":true,"stream_options":{"include_usage":true}}"#
        )
    );
}

#[test]
fn a_conversation_has_the_shape_of_anthropic_messages() {
    assert_eq!(
        body(Provider::Anthropic),
        concat!(
            r#"{"model":"m","max_tokens":100,"system":"s","messages":[{"role":"user","content":"#,
            r#"[{"type":"text","text":"hi"}]},{"role":"assistant","content":[{"type":"tool_use","#,
            r#""id":"c1","name":"echo","input":{"n":1.0}}]},{"role":"user","content":[{"type":"#,
            r#""tool_result","tool_use_id":"c1","content":"one","is_error":true}]}],"tools":"#,
            r#"[{"name":"echo","description":"d","input_schema":{"type":"object"}}],"stream":true}"#
        )
    );
}

fn assemble(provider: Provider, events: &[&str]) -> Result<(String, Turn), ModelError> {
    let mut assembly: Box<dyn Assembly> = match provider {
        Provider::OpenAi => Box::<openai::Assembled>::default(),
        Provider::Anthropic => Box::<anthropic::Assembled>::default(),
    };
    let mut said = String::new();
    for event in events {
        said.push_str(&assembly.event(event)?.unwrap_or_default());
    }
    Ok((said, assembly.finish()?))
}

const OPENAI: &[&str] = &[
    r#"{"choices":[{"delta":{"role":"assistant","content":"I "}}]}"#,
    r#"{"choices":[{"delta":{"content":"look"}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"echo","arguments":"{\"a\""}}]}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"c2","function":{"name":"echo","arguments":""}}]}}]}"#,
    r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}}]}"#,
    r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
    r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#,
    "[DONE]",
];

const ANTHROPIC: &[&str] = &[
    r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"output_tokens":1}}}"#,
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    r#"{"type":"ping"}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"I look"}}"#,
    r#"{"type":"content_block_stop","index":0}"#,
    r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"c1","name":"echo","input":{}}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
    r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"c2","name":"echo","input":{}}}"#,
    r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":3}}"#,
    r#"{"type":"message_stop"}"#,
];

#[test]
fn an_answer_is_put_together_alike_in_both_shapes() {
    for (provider, events) in [(Provider::OpenAi, OPENAI), (Provider::Anthropic, ANTHROPIC)] {
        let (said, turn) = assemble(provider, events).unwrap();
        assert_eq!((said.as_str(), turn.text.as_str()), ("I look", "I look"));
        let calls: Vec<_> = turn
            .calls
            .iter()
            .map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.get()))
            .collect();
        assert_eq!(calls, [("c1", "echo", r#"{"a":1}"#), ("c2", "echo", "{}")]);
        assert_eq!(turn.usage, Usage { input_tokens: 7, output_tokens: 3 });
    }
}

#[test]
fn an_answer_that_stops_in_the_middle_is_none() {
    for (provider, events) in [(Provider::OpenAi, OPENAI), (Provider::Anthropic, ANTHROPIC)] {
        let cut = events.get(..3).unwrap();
        assert!(matches!(assemble(provider, cut), Err(ModelError::CutOff)), "{provider:?}");
    }
}

#[test]
fn rubbish_and_failures_in_a_stream_are_errors() {
    for provider in [Provider::OpenAi, Provider::Anthropic] {
        assert!(matches!(assemble(provider, &["{"]), Err(ModelError::Rubbish { .. })));
        let failed = [r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#];
        let failed = assemble(provider, &failed);
        assert!(matches!(failed, Err(ModelError::Failed { message }) if message == "busy"));
    }
    let far = [r#"{"choices":[{"delta":{"tool_calls":[{"index":4000000000}]}}]}"#];
    assert!(matches!(assemble(Provider::OpenAi, &far), Err(ModelError::Rubbish { .. })));
    let far = [r#"{"type":"content_block_start","index":9,"content_block":{"type":"text"}}"#];
    assert!(matches!(assemble(Provider::Anthropic, &far), Err(ModelError::Rubbish { .. })));
    let no_name = [
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"c","name":""}}"#,
        r#"{"type":"message_stop"}"#,
    ];
    assert!(matches!(assemble(Provider::Anthropic, &no_name), Err(ModelError::Rubbish { .. })));
    let no_name =
        [r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]},"finish_reason":"tool_calls"}]}"#];
    assert!(matches!(assemble(Provider::OpenAi, &no_name), Err(ModelError::Rubbish { .. })));
}

#[test]
fn an_answer_without_end_is_given_up() {
    let piece = "x".repeat(1024 * 1024);
    let openai = format!(r#"{{"choices":[{{"delta":{{"content":"{piece}"}}}}]}}"#);
    let events = [openai.as_str(); 5];
    assert!(matches!(assemble(Provider::OpenAi, &events), Err(ModelError::TooLong)));
}

#[test]
fn arguments_that_are_no_json_are_kept_as_text() {
    assert_eq!(arguments("{\"a\":1.0}").get(), "{\"a\":1.0}");
    assert_eq!(arguments("").get(), "{}");
    assert_eq!(arguments("{oops").get(), "\"{oops\"");
}

#[test]
fn what_a_provider_says_is_shown_on_one_short_line() {
    assert_eq!(message_of(r#"{"error":{"message":"no\nkey"}}"#), "no key");
    assert_eq!(message_of("<html>"), "<html>");
    assert!(message_of(&"x".repeat(10_000)).len() <= 300);
}
