//! Transactions: past ones, possible ones, new ones.

use super::{object, of_slot, settings, texts, tool, with_commitment};
use crate::answer::Part;
use crate::context::Context;
use crate::json::{Array, Object};
use crate::rpc;
use crate::solana::base58;
use crate::solana::encoding::{Encoding, Packed, base64};
use crate::solana::signature::Signature;
use crate::solana::transaction::Transaction;
use crate::tool::{Arguments, DESTROYS, Field, READS, Reply, Tool, WRITES};
use crate::tools::solana::{decode_transaction, unpack};
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;

/// Most signatures a node lists at once.
const MAX_SIGNATURES: u64 = 1_000;

pub(in crate::tools) const GET_TRANSACTION: Tool = tool(
    "get_transaction",
    "Asks for a transaction by its signature, decodes it and says what came of it.",
    READS,
    BY_SIGNATURE,
    TRANSACTION,
    transaction,
);

/// Also what `osvm-mcp`'s tool of this name takes.
pub(in crate::tools) const BY_SIGNATURE: &str =
    with_commitment!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#);

/// Also what `osvm-mcp`'s tool of this name answers.
pub(in crate::tools) const TRANSACTION: &str = object!(
    r#""slot":{"type":"integer","minimum":0},"#,
    r#""block_time":{"type":["integer","null"],"description":"seconds since 1970"},"#,
    r#""error":{"description":"null when it succeeded"},"#,
    r#""fee":{"type":"integer","minimum":0,"description":"lamports"},"#,
    r#""logs":{"type":"array","items":{"type":"string"}},"#,
    r#""transaction":{"type":"object","description":"as from decode_transaction"}"#;
    required r#"["slot","block_time","error","fee","logs","transaction"]"#
);

/// Also what `osvm-mcp`'s tool of this name does.
pub(in crate::tools) fn transaction(
    context: &mut Context<'_>,
    arguments: Arguments<'_>,
    reply: &mut Reply,
) -> Result<(), RpcError> {
    let [signature, commitment] = arguments.fields(["signature", "commitment"])?;
    let (signature, commitment) = (signature.signature()?, commitment.commitment()?);
    let params = |params: &mut Array<'_>| {
        params.text(&base58::encode_64(&signature.0));
        settings(params, commitment, |o| {
            o.text("encoding", "base64");
            o.number("maxSupportedTransactionVersion", 0);
        });
    };
    rpc::ask(context, "getTransaction", &params, &mut |result| {
        if result.is_nothing() {
            let message = "the node knows no such transaction, or not with this commitment";
            return Err(RpcError::new(TOOL_FAILED, message));
        }
        let [slot, time, meta, packed] =
            result.parts(["slot", "blockTime", "meta", "transaction"])?;
        let [error, fee, logs] = meta.parts(["err", "fee", "logMessages"])?;
        let bytes = unpack_answer(packed)?;
        let transaction = Transaction::parse(&bytes)
            .map_err(|error| RpcError::new(TOOL_FAILED, format!("`transaction`: {error}")))?;
        if transaction.signatures.first() != Some(&signature) {
            return Err(packed.odd("the one that was asked for").into());
        }
        reply.object(|o| {
            o.number("slot", slot.number()?);
            o.optional_number("block_time", time.optional_number()?);
            o.raw("error", error.raw());
            o.number("fee", fee.number()?);
            texts(o, "logs", logs)?;
            o.object("transaction", |o| {
                decode_transaction::write(o, &bytes, Packed::Base64, &transaction);
            });
            Ok(())
        })
    })
}

/// The bytes of `["…","base64"]`.
fn unpack_answer(part: Part<'_>) -> Result<Vec<u8>, RpcError> {
    let mut bytes = None;
    part.each(&mut |element| {
        if bytes.is_none() {
            bytes =
                Some(Encoding::Base64.decode(&element.text()?).map_err(|_| part.odd("base64"))?);
        }
        Ok(())
    })?;
    Ok(bytes.ok_or_else(|| part.odd("base64"))?)
}

