//! Tools that ask a Solana node, with a host and a node that the test plays.

use crate::support::{Served, call_with, facts};
use osvm_protocol::code::{HOST_METHOD_DENIED, INVALID_PARAMS, NETWORK_NOT_GRANTED, TOOL_FAILED};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use unikraft_tool_executor::Facts;

const ADDRESS: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";
const SYSTEM: &str = "11111111111111111111111111111111";
const DEVNET: &str = "https://api.devnet.solana.com";

type Outcome = Result<Value, (i64, String, Value)>;

/// Calls a tool in a guest whose node is `DEVNET`.
fn call(
    host: impl FnMut(&str, &Value) -> Served,
    tool: (&str, &str),
    arguments: &Value,
) -> Outcome {
    let env = [(Cow::Borrowed("SOLANA_RPC_URL"), Cow::Borrowed(DEVNET))];
    let facts = Facts { env: &env, ..facts() };
    call_with(&facts, host, tool.0, tool.1, arguments)
}

/// Calls a tool of server `solana` whose node answers one request with this result.
///
/// Checks that the request was the expected one.
#[track_caller]
fn node(tool: &str, arguments: Value, expected: (&str, Value), result: &Value) -> Outcome {
    let mut asked = 0;
    let outcome = call(
        |method, params| {
            asked += 1;
            assert_eq!(method, "host/http");
            assert_eq!(params["method"], "POST");
            assert_eq!(params["url"], DEVNET);
            assert_eq!(params["headers"], json!({"content-type": "application/json"}));
            let body: Value = serde_json::from_str(params["body"].as_str().unwrap()).unwrap();
            let (method, params) = &expected;
            assert_eq!(
                body,
                json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            );
            let answer = json!({"jsonrpc": "2.0", "id": 1, "result": result});
            Ok(json!({"status": 200, "headers": {}, "body": answer.to_string()}))
        },
        ("solana", tool),
        &arguments,
    );
    assert_eq!(asked, 1, "{outcome:?}");
    outcome
}

/// What becomes of `get_slot` when the host answers this.
fn get_slot(host: impl FnMut(&str, &Value) -> Served) -> Outcome {
    call(host, ("solana", "get_slot"), &json!({}))
}

/// What becomes of `get_slot` when the server answers with this status and body.
fn slot_from(status: u16, body: &str) -> Outcome {
    get_slot(|_, _| Ok(json!({"status": status, "headers": {}, "body": body})))
}

#[track_caller]
fn fails(outcome: Outcome, code: i64, message: &str) {
    let (got_code, got, _) = outcome.unwrap_err();
    assert_eq!((got_code, got.as_str()), (code, message));
}

fn at_slot(value: Value) -> Value {
    json!({"context": {"apiVersion": "2.3.1", "slot": 77}, "value": value})
}

/// A signed transaction in base64, its first signature, and what decoding it gives.
fn signed() -> (Value, Value, Value) {
    let file: Value = serde_json::from_str(include_str!("../vectors/transactions.json")).unwrap();
    let vectors = file["transactions"].as_array().unwrap();
    let good = |vector: &&Value| vector["expect"]["signatures_valid"] == true;
    let vector = vectors.iter().find(good).unwrap();
    let mut decoded = vector["expect"].clone();
    decoded["encoding"] = "base64".into();
    (vector["base64"].clone(), decoded["signatures"][0]["signature"].clone(), decoded)
}

#[test]
fn a_balance_is_exact_in_lamports_and_in_sol() {
    for (lamports, sol) in [(0, "0"), (1_500_000_000, "1.5"), (u64::MAX, "18446744073.709551615")] {
        let balance = node(
            "get_balance",
            json!({"address": ADDRESS, "commitment": "confirmed"}),
            ("getBalance", json!([ADDRESS, {"commitment": "confirmed"}])),
            &at_slot(json!(lamports)),
        );
        let expected = json!({"balance": lamports, "decimals": 9, "sol": sol, "slot": 77});
        assert_eq!(balance, Ok(expected));
    }
}

#[test]
fn without_a_setting_the_main_network_is_asked() {
    let host = |_: &str, params: &Value| {
        assert_eq!(params["url"], "https://api.mainnet-beta.solana.com");
        let body = json!({"result": at_slot(json!(5))}).to_string();
        Ok(json!({"status": 200, "body": body}))
    };
    let balance =
        call_with(&facts(), host, "osvm-mcp", "get_solana_balance", &json!({"address": ADDRESS}));
    assert_eq!(balance.unwrap()["sol"], "0.000000005");
}

