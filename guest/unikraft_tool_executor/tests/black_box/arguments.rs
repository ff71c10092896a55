//! What tools say to arguments that are wrong.

use crate::support::call;
use osvm_protocol::code::{INTERNAL_ERROR, INVALID_PARAMS, NETWORK_NOT_GRANTED, TOOL_FAILED};
use serde_json::{Value, json};
use unikraft_tool_executor::manifest_json;

/// A transfer of one lamport, not signed yet.
const TRANSACTION: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAEDiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1yBOXcOqH0XX1ajVGbDTH7My42KkbTuN6Jd9g9bj8mzlAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAgIAAQwCAAAAAQAAAAAAAAA=";

const ADDRESS: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

#[test]
fn arguments_of_echo_that_do_not_fit_are_named() {
    check("system", "echo", json!({}), "wrong argument `text`: it is missing");
    check("system", "echo", json!({"text": 5}), "wrong argument `text`: not a string");
    check("system", "echo", json!({"text": null}), "wrong argument `text`: not a string");
    check(
        "system",
        "echo",
        json!({"text": "", "more": 1}),
        "wrong arguments: unknown field `more`, there is text",
    );
    check("system", "echo", json!(5), "wrong arguments: not an object");
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    check(
        "system",
        "guest_info",
        json!({"x": 1}),
        "wrong arguments: unknown field `x`, there is none",
    );
    check(
        "solana",
        "derive_address",
        json!({"program_id": ADDRESS, "seeds": [], "bump": 256}),
        "wrong argument `bump`: not a whole number from 0 to 255",
    );
    check(
        "solana",
        "derive_address",
        json!({"program_id": ADDRESS, "seeds": [{"hex": "0"}]}),
        "wrong argument `seeds[0].hex`: not an even number of hexadecimal digits",
    );
    for seeds in [json!([{}]), json!([{"utf8": "", "hex": ""}])] {
        check(
            "solana",
            "derive_address",
            json!({"program_id": ADDRESS, "seeds": seeds}),
            "wrong argument `seeds`: seed 0 is not written in one way",
        );
    }
    check(
        "solana",
        "derive_address",
        json!({"program_id": ADDRESS}),
        "wrong argument `seeds`: it is missing",
    );
    check("solana", "derive_address", json!([]), "wrong arguments: not an object");
    check(
        "solana",
        "derive_address",
        json!({"seeds": [], "program_id": "0"}),
        "wrong argument `program_id`: not an address: character `0` is not base58",
    );
    check(
        "solana",
        "verify_signature",
        json!({"message": "", "signature": "abc", "public_key": ADDRESS}),
        "wrong argument `signature`: not a signature: neither base58 nor base64 of 64 bytes",
    );
    check(
        "solana",
        "decode_transaction",
        json!({"transaction": "", "encoding": "hex"}),
        "wrong argument `encoding`: `hex` is none of `base58`, `base64`",
    );
    check(
        "solana",
        "decode_transaction",
        json!({"transaction": "*"}),
        "wrong argument `transaction`: neither base64 nor base58: character `*` is not base58",
    );
}