pub(in crate::tools) const GET_SIGNATURES_FOR_ADDRESS: Tool = tool(
    "get_signatures_for_address",
    "Asks for the transactions that name an address, the newest first.",
    READS,
    with_commitment!(
        r#""address":{"type":"string"}"#,
        r#""limit":{"type":"integer","minimum":1,"maximum":1000,"description":"1000 when not given"}"#,
        r#""before":{"type":"string","description":"a signature: only older ones"}"#,
        r#""until":{"type":"string","description":"a signature: only newer ones"}"#;
        required r#"["address"]"#
    ),
    object!(
        r#""signatures":{"type":"array","items":{"type":"object","properties":{"signature":{"type":"string"},"slot":{"type":"integer","minimum":0},"block_time":{"type":["integer","null"]},"error":{"description":"null when it succeeded"},"memo":{"type":["string","null"]}},"required":["signature","slot","block_time","error","memo"],"additionalProperties":false}}"#;
        required r#"["signatures"]"#
    ),
    |context, arguments, reply| {
        let [address, limit, before, until, commitment] =
            arguments.fields(["address", "limit", "before", "until", "commitment"])?;
        let (address, commitment) = (address.address()?, commitment.commitment()?);
        let limit = limit.optional_number(1..=MAX_SIGNATURES)?.unwrap_or(MAX_SIGNATURES);
        let (before, until) = (before.optional_signature()?, until.optional_signature()?);
        let params = |params: &mut Array<'_>| {
            params.text(&address.text());
            settings(params, commitment, |o| {
                o.number("limit", limit);
                for (name, signature) in [("before", &before), ("until", &until)] {
                    if let Some(signature) = signature {
                        o.text(name, &base58::encode_64(&signature.0));
                    }
                }
            });
        };
        rpc::ask(context, "getSignaturesForAddress", &params, &mut |result| {
            reply.object(|o| {
                o.array("signatures", |list| {
                    result.each(&mut |one| list.object(|o| show_signature(o, one)))
                })
            })
        })
    },
);

fn show_signature(o: &mut Object<'_>, one: Part<'_>) -> Result<(), RpcError> {
    let [signature, slot, time, error, memo] =
        one.parts(["signature", "slot", "blockTime", "err", "memo"])?;
    o.text("signature", &signature.text()?);
    o.number("slot", slot.number()?);
    o.optional_number("block_time", time.optional_number()?);
    o.raw("error", error.raw());
    o.optional_text("memo", memo.optional_text()?.as_deref());
    Ok(())
}

pub(in crate::tools) const SIMULATE_TRANSACTION: Tool = tool(
    "simulate_transaction",
    "Asks a node what a transaction would do, without sending it.",
    READS,
    with_commitment!(
        r#""transaction":{"type":"string","description":"in base64 or base58"}"#,
        r#""encoding":{"type":"string","enum":["base58","base64"],"description":"found out when not given"}"#,
        r#""sig_verify":{"type":"boolean","description":"check the signatures too"}"#,
        r#""replace_recent_blockhash":{"type":"boolean"}"#;
        required r#"["transaction"]"#
    ),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""error":{"description":"null when it would succeed"},"#,
        r#""logs":{"type":"array","items":{"type":"string"}},"#,
        r#""units_consumed":{"type":["integer","null"]}"#;
        required r#"["slot","error","logs","units_consumed"]"#
    ),
    |context, arguments, reply| {
        let [transaction, encoding, sig_verify, replace, commitment] = arguments.fields([
            "transaction",
            "encoding",
            "sig_verify",
            "replace_recent_blockhash",
            "commitment",
        ])?;
        let (sig_verify, replace) = (sig_verify.flag()?, replace.flag()?);
        let commitment = commitment.commitment()?;
        let (bytes, _) = whole(transaction, encoding)?;
        let params = |params: &mut Array<'_>| {
            params.text(&base64(&bytes));
            settings(params, commitment, |o| {
                o.text("encoding", "base64");
                o.flag("sigVerify", sig_verify);
                o.flag("replaceRecentBlockhash", replace);
            });
        };
        rpc::ask(context, "simulateTransaction", &params, &mut |result| {
            let (slot, value) = of_slot(result)?;
            let [error, logs, units] = value.parts(["err", "logs", "unitsConsumed"])?;
            reply.object(|o| {
                o.number("slot", slot);
                o.raw("error", error.raw());
                texts(o, "logs", logs)?;
                o.optional_number("units_consumed", units.optional_number()?);
                Ok(())
            })
        })
    },
);