#[test]
fn a_transaction_is_decoded_and_says_what_came_of_it() {
    let (transaction, signature, decoded) = signed();
    let asked = json!([signature, {"encoding": "base64", "maxSupportedTransactionVersion": 0}]);
    let arguments = json!({ "signature": signature });
    let result = json!({
        "slot": 9, "blockTime": null, "transaction": [transaction, "base64"], "version": 0,
        "meta": {"err": {"InstructionError": [0, {"Custom": 1}]}, "fee": 5000, "logMessages": ["a", "b"],
            "preBalances": [18_446_744_073_709_551_615_u64]},
    });
    let answer =
        node("get_transaction", arguments.clone(), ("getTransaction", asked.clone()), &result);
    let expected = json!({
        "slot": 9, "block_time": null, "error": {"InstructionError": [0, {"Custom": 1}]},
        "fee": 5000, "logs": ["a", "b"], "transaction": decoded,
    });
    assert_eq!(answer, Ok(expected));
    fails(
        node("get_transaction", arguments.clone(), ("getTransaction", asked.clone()), &Value::Null),
        TOOL_FAILED,
        "the node knows no such transaction, or not with this commitment",
    );
    let mut other = result.clone();
    other["transaction"] = json!(["AA==", "base64"]);
    fails(
        node("get_transaction", arguments, ("getTransaction", asked), &other),
        TOOL_FAILED,
        "`transaction`: message cannot be read: the bytes end early or a length is malformed",
    );
    let unknown = bs58::encode([1; 64]).into_string();
    fails(
        node(
            "get_transaction",
            json!({ "signature": unknown }),
            (
                "getTransaction",
                json!([unknown, {"encoding": "base64", "maxSupportedTransactionVersion": 0}]),
            ),
            &result,
        ),
        TOOL_FAILED,
        "answer cannot be understood: `transaction` is not the one that was asked for",
    );
}

#[test]
fn accounts_come_with_their_data_or_a_slice_of_it() {
    let account = json!({
        "lamports": 1, "owner": SYSTEM, "executable": false, "data": ["aGk=", "base64"],
        "rentEpoch": 18_446_744_073_709_551_615_u64, "space": 2,
    });
    let shown = json!({
        "address": ADDRESS, "lamports": 1, "owner": SYSTEM, "executable": false, "size_bytes": 2,
        "data_base64": "aGk=",
    });
    let asked = ("getAccountInfo", json!([ADDRESS, {"encoding": "base64"}]));
    let arguments = json!({"address": ADDRESS});
    let answer =
        node("get_account_info", arguments.clone(), asked.clone(), &at_slot(account.clone()));
    assert_eq!(answer, Ok(json!({"slot": 77, "account": shown})));
    let answer = node("get_account_info", arguments, asked, &at_slot(Value::Null));
    assert_eq!(answer, Ok(json!({"slot": 77, "account": null})));

    let slice = json!({"offset": 0, "length": 2});
    let answer = node(
        "get_multiple_accounts",
        json!({"addresses": [ADDRESS, SYSTEM], "data_slice": slice}),
        (
            "getMultipleAccounts",
            json!([[ADDRESS, SYSTEM], {"encoding": "base64", "dataSlice": slice}]),
        ),
        &at_slot(json!([account, null])),
    );
    assert_eq!(answer, Ok(json!({"slot": 77, "accounts": [shown, null]})));
    for answered in [json!([account]), json!([account, null, null])] {
        fails(
            node(
                "get_multiple_accounts",
                json!({"addresses": [ADDRESS, SYSTEM]}),
                ("getMultipleAccounts", json!([[ADDRESS, SYSTEM], {"encoding": "base64"}])),
                &at_slot(answered),
            ),
            TOOL_FAILED,
            "answer cannot be understood: `value` is not as long as asked for",
        );
    }
    // A node too old to tell the size: without a slice it shows, with one it does not.
    let mut old = account.clone();
    old.as_object_mut().unwrap().remove("space");
    for (slice, size) in [(Value::Null, json!(2)), (slice, Value::Null)] {
        let mut settings = json!({"encoding": "base64"});
        if !slice.is_null() {
            settings["dataSlice"] = slice.clone();
        }
        let answer = node(
            "get_account_info",
            json!({"address": ADDRESS, "data_slice": slice}),
            ("getAccountInfo", json!([ADDRESS, settings])),
            &at_slot(old.clone()),
        );
        assert_eq!(answer.unwrap()["account"]["size_bytes"], size);
    }
}

