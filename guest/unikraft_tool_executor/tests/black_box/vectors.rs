//! The answers of Solana's own libraries, and ours.
//!
//! The files in `tests/vectors` say where they come from; `make.py` beside them makes them.

use crate::support::call;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use osvm_protocol::code::{INVALID_PARAMS, TOOL_FAILED};
use proptest::prelude::*;
use serde_json::{Value, json};

fn load(text: &str, list: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(text).unwrap();
    let Value::Array(list) = file[list].take() else { panic!("no list `{list}`") };
    assert!(!list.is_empty());
    list
}

fn transactions() -> Vec<Value> {
    load(include_str!("../vectors/transactions.json"), "transactions")
}

fn keys(list: &str) -> Vec<Value> {
    load(include_str!("../vectors/keys.json"), list)
}

fn token_accounts() -> Vec<Value> {
    load(include_str!("../vectors/token_accounts.json"), "accounts")
}

#[test]
fn transactions_say_what_they_were_made_of() {
    for vector in transactions() {
        for encoding in ["base64", "base58"] {
            let mut expected = vector["expect"].clone();
            expected["encoding"] = encoding.into();
            for arguments in [
                json!({ "transaction": vector[encoding] }),
                json!({ "transaction": vector[encoding], "encoding": encoding }),
            ] {
                let found = call("solana", "decode_transaction", &arguments).unwrap();
                assert_eq!(found, expected, "{} in {encoding}", vector["name"]);
            }
        }
    }
}

#[test]
fn vectors_hold_every_instruction_of_the_programs() {
    let mut seen = std::collections::BTreeSet::new();
    for vector in transactions() {
        for instruction in vector["expect"]["instructions"].as_array().unwrap() {
            let kind = &instruction["decoded"]["type"];
            seen.insert((instruction["program"].to_string(), kind.to_string()));
        }
    }
    let count = |program: &str| {
        let name = format!("{program:?}");
        seen.iter().filter(|(of, kind)| *of == name && kind != "null").count()
    };
    assert_eq!(count("system"), 14);
    // 0 to 24, and the three that came later.
    assert_eq!(count("spl-token"), 28);
    assert_eq!(count("spl-token-2022"), 25);
    assert_eq!(count("compute-budget"), 5);
    assert_eq!(count("spl-memo"), 1);
}

#[test]
fn token_accounts_hold_what_the_real_program_wrote() {
    for vector in token_accounts() {
        for encoding in ["base64", "base58"] {
            for arguments in [
                json!({ "data": vector[encoding] }),
                json!({ "data": vector[encoding], "encoding": encoding }),
            ] {
                let found = call("solana", "decode_token_account", &arguments).unwrap();
                assert_eq!(found, vector["expect"], "{} in {encoding}", vector["name"]);
            }
        }
    }
}

#[test]
fn addresses_are_on_the_curve_or_off_it() {
    for vector in keys("addresses") {
        let found =
            call("solana", "validate_address", &json!({ "address": vector["address"] })).unwrap();
        let expected = json!({
            "valid": true, "on_curve": vector["on_curve"], "hex": vector["hex"], "reason": null,
        });
        assert_eq!(found, expected, "{}", vector["address"]);
    }
}

#[test]
fn addresses_are_derived_with_the_same_bump() {
    for vector in keys("derived") {
        let seeds = vector["seeds"].as_array().unwrap();
        let seeds: Vec<_> = seeds.iter().map(|seed| json!({ "hex": seed })).collect();
        let mut arguments = json!({ "program_id": vector["program_id"], "seeds": seeds });
        let found = call("solana", "derive_address", &arguments).unwrap();
        assert_eq!(found, json!({ "address": vector["address"], "bump": vector["bump"] }));
        for (bump, address) in vector["bumps"].as_object().unwrap() {
            let bump: u8 = bump.parse().unwrap();
            arguments["bump"] = bump.into();
            let found = call("solana", "derive_address", &arguments);
            match address {
                Value::Null => assert_eq!(found.unwrap_err().0, TOOL_FAILED),
                address => assert_eq!(found.unwrap(), json!({ "address": address, "bump": bump })),
            }
        }
    }
}

#[test]
fn seeds_may_be_written_in_every_way() {
    let address = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";
    let derive = |seed: Value| {
        let arguments = json!({ "program_id": address, "seeds": [seed] });
        call("solana", "derive_address", &arguments).unwrap()
    };
    let expected = derive(json!({"hex": "68c3a9"}));
    assert_eq!(derive(json!({"utf8": "hé"})), expected);
    assert_eq!(derive(json!({"base64": "aMOp"})), expected);
    assert_eq!(derive(json!({"base58": bs58::encode("hé").into_string()})), expected);
    assert_eq!(derive(json!({"pubkey": address})), derive(json!({"base58": address})));
}

#[test]
fn signatures_hold_for_us_when_they_hold_for_solana() {
    for vector in keys("signatures") {
        for signature in [&vector["signature"], &vector["signature_base64"]] {
            let arguments = json!({
                "message": vector["message_hex"], "encoding": "hex", "signature": signature,
                "public_key": vector["public_key"],
            });
            let found = call("solana", "verify_signature", &arguments).unwrap();
            assert_eq!(found["valid"], vector["valid"], "{}", vector["name"]);
            assert_eq!(found["reason"].is_null(), vector["valid"] == true, "{}", vector["name"]);
        }
    }
    let valid = keys("signatures").iter().filter(|vector| vector["valid"] == true).count();
    assert!(2 < valid, "the vectors hold too few good signatures");
}

#[test]
fn a_wallet_signature_is_of_the_text_itself() {
    let vectors = keys("signatures");
    let good = vectors.iter().find(|vector| vector["name"] == "good").unwrap();
    let check = |message: &str| {
        let arguments = json!({
            "message": message, "signature": good["signature"], "publicKey": good["public_key"],
        });
        call("osvm-mcp", "verify_wallet_signature", &arguments).unwrap()
    };
    let valid = json!({ "valid": true, "publicKey": good["public_key"], "reason": null });
    assert_eq!(check("sign me, please: été"), valid);
    assert_eq!(check("sign me, please: ete")["valid"], false);
}

/// Changes one byte of one vector and cuts some off its end. What `call` returns fits the schema.
#[track_caller]
fn check_changed(
    tool: &str,
    argument: &str,
    good: &[Value],
    change: (prop::sample::Index, prop::sample::Index, u8, usize),
) {
    let (which, at, byte, cut) = change;
    let mut bytes =
        STANDARD.decode(good[which.index(good.len())]["base64"].as_str().unwrap()).unwrap();
    let at = at.index(bytes.len());
    bytes[at] = byte;
    bytes.truncate(bytes.len().saturating_sub(cut));
    for text in [STANDARD.encode(&bytes), bs58::encode(&bytes).into_string()] {
        if let Err((code, message)) = call("solana", tool, &json!({ argument: text })) {
            assert!([TOOL_FAILED, INVALID_PARAMS].contains(&code), "{message}");
        }
    }
}

proptest! {
    #[test]
    fn changed_transactions_are_shown_or_refused(change: (prop::sample::Index, prop::sample::Index, u8), cut in 0..3_usize) {
        let good = transactions();
        check_changed("decode_transaction", "transaction", &good, (change.0, change.1, change.2, cut));
    }

    #[test]
    fn changed_token_accounts_are_shown_or_refused(change: (prop::sample::Index, prop::sample::Index, u8), cut in 0..3_usize) {
        let good = token_accounts();
        check_changed("decode_token_account", "data", &good, (change.0, change.1, change.2, cut));
    }
}