pub(in crate::tools) const SEND_TRANSACTION: Tool = tool(
    "send_transaction",
    "Sends a signed transaction. What it does cannot be undone. The answer says that a node took \
     it; what came of it, get_transaction says later.",
    DESTROYS,
    object!(
        r#""transaction":{"type":"string","description":"in base64 or base58"},"#,
        r#""encoding":{"type":"string","enum":["base58","base64"],"description":"found out when not given"},"#,
        r#""skip_preflight":{"type":"boolean"},"#,
        r#""max_retries":{"type":"integer","minimum":0},"#,
        r#""preflight_commitment":{"type":"string","enum":["processed","confirmed","finalized"]}"#;
        required r#"["transaction"]"#
    ),
    object!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#),
    |context, arguments, reply| {
        let [transaction, encoding, skip, retries, commitment] = arguments.fields([
            "transaction",
            "encoding",
            "skip_preflight",
            "max_retries",
            "preflight_commitment",
        ])?;
        let (skip, commitment) = (skip.flag()?, commitment.commitment()?);
        let retries = retries.optional_number(0..=u64::MAX)?;
        let (bytes, signature) = whole(transaction, encoding)?;
        let params = |params: &mut Array<'_>| {
            params.text(&base64(&bytes));
            params.object(|o| {
                o.text("encoding", "base64");
                o.flag("skipPreflight", skip);
                if let Some(commitment) = commitment {
                    o.text("preflightCommitment", commitment);
                }
                if let Some(retries) = retries {
                    o.number("maxRetries", retries);
                }
            });
        };
        rpc::ask(context, "sendTransaction", &params, &mut |result| {
            let text = result.text()?;
            if Signature::parse(&text) != signature {
                return Err(result.odd("the signature of what was sent").into());
            }
            reply.object(|o| o.text("signature", &text));
            Ok(())
        })
    },
);

/// The bytes of a transaction, in either encoding, and its first signature.
fn whole(text: Field<'_>, encoding: Field<'_>) -> Result<(Vec<u8>, Option<Signature>), RpcError> {
    let (text, told) = (text.text()?, encoding.packed()?);
    let (bytes, _) = unpack("transaction", &text, told, decode_transaction::check)?;
    let first = Transaction::parse(&bytes).ok().and_then(|read| read.signatures.first().copied());
    Ok((bytes, first))
}

pub(in crate::tools) const REQUEST_AIRDROP: Tool = tool(
    "request_airdrop",
    "Asks a test network for lamports. The main network has no such thing.",
    WRITES,
    with_commitment!(
        r#""address":{"type":"string"}"#,
        r#""lamports":{"type":"integer","minimum":1}"#;
        required r#"["address","lamports"]"#
    ),
    object!(r#""signature":{"type":"string"}"#; required r#"["signature"]"#),
    |context, arguments, reply| {
        let [address, lamports, commitment] =
            arguments.fields(["address", "lamports", "commitment"])?;
        let (address, commitment) = (address.address()?, commitment.commitment()?);
        let lamports = lamports.number(1..=u64::MAX)?;
        if !rpc::is_test_network(rpc::url(context)) {
            return Err(RpcError::new(
                TOOL_FAILED,
                "only test networks hand out lamports: `solana.rpc_url` must name a node of devnet \
                 or testnet, or one on this host",
            ));
        }
        let params = |params: &mut Array<'_>| {
            params.text(&address.text());
            params.number(lamports);
            settings(params, commitment, |_| ());
        };
        rpc::ask(context, "requestAirdrop", &params, &mut |result| {
            let text = result.text()?;
            Signature::parse(&text).ok_or_else(|| result.odd("a signature"))?;
            reply.object(|o| o.text("signature", &text));
            Ok(())
        })
    },
);