#[test]
fn arguments_may_be_missing_where_none_are_needed() {
    let answers = crate::support::converse(&[
        br#"{"jsonrpc":"2.0","id":1,"server_id":"system","method":"guest_info"}"#,
    ]);
    assert!(answers[0].get("result").is_some());
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let code = |server: &str, tool: &str, params: String| {
        let request = format!(
            r#"{{"jsonrpc":"2.0","id":1,"server_id":"{server}","method":"{tool}","params":{params}}}"#
        );
        crate::support::converse(&[request.as_bytes()]).last().unwrap()["error"]["code"]
            .as_i64()
            .unwrap()
    };
    assert_eq!(code("system", "echo", deep.clone()), INVALID_PARAMS);
    assert_eq!(code("system", "echo", format!(r#"{{"text":{deep}}}"#)), INVALID_PARAMS);
    assert_eq!(code("system", "echo", format!(r#"{{"text":"","x":{deep}}}"#)), INVALID_PARAMS);
    assert_eq!(code("solana", "derive_address", format!(r#"{{"seeds":{deep}}}"#)), INVALID_PARAMS);
    let call = format!(r#"{{"method":"getSlot","params":{deep}}}"#);
    assert_eq!(code("osvm-mcp", "solana_rpc_call", call), INTERNAL_ERROR, "nobody to ask");
}

#[test]
fn what_is_understood_and_wrong_fails_in_the_tool() {
    let fails = |tool: &str, arguments: Value, expected: &str| {
        let (code, message) = call("solana", tool, &arguments).unwrap_err();
        assert_eq!((code, message.as_str()), (TOOL_FAILED, expected));
    };
    fails(
        "decode_transaction",
        json!({"transaction": "AA=="}),
        "`transaction`: message cannot be read: the bytes end early or a length is malformed",
    );
    fails(
        "decode_transaction",
        json!({"transaction": "2222"}),
        "`transaction`: as base64: list of signatures cannot be read: the bytes end early or a \
         length is malformed; as base58: list of signatures cannot be read: the bytes end early \
         or a length is malformed",
    );
    fails(
        "derive_address",
        json!({"program_id": ADDRESS, "seeds": [{"utf8": "x".repeat(33)}]}),
        "seed 0 is 33 bytes long, the limit is 32",
    );
    fails(
        "derive_address",
        json!({"program_id": ADDRESS, "seeds": vec![json!({"utf8": ""}); 16]}),
        "16 seeds and a bump are over the limit of 16 seeds",
    );
    fails(
        "decode_token_account",
        json!({"data": "aGk="}),
        "`data`: 2 bytes are not a token account (165), a mint (82), a multisig (355) or one of \
         the first two with extensions (over 165, at most 65536)",
    );
}

#[test]
fn what_is_no_address_is_a_verdict_and_not_an_error() {
    let verdict = |address: &str| {
        let verdict = call("solana", "validate_address", &json!({ "address": address })).unwrap();
        assert_eq!(verdict["valid"], false);
        verdict["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(""), "0 bytes long, an address has 32");
    assert_eq!(verdict(&ADDRESS[1..]), "31 bytes long, an address has 32");
    assert_eq!(
        verdict("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5Dl"),
        "character `l` is not base58"
    );
    assert_eq!(verdict(&"1".repeat(45)), "45 base58 digits are over the limit of 44");
}

/// Arguments a tool of the network takes.
fn good_arguments(schema: &Value) -> Value {
    let signature = bs58::encode([1; 64]).into_string();
    let mut arguments = json!({});
    for name in schema["required"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        arguments[name] = match name {
            "signature" => json!(signature),
            "slot" | "lamports" | "size_bytes" => json!(5),
            "addresses" => json!([ADDRESS]),
            "method" => json!("getSlot"),
            "transaction" => json!(TRANSACTION),
            _ => json!(ADDRESS),
        };
    }
    arguments
}

#[test]
fn tools_that_need_the_network_check_their_arguments_and_then_refuse() {
    let manifest: Vec<Value> = serde_json::from_str(&manifest_json()).unwrap();
    let networked: Vec<_> = manifest.iter().filter(|tool| tool["needsNetwork"] == true).collect();
    assert_eq!(networked.len(), 20);
    for tool in networked {
        let (server, name) = (tool["server"].as_str().unwrap(), tool["name"].as_str().unwrap());
        let schema = jsonschema::draft202012::new(&tool["inputSchema"]).unwrap();
        let mut arguments = good_arguments(&tool["inputSchema"]);
        schema.validate(&arguments).unwrap();
        let (code, message) = call(server, name, &arguments).unwrap_err();
        if name == "request_airdrop" {
            // The default is the main network, where there is nothing to ask for.
            assert_eq!(code, TOOL_FAILED, "{message}");
        } else {
            assert_eq!(code, NETWORK_NOT_GRANTED, "{name}: {message}");
            assert!(message.contains("`network_enabled`"), "{message}");
            assert!(message.ends_with(": `host/http` is refused"), "{message}");
        }

        for required in tool["inputSchema"]["required"].as_array().unwrap() {
            let mut wrong = arguments.clone();
            wrong[required.as_str().unwrap()] = json!({});
            let (code, message) = call(server, name, &wrong).unwrap_err();
            assert_eq!(code, INVALID_PARAMS, "{name}");
            assert!(
                message.starts_with(&format!("wrong argument `{}`:", required.as_str().unwrap())),
                "{message}"
            );
        }
        arguments["surplus"] = json!(1);
        let (code, message) = call(server, name, &arguments).unwrap_err();
        assert_eq!(code, INVALID_PARAMS, "{name}");
        assert!(message.contains("`surplus`"), "{message}");
    }
}

#[test]
fn limits_of_networked_tools_are_those_of_their_schemas() {
    let bad = |tool: &str, arguments: Value, name: &str| {
        let (code, message) = call("solana", tool, &arguments).unwrap_err();
        assert_eq!(code, INVALID_PARAMS, "{message}");
        assert!(message.starts_with(&format!("wrong argument `{name}`: ")), "{message}");
    };
    bad("get_signatures_for_address", json!({"address": ADDRESS, "limit": 1001}), "limit");
    bad("get_multiple_accounts", json!({"addresses": vec![ADDRESS; 101]}), "addresses");
    bad("get_minimum_balance_for_rent_exemption", json!({"size_bytes": 10_485_761}), "size_bytes");
    bad(
        "get_program_accounts",
        json!({"program_id": ADDRESS, "filters": [{"size": 1}]}),
        "filters",
    );
    bad(
        "get_program_accounts",
        json!({"program_id": ADDRESS, "filters": vec![json!({"data_size": 1}); 5]}),
        "filters",
    );
    bad(
        "get_program_accounts",
        json!({"program_id": ADDRESS, "filters": [{"memcmp": {"offset": -1, "bytes": ""}}]}),
        "filters",
    );
    bad(
        "get_account_info",
        json!({"address": ADDRESS, "data_slice": {"offset": 0, "length": 10_485_761}}),
        "data_slice",
    );
    bad("get_block", json!({"slot": 1.5}), "slot");
    bad("get_block", json!({"slot": 1, "transaction_details": "some"}), "transaction_details");
    bad(
        "get_token_accounts",
        json!({"owner": ADDRESS, "mint": ADDRESS, "program_id": ADDRESS}),
        "program_id",
    );
    bad("simulate_transaction", json!({"transaction": TRANSACTION, "sig_verify": 1}), "sig_verify");
    bad("get_slot", json!({"commitment": "sure"}), "commitment");
    bad("request_airdrop", json!({"address": ADDRESS, "lamports": 0}), "lamports");
}

#[track_caller]
fn check(server: &str, tool: &str, arguments: Value, expected: &str) {
    let (code, message) = call(server, tool, &arguments).unwrap_err();
    assert_eq!((code, message.as_str()), (INVALID_PARAMS, expected));
}