#[test]
fn of_a_program_with_many_accounts_the_first_are_listed_and_all_are_counted() {
    let one = json!({"pubkey": ADDRESS, "account": {
        "lamports": 1, "owner": SYSTEM, "executable": true, "data": ["", "base64"], "space": 0}});
    let answer = node(
        "get_program_accounts",
        json!({"program_id": SYSTEM, "limit": 2, "filters": [{"data_size": 165}, {"memcmp": {"offset": 4, "bytes": "3Mc"}}]}),
        ("getProgramAccounts", json!([SYSTEM, {"encoding": "base64", "withContext": true,
            "filters": [{"dataSize": 165}, {"memcmp": {"offset": 4, "bytes": "3Mc"}}]}])),
        &at_slot(json!(vec![one; 5])),
    )
    .unwrap();
    assert_eq!(
        (answer["total"].clone(), answer["accounts"].as_array().unwrap().len()),
        (json!(5), 2)
    );
}

#[test]
fn token_amounts_stay_text() {
    let info = json!({"mint": SYSTEM, "owner": ADDRESS, "state": "initialized",
        "tokenAmount": {"amount": "18446744073709551615", "decimals": 6, "uiAmount": 1.8e13}});
    let account = json!({"pubkey": ADDRESS, "account": {"data": {"program": "spl-token",
        "parsed": {"type": "account", "info": info}}, "lamports": 1}});
    for (arguments, filter) in [
        (json!({"owner": SYSTEM}), json!({"programId": ADDRESS})),
        (json!({"owner": SYSTEM, "mint": ADDRESS}), json!({"mint": ADDRESS})),
        (json!({"owner": SYSTEM, "program_id": SYSTEM}), json!({"programId": SYSTEM})),
    ] {
        let answer = node(
            "get_token_accounts",
            arguments,
            ("getTokenAccountsByOwner", json!([SYSTEM, filter, {"encoding": "jsonParsed"}])),
            &at_slot(json!([account])),
        );
        let expected = json!({"address": ADDRESS, "mint": SYSTEM,
            "amount": "18446744073709551615", "decimals": 6, "state": "initialized"});
        assert_eq!(answer, Ok(json!({"slot": 77, "accounts": [expected]})));
    }
    let supply = |amount: Value| {
        node(
            "get_token_supply",
            json!({"mint": ADDRESS}),
            ("getTokenSupply", json!([ADDRESS, {}])),
            &at_slot(json!({"amount": amount, "decimals": 9, "uiAmountString": "0"})),
        )
    };
    assert_eq!(supply(json!("7")), Ok(json!({"slot": 77, "amount": "7", "decimals": 9})));
    for odd in [json!(7), json!("7.5"), json!("+7"), json!("-1"), json!("")] {
        assert!(
            supply(odd).unwrap_err().1.starts_with("answer cannot be understood: `amount` is not")
        );
    }
}

#[test]
fn signatures_are_listed_with_their_errors() {
    let signature = bs58::encode([7; 64]).into_string();
    let answer = node(
        "get_signatures_for_address",
        json!({"address": ADDRESS, "limit": 2, "before": signature}),
        ("getSignaturesForAddress", json!([ADDRESS, {"limit": 2, "before": signature}])),
        &json!([{"signature": signature, "slot": 1, "err": "AccountInUse", "memo": "[2] hi", "blockTime": 5, "confirmationStatus": "finalized"}]),
    );
    let expected = json!({"signature": signature, "slot": 1, "block_time": 5, "error": "AccountInUse", "memo": "[2] hi"});
    assert_eq!(answer, Ok(json!({"signatures": [expected]})));
}

