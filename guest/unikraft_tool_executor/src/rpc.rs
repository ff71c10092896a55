//! Asks a Solana node: JSON-RPC 2.0 over HTTP.
//!
//! Which node, the environment of the guest says: `SOLANA_RPC_URL`.
//!
//! # Invariants
//!
//! - Whatever a node or something on the way to it answers, the caller gets a result that JSON-RPC
//!   calls one, or an error that says who failed.

use crate::answer::{self, Part};
use crate::context::Context;
use crate::http::{self, Response};
use crate::json::{self, Array};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use osvm_protocol::code::{INVALID_PARAMS, TOOL_FAILED};
use osvm_protocol::message::RpcError;

/// The variable that names the node.
const VARIABLE: &str = "SOLANA_RPC_URL";

/// The node that is asked when the environment names none.
const MAINNET_BETA: &str = "https://api.mainnet-beta.solana.com";

/// Longest beginning of a body that an error shows, in bytes.
const EXCERPT: usize = 200;

/// Longest error of a node that is passed on, in bytes: logs of a failed simulation are among it.
const MAX_ERROR: usize = 64 * 1024;

/// The address of the node.
pub(crate) fn url<'a>(context: &Context<'a>) -> &'a str {
    context.env(VARIABLE).filter(|url| !url.is_empty()).unwrap_or(MAINNET_BETA)
}

/// Sends one request, whose positional parameters `params` writes, and hands the result to `then`.
pub(crate) fn ask(
    context: &mut Context<'_>,
    method: &str,
    params: &dyn Fn(&mut Array<'_>),
    then: &mut dyn FnMut(Part<'_>) -> Result<(), RpcError>,
) -> Result<(), RpcError> {
    let request = json::text_of(|o| {
        o.text("jsonrpc", "2.0");
        o.number("id", 1);
        o.text("method", method);
        o.array("params", params);
    });
    let request =
        request.ok_or_else(|| RpcError::new(INVALID_PARAMS, "the parameters are too long"))?;
    let Response { status, body } = http::post_json(context, url(context), &request)?;
    // A node that refuses (too many requests, a wrong key) may still say why in JSON-RPC.
    match (status, result(&body)) {
        (200, Ok(result)) => then(result),
        (_, Err(Failure::Error(error))) => Err(error),
        (200, Err(Failure::Rubbish)) => {
            Err(failed(format!("the node's answer is not JSON-RPC: {}", excerpt(&body))))
        }
        (status, _) => {
            Err(failed(format!("the node answered with HTTP status {status}: {}", excerpt(&body))))
        }
    }
}

/// Why there is no result.
enum Failure {
    /// The node says why.
    Error(RpcError),
    /// The body is no answer to a request.
    Rubbish,
}

fn result(body: &str) -> Result<Part<'_>, Failure> {
    let parts = answer::parts_of(body, ["result", "error"]);
    let [result, error] = parts.map_err(|_| Failure::Rubbish)?;
    if !error.is_nothing() {
        return Err(Failure::Error(said(error).ok_or(Failure::Rubbish)?));
    }
    if result.is_missing() { Err(Failure::Rubbish) } else { Ok(result) }
}

/// The error of a node, with its code and in its words. All of it is in `data`.
fn said(error: Part<'_>) -> Option<RpcError> {
    let [code, message] = error.parts(["code", "message"]).ok()?;
    let (code, message) = (code.raw().get(), message.text().ok()?);
    if !code.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
        return None;
    }
    let raw = error.raw();
    let data = (raw.get().len() <= MAX_ERROR).then(|| raw.to_owned());
    let message = format!("the node refuses with code {code}: {}", cut(&message, 1024));
    Some(RpcError { code: TOOL_FAILED, message, data })
}

fn failed(message: String) -> RpcError {
    RpcError::new(TOOL_FAILED, message)
}

/// The beginning of a body, for people.
fn excerpt(body: &str) -> String {
    match body.trim() {
        "" => "nothing".to_owned(),
        body => format!("`{}`", cut(body, EXCERPT)),
    }
}

fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

/// Whether a node is one of a test network, where lamports are handed out: one on this host, or
/// one whose name says `devnet` or `testnet`.
pub(crate) fn is_test_network(url: &str) -> bool {
    let Some((_, rest)) = url.split_once(':') else { return false };
    let Some(rest) = rest.strip_prefix("//") else { return false };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    // What stands before an `@` is no host, however much it looks like one.
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let mut labels = host.split(['.', '-']);
    let is = |label: &str, name: &str| label.eq_ignore_ascii_case(name);
    let on_this_host = is(host, "localhost")
        || host == "::1"
        || host.starts_with("127.") && host.bytes().all(|b| b == b'.' || b.is_ascii_digit());
    let main = labels.clone().any(|label| is(label, "mainnet"));
    on_this_host || !main && labels.any(|label| is(label, "devnet") || is(label, "testnet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(body: &str) -> Result<String, String> {
        match result(body) {
            Ok(part) => Ok(part.raw().get().into()),
            Err(Failure::Error(error)) => Err(error.message),
            Err(Failure::Rubbish) => Err("rubbish".into()),
        }
    }

    #[test]
    fn a_result_is_passed_on_whatever_it_is() {
        assert_eq!(outcome(r#"{"jsonrpc":"2.0","id":1,"result":[1.5]}"#), Ok("[1.5]".into()));
        assert_eq!(outcome(r#"{"result":null}"#), Ok("null".into()));
        assert_eq!(outcome(r#"{"result":1,"error":null}"#), Ok("1".into()));
    }

    #[test]
    fn an_error_is_passed_on_with_its_code() {
        let said = r#"{"error":{"code":-32602,"message":"bad\n","data":{"logs":[]}}}"#;
        assert_eq!(outcome(said), Err("the node refuses with code -32602: bad\n".into()));
        let Err(Failure::Error(error)) = result(said) else { panic!("no error") };
        assert_eq!(
            error.data.unwrap().get(),
            r#"{"code":-32602,"message":"bad\n","data":{"logs":[]}}"#
        );
    }

    #[test]
    fn what_is_neither_is_rubbish() {
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            "{\"result\":1}x",
            r#"{"error":5}"#,
            r#"{"error":{"code":"x","message":""}}"#,
        ] {
            assert_eq!(outcome(body), Err("rubbish".into()), "{body}");
        }
    }

    #[test]
    fn only_test_networks_hand_out_lamports() {
        for url in [
            "https://api.devnet.solana.com",
            "https://api.testnet.solana.com/x?y",
            "http://127.0.0.1:8899",
            "http://127.8.8.8",
            "http://LOCALHOST:8899/",
            "http://[::1]:8899",
            "https://my-devnet.example.com/key",
        ] {
            assert!(is_test_network(url), "{url}");
        }
        for url in [
            MAINNET_BETA,
            "https://devnet@api.mainnet-beta.solana.com",
            "https://localhost:x@api.mainnet-beta.solana.com",
            "https://api.mainnet-beta.solana.com/devnet",
            "https://api.mainnet-beta.solana.com\\.devnet.solana.com",
            "https://devnet.mainnet.example.com",
            "https://notdevnet.example.com",
            "https://localhost.example.com",
            "127.0.0.1",
            "",
        ] {
            assert!(!is_test_network(url), "{url}");
        }
    }
}
