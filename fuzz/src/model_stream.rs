//! Bytes of a model's provider: a stream is an answer or an error wherever it is cut into pieces,
//! and an answer is what was said on the way, with arguments that are JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_agent::{MAX_TURN, ModelError, Provider, Reading, Turn};

fuzz_target!(|bytes: &[u8]| {
    let (size, bytes) = bytes.split_first().unwrap_or((&1, &[]));
    let text = String::from_utf8_lossy(bytes);
    for provider in [Provider::OpenAi, Provider::Anthropic] {
        let (said, turn) = read(provider, [&*text].into_iter());
        let (said_slowly, slowly) = read(provider, pieces(&text, usize::from(*size).max(1)));
        assert_eq!(said, said_slowly);
        match (turn, slowly) {
            (Ok(turn), Ok(slowly)) => {
                assert_eq!(turn.text, said);
                assert_eq!(format!("{turn:?}"), format!("{slowly:?}"));
                check(&turn);
            }
            (Err(error), Err(slowly)) => assert_eq!(error.to_string(), slowly.to_string()),
            (turn, slowly) => panic!("{turn:?}, in pieces {slowly:?}"),
        }
    }
});

fn read<'t>(
    provider: Provider,
    pieces: impl Iterator<Item = &'t str>,
) -> (String, Result<Turn, ModelError>) {
    let (mut reading, mut said) = (Reading::new(provider), String::new());
    for piece in pieces {
        if let Err(error) = reading.take(piece, &mut |text| said.push_str(text)) {
            return (said, Err(error));
        }
    }
    (said, reading.finish())
}

/// `text` in pieces of some `size` bytes, no letter of it cut.
fn pieces(mut text: &str, size: usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let first = text.chars().next()?;
        let (piece, rest) = text.split_at(text.floor_char_boundary(size).max(first.len_utf8()));
        text = rest;
        Some(piece)
    })
}

fn check(turn: &Turn) {
    let calls = turn.calls.iter().map(|call| call.name.len() + call.arguments.get().len());
    // Arguments that are no JSON are kept as a JSON string, which can be longer.
    assert!(turn.text.len() + calls.sum::<usize>() <= MAX_TURN * 6);
    for call in &turn.calls {
        assert!(!call.name.is_empty());
        let arguments = call.arguments.get();
        serde_json::from_str::<serde_json::Value>(arguments).unwrap();
    }
}