#[test]
fn the_chain_says_where_it_is() {
    let slot = node("get_slot", json!({}), ("getSlot", json!([{}])), &json!(5));
    assert_eq!(slot, Ok(json!({"slot": 5})));
    let height = node("get_block_height", json!({}), ("getBlockHeight", json!([{}])), &json!(4));
    assert_eq!(height, Ok(json!({"block_height": 4})));
    let rent = node(
        "get_minimum_balance_for_rent_exemption",
        json!({"size_bytes": 165}),
        ("getMinimumBalanceForRentExemption", json!([165, {}])),
        &json!(2_039_280),
    );
    assert_eq!(rent, Ok(json!({"lamports": 2_039_280})));
    let epoch = node(
        "get_epoch_info",
        json!({"commitment": "processed"}),
        ("getEpochInfo", json!([{"commitment": "processed"}])),
        &json!({"epoch": 1, "slotIndex": 2, "slotsInEpoch": 3, "absoluteSlot": 4, "blockHeight": 5}),
    );
    let expected = json!({"epoch": 1, "slot_index": 2, "slots_in_epoch": 3, "absolute_slot": 4,
        "block_height": 5, "transaction_count": null});
    assert_eq!(epoch, Ok(expected));
    let hash = |text: &str| {
        node(
            "get_latest_blockhash",
            json!({}),
            ("getLatestBlockhash", json!([{}])),
            &at_slot(json!({"blockhash": text, "lastValidBlockHeight": 8})),
        )
    };
    let expected = json!({"blockhash": SYSTEM, "last_valid_block_height": 8, "slot": 77});
    assert_eq!(hash(SYSTEM), Ok(expected));
    fails(
        hash("no hash"),
        TOOL_FAILED,
        "answer cannot be understood: `blockhash` is not a blockhash",
    );
}

#[test]
fn a_block_has_as_much_in_it_as_was_asked_for() {
    let block = json!({"blockhash": SYSTEM, "previousBlockhash": ADDRESS, "parentSlot": 4,
        "blockHeight": 3, "blockTime": null, "signatures": ["x"], "transactions": [{"meta": null}]});
    for (details, more) in [
        (None, json!({"signatures": ["x"]})),
        (Some("signatures"), json!({"signatures": ["x"]})),
        (Some("none"), json!({})),
        (Some("full"), json!({"transactions": [{"meta": null}]})),
        (Some("accounts"), json!({"transactions": [{"meta": null}]})),
    ] {
        let settings = json!({"encoding": "base64", "transactionDetails": details.unwrap_or("signatures"),
            "maxSupportedTransactionVersion": 0, "rewards": false});
        let mut expected = json!({"blockhash": SYSTEM, "previous_blockhash": ADDRESS, "parent_slot": 4,
            "block_height": 3, "block_time": null});
        expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = node(
            "get_block",
            json!({"slot": 5, "transaction_details": details}),
            ("getBlock", json!([5, settings])),
            &block,
        );
        assert_eq!(answer, Ok(expected));
    }
}

#[test]
fn what_is_sent_is_answered_with_its_own_signature() {
    let (transaction, signature, _) = signed();
    let send = |answered: &Value| {
        node(
            "send_transaction",
            json!({"transaction": transaction, "max_retries": 0}),
            (
                "sendTransaction",
                json!([transaction, {"encoding": "base64", "skipPreflight": false, "maxRetries": 0}]),
            ),
            answered,
        )
    };
    assert_eq!(send(&signature), Ok(json!({ "signature": signature })));
    for other in [json!(bs58::encode([1; 64]).into_string()), json!("x")] {
        fails(
            send(&other),
            TOOL_FAILED,
            "answer cannot be understood: `result` is not the signature of what was sent",
        );
    }
    let simulated = node(
        "simulate_transaction",
        json!({"transaction": transaction, "sig_verify": true}),
        (
            "simulateTransaction",
            json!([transaction, {"encoding": "base64", "sigVerify": true, "replaceRecentBlockhash": false}]),
        ),
        &at_slot(json!({"err": null, "logs": null, "unitsConsumed": 150})),
    );
    let expected = json!({"slot": 77, "error": null, "logs": [], "units_consumed": 150});
    assert_eq!(simulated, Ok(expected));
}

#[test]
fn what_is_no_transaction_is_never_sent() {
    let host = |_: &str, _: &Value| panic!("the node is asked");
    for tool in ["send_transaction", "simulate_transaction"] {
        let (code, ..) = call(host, ("solana", tool), &json!({"transaction": "AA=="})).unwrap_err();
        assert_eq!(code, TOOL_FAILED);
    }
}

#[test]
fn lamports_are_handed_out_on_test_networks_only() {
    let signature = bs58::encode([9; 64]).into_string();
    let answer = node(
        "request_airdrop",
        json!({"address": ADDRESS, "lamports": 10_000_000_000_000_000_000_u64}),
        ("requestAirdrop", json!([ADDRESS, 10_000_000_000_000_000_000_u64, {}])),
        &json!(signature),
    );
    assert_eq!(answer, Ok(json!({ "signature": signature })));
    let host = |_: &str, _: &Value| panic!("the node is asked");
    let arguments = json!({"address": ADDRESS, "lamports": 1});
    let outcome = call_with(&facts(), host, "solana", "request_airdrop", &arguments);
    let (code, message, _) = outcome.unwrap_err();
    assert_eq!(code, TOOL_FAILED);
    assert!(message.starts_with("only test networks hand out lamports"), "{message}");
}

