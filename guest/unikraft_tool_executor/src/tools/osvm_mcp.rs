//! Server `osvm-mcp`: what a wallet's owner asks for.

use super::network::{Commitment, DESTROYS, READS, arguments, refuse};
use super::solana::network as network_of_solana;
use crate::solana::address::Address;
use crate::solana::signature::{self, Signature};
use crate::tool::{PURE, Tool};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Deserialize;
use serde::de::IgnoredAny;

const SERVER: &str = "osvm-mcp";

pub(super) const VERIFY_WALLET_SIGNATURE: Tool = Tool {
    server: SERVER,
    name: "verify_wallet_signature",
    description: "Checks that a wallet signed a text message.",
    input: r#"{"type":"object","properties":{
        "message":{"type":"string","description":"the text that was signed, as UTF-8"},
        "signature":{"type":"string","description":"64 bytes in base58 or base64"},
        "publicKey":{"type":"string","description":"the wallet's address"}},
        "required":["message","signature","publicKey"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "valid":{"type":"boolean"},
        "publicKey":{"type":"string"},
        "reason":{"type":["string","null"],"description":"why it is not valid"}},
        "required":["valid","publicKey","reason"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let VerifyWalletSignature { message, signature, public_key } = arguments.parse()?;
        let verdict = signature::verify(&public_key.0, message.as_bytes(), &signature);
        reply.object(|o| {
            o.flag("valid", verdict.is_ok());
            o.text("publicKey", &public_key.text());
            o.optional_text("reason", verdict.err().map(signature::Fault::reason));
        });
        Ok(())
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyWalletSignature<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    signature: Signature,
    #[serde(rename = "publicKey")]
    public_key: Address,
}

arguments! {
    RpcCall { method: String, params: Option<Vec<IgnoredAny>> }
    ByAddress { address: Address }
    BySignature { signature: Signature, commitment: Option<Commitment> }
}

pub(super) const SOLANA_RPC_CALL: Tool = Tool {
    server: SERVER,
    name: "solana_rpc_call",
    description: "Calls one of the allowed methods of Solana's JSON-RPC interface.",
    input: r#"{"type":"object","properties":{
        "method":{"type":"string","description":"such as getSlot"},
        "params":{"type":"array"}},
        "required":["method"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "result":{"description":"as the node answered"}},
        "required":["result"],"additionalProperties":false}"#,
    annotations: DESTROYS,
    needs_network: true,
    run: refuse::<RpcCall>,
};

pub(super) const GET_SOLANA_BALANCE: Tool = Tool {
    server: SERVER,
    name: "get_solana_balance",
    description: "Asks for the balance of a wallet, in lamports and in SOL.",
    input: r#"{"type":"object","properties":{
        "address":{"type":"string"}},
        "required":["address"],"additionalProperties":false}"#,
    output: network_of_solana::BALANCE,
    annotations: READS,
    needs_network: true,
    run: refuse::<ByAddress>,
};

pub(super) const GET_TRANSACTION: Tool = Tool {
    server: SERVER,
    name: "get_transaction",
    description: "Asks for a transaction by its signature, decodes it and says what came of it.",
    input: network_of_solana::BY_SIGNATURE,
    output: network_of_solana::TRANSACTION,
    annotations: READS,
    needs_network: true,
    run: refuse::<BySignature>,
};