#[test]
fn any_reading_method_can_be_called_and_no_other() {
    let host = |_: &str, params: &Value| {
        let body: Value = serde_json::from_str(params["body"].as_str().unwrap()).unwrap();
        let body = json!({"result": [body["method"], body["params"], 1.5]}).to_string();
        Ok(json!({"status": 200, "body": body}))
    };
    let tool = ("osvm-mcp", "solana_rpc_call");
    let answer = call(host, tool, &json!({"method": "getVersion"}));
    assert_eq!(answer, Ok(json!({"result": ["getVersion", [], 1.5]})));
    let answer =
        call(host, tool, &json!({"method": "getBlocks", "params": [1, {"a": "\n"}, null]}));
    assert_eq!(answer, Ok(json!({"result": ["getBlocks", [1, {"a": "\n"}, null], 1.5]})));
    for method in ["sendTransaction", "requestAirdrop", "getBalance\u{0}", ""] {
        fails(
            call(host, tool, &json!({ "method": method })),
            INVALID_PARAMS,
            "wrong argument `method`: not one of those that only read",
        );
    }
    fails(
        call(host, tool, &json!({"method": "getSlot", "params": {}})),
        INVALID_PARAMS,
        "wrong argument `params`: not a list",
    );
}

#[test]
fn a_refusal_of_the_host_is_passed_on_in_its_words() {
    let missing = "no `egress` rule allows POST https://api.devnet.solana.com/";
    fails(get_slot(|_, _| Err((1001, missing.into()))), NETWORK_NOT_GRANTED, missing);
    let (code, message, _) =
        get_slot(|_, _| Err((HOST_METHOD_DENIED, missing.into()))).unwrap_err();
    assert_eq!(code, NETWORK_NOT_GRANTED);
    assert!(message.starts_with("this tool needs the network") && message.ends_with(missing));
}

#[test]
fn an_error_of_the_node_is_told_with_its_code() {
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"Node is behind by 42 slots","data":{"numSlotsBehind":42}}}"#;
    for status in [200, 429] {
        let (code, message, data) = slot_from(status, body).unwrap_err();
        assert_eq!(code, TOOL_FAILED);
        assert_eq!(message, "the node refuses with code -32005: Node is behind by 42 slots");
        assert_eq!(data["data"], json!({"numSlotsBehind": 42}));
    }
}

#[test]
fn what_is_no_answer_of_a_node_is_shown_in_short() {
    fails(
        slot_from(503, " upstream down\n"),
        TOOL_FAILED,
        "the node answered with HTTP status 503: `upstream down`",
    );
    fails(slot_from(204, ""), TOOL_FAILED, "the node answered with HTTP status 204: nothing");
    fails(
        slot_from(500, r#"{"result":5}"#),
        TOOL_FAILED,
        r#"the node answered with HTTP status 500: `{"result":5}`"#,
    );
    fails(slot_from(200, "<html>"), TOOL_FAILED, "the node's answer is not JSON-RPC: `<html>`");
    let (_, message, _) = slot_from(200, &"ä".repeat(5_000)).unwrap_err();
    assert!(message.len() < 300, "{message}");
    fails(
        slot_from(200, r#"{"result":"5"}"#),
        TOOL_FAILED,
        "answer cannot be understood: `result` is not a whole number",
    );
    let (_, message, _) = get_slot(|_, _| Ok(json!("?"))).unwrap_err();
    assert_eq!(message, "answer cannot be understood: `host/http` is not an object");
    let (_, message, _) = get_slot(|_, _| Ok(json!({"status": "200"}))).unwrap_err();
    assert_eq!(message, "answer cannot be understood: `status` is not a whole number");
}

/// Serves a body in pieces.
fn in_pieces(pieces: Vec<Value>) -> impl FnMut(&str, &Value) -> Served {
    let mut pieces = pieces.into_iter();
    let mut stream = 40;
    move |method, params| {
        let mut answer = pieces.next().unwrap();
        if stream == 40 {
            assert_eq!(method, "host/http");
            answer["status"] = json!(200);
        } else {
            assert_eq!((method, params), ("host/http.read", &json!({ "stream": stream })));
        }
        stream += 1;
        if pieces.len() > 0 {
            answer["more"] = json!(stream);
        }
        Ok(answer)
    }
}

#[test]
fn a_body_may_come_in_pieces_and_in_base64() {
    let pieces = vec![
        json!({"body": "{\"result\""}),
        json!({"body_base64": "Og=="}),
        json!({}),
        json!({"body": "5}"}),
    ];
    assert_eq!(get_slot(in_pieces(pieces)), Ok(json!({"slot": 5})));
    let whole = vec![json!({"body_base64": "eyJyZXN1bHQiOjV9"})];
    assert_eq!(get_slot(in_pieces(whole)), Ok(json!({"slot": 5})));
    fails(
        get_slot(in_pieces(vec![json!({"body_base64": "/w=="})])),
        TOOL_FAILED,
        "the server answered with bytes that are no text",
    );
    fails(
        get_slot(in_pieces(vec![json!({"body_base64": "!"})])),
        TOOL_FAILED,
        "answer cannot be understood: `body_base64` is not base64",
    );
}

#[test]
fn a_body_without_an_end_is_given_up() {
    let piece = "x".repeat(1 << 20);
    let endless = |_: &str, _: &Value| Ok(json!({"status": 200, "body": piece, "more": 1}));
    let (code, message, _) = get_slot(endless).unwrap_err();
    assert_eq!(code, TOOL_FAILED);
    assert!(message.contains("over the limit of 4194304 bytes"), "{message}");
    let (_, message, _) = slot_from(200, &"x".repeat(5 << 20)).unwrap_err();
    assert!(message.contains("over the limit of 4194304 bytes"), "{message}");
}

proptest! {
    #[test]
    fn any_result_is_an_answer_of_the_schema_or_an_error(
        tool in 0..17_usize,
        result in r#"(\{"context":\{"slot":1\},"value":[\[{"a-z0-9:,}\]]{0,20}\}|[\[{}":,0-9a-z\\\]]{0,40})"#,
    ) {
        let (name, arguments) = tools().swap_remove(tool);
        let body = format!(r#"{{"result":{result}}}"#);
        let host = |_: &str, _: &Value| Ok(json!({"status": 200, "body": body}));
        let _ = call(host, ("solana", name), &arguments);
    }

    #[test]
    fn any_member_of_a_good_result_may_be_odd(at in 0..40_usize, odd in 0..6_usize) {
        let (transaction, signature, _) = signed();
        let mut result = json!({"slot": 9, "blockTime": 4, "transaction": [transaction, "base64"],
            "meta": {"err": null, "fee": 5000, "logMessages": ["a"]}});
        let odd = [json!(null), json!(-1), json!(1.5), json!("x"), json!([]), json!({})][odd].clone();
        let places = ["/slot", "/blockTime", "/transaction", "/transaction/0", "/transaction/1",
            "/meta", "/meta/err", "/meta/fee", "/meta/logMessages", "/meta/logMessages/0"];
        *result.pointer_mut(places[at % places.len()]).unwrap() = odd;
        let body = json!({"result": result}).to_string();
        let host = |_: &str, _: &Value| Ok(json!({"status": 200, "body": body}));
        let _ = call(host, ("solana", "get_transaction"), &json!({"signature": signature}));
    }
}

/// Every networked tool of server `solana`, with arguments it takes.
fn tools() -> Vec<(&'static str, Value)> {
    let (transaction, signature, _) = signed();
    vec![
        ("get_balance", json!({"address": ADDRESS})),
        ("get_transaction", json!({ "signature": signature })),
        ("get_account_info", json!({"address": ADDRESS})),
        ("get_multiple_accounts", json!({"addresses": [ADDRESS]})),
        ("get_program_accounts", json!({"program_id": ADDRESS})),
        ("get_token_accounts", json!({"owner": ADDRESS})),
        ("get_token_supply", json!({"mint": ADDRESS})),
        ("get_signatures_for_address", json!({"address": ADDRESS})),
        ("get_slot", json!({})),
        ("get_block", json!({"slot": 1})),
        ("get_block_height", json!({})),
        ("get_epoch_info", json!({})),
        ("get_latest_blockhash", json!({})),
        ("get_minimum_balance_for_rent_exemption", json!({"size_bytes": 1})),
        ("simulate_transaction", json!({ "transaction": transaction })),
        ("send_transaction", json!({ "transaction": transaction })),
        ("request_airdrop", json!({"address": ADDRESS, "lamports": 1})),
    ]
}
