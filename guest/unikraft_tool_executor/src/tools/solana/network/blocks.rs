//! Where the chain is: slots, blocks, epochs, blockhashes.

use super::{object, of_slot, settings, texts, tool, with_commitment};
use crate::json::Array;
use crate::rpc;
use crate::solana::address::Address;
use crate::tool::{Arguments, READS, Run, Tool};
use crate::tools::arguments::Commitment;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;

fn only_commitment(arguments: Arguments<'_>) -> Result<Commitment, RpcError> {
    let [commitment] = arguments.fields(["commitment"])?;
    commitment.commitment()
}

/// The run of a tool that asks for one number.
macro_rules! one_number {
    ($method:literal, $name:literal) => {{
        let run: Run = |context, arguments, reply| {
            let commitment = only_commitment(arguments)?;
            let params = |params: &mut Array<'_>| settings(params, commitment, |_| ());
            rpc::ask(context, $method, &params, &mut |result| {
                let number = result.number()?;
                reply.object(|o| o.number($name, number));
                Ok(())
            })
        };
        run
    }};
}

pub(in crate::tools) const GET_SLOT: Tool = tool(
    "get_slot",
    "Asks for the slot the network is at.",
    READS,
    with_commitment!(; required "[]"),
    object!(r#""slot":{"type":"integer","minimum":0}"#; required r#"["slot"]"#),
    one_number!("getSlot", "slot"),
);

pub(in crate::tools) const GET_BLOCK_HEIGHT: Tool = tool(
    "get_block_height",
    "Asks how many blocks the network has made.",
    READS,
    with_commitment!(; required "[]"),
    object!(r#""block_height":{"type":"integer","minimum":0}"#; required r#"["block_height"]"#),
    one_number!("getBlockHeight", "block_height"),
);

pub(in crate::tools) const GET_BLOCK: Tool = tool(
    "get_block",
    "Asks for the block of a slot.",
    READS,
    with_commitment!(
        r#""slot":{"type":"integer","minimum":0}"#,
        r#""transaction_details":{"type":"string","enum":["full","accounts","signatures","none"],"description":"signatures when not given"}"#;
        required r#"["slot"]"#
    ),
    object!(
        r#""blockhash":{"type":"string"},"previous_blockhash":{"type":"string"},"#,
        r#""parent_slot":{"type":"integer","minimum":0},"#,
        r#""block_height":{"type":["integer","null"]},"block_time":{"type":["integer","null"],"description":"seconds since 1970"},"#,
        r#""signatures":{"type":"array","items":{"type":"string"}},"#,
        r#""transactions":{"type":"array","items":{"type":"object"},"description":"as the node gives them, in base64"}"#;
        required r#"["blockhash","previous_blockhash","parent_slot","block_height","block_time"]"#
    ),
    |context, arguments, reply| {
        let [slot, details, commitment] =
            arguments.fields(["slot", "transaction_details", "commitment"])?;
        let (slot, commitment) = (slot.number(0..=u64::MAX)?, commitment.commitment()?);
        let details = details.word(&["full", "accounts", "signatures", "none"])?;
        let details = details.unwrap_or("signatures");
        let params = |params: &mut Array<'_>| {
            params.number(slot);
            settings(params, commitment, |o| {
                o.text("encoding", "base64");
                o.text("transactionDetails", details);
                o.number("maxSupportedTransactionVersion", 0);
                o.flag("rewards", false);
            });
        };
        rpc::ask(context, "getBlock", &params, &mut |result| {
            if result.is_nothing() {
                return Err(RpcError::new(TOOL_FAILED, "the node knows no block of this slot"));
            }
            let [hash, previous, parent, height, time, signatures, transactions] =
                result.parts([
                    "blockhash",
                    "previousBlockhash",
                    "parentSlot",
                    "blockHeight",
                    "blockTime",
                    "signatures",
                    "transactions",
                ])?;
            reply.object(|o| {
                o.text("blockhash", &hash.text()?);
                o.text("previous_blockhash", &previous.text()?);
                o.number("parent_slot", parent.number()?);
                o.optional_number("block_height", height.optional_number()?);
                o.optional_number("block_time", time.optional_number()?);
                match details {
                    "none" => Ok(()),
                    "signatures" => texts(o, "signatures", signatures),
                    _ => o.array("transactions", |list| {
                        transactions.each(&mut |transaction| {
                            let [] = transaction.parts([])?;
                            list.raw(transaction.raw());
                            Ok(())
                        })
                    }),
                }
            })
        })
    },
);

pub(in crate::tools) const GET_EPOCH_INFO: Tool = tool(
    "get_epoch_info",
    "Asks where in which epoch the network is.",
    READS,
    with_commitment!(; required "[]"),
    object!(
        r#""epoch":{"type":"integer","minimum":0},"slot_index":{"type":"integer","minimum":0},"#,
        r#""slots_in_epoch":{"type":"integer","minimum":0},"absolute_slot":{"type":"integer","minimum":0},"#,
        r#""block_height":{"type":"integer","minimum":0},"transaction_count":{"type":["integer","null"]}"#;
        required r#"["epoch","slot_index","slots_in_epoch","absolute_slot","block_height","transaction_count"]"#
    ),
    |context, arguments, reply| {
        let commitment = only_commitment(arguments)?;
        let params = |params: &mut Array<'_>| settings(params, commitment, |_| ());
        rpc::ask(context, "getEpochInfo", &params, &mut |result| {
            let [epoch, index, slots, absolute, height, transactions] = result.parts([
                "epoch",
                "slotIndex",
                "slotsInEpoch",
                "absoluteSlot",
                "blockHeight",
                "transactionCount",
            ])?;
            reply.object(|o| {
                o.number("epoch", epoch.number()?);
                o.number("slot_index", index.number()?);
                o.number("slots_in_epoch", slots.number()?);
                o.number("absolute_slot", absolute.number()?);
                o.number("block_height", height.number()?);
                o.optional_number("transaction_count", transactions.optional_number()?);
                Ok(())
            })
        })
    },
);

pub(in crate::tools) const GET_LATEST_BLOCKHASH: Tool = tool(
    "get_latest_blockhash",
    "Asks for a blockhash a new transaction can use, and for how long.",
    READS,
    with_commitment!(; required "[]"),
    object!(
        r#""blockhash":{"type":"string"},"#,
        r#""last_valid_block_height":{"type":"integer","minimum":0},"#,
        r#""slot":{"type":"integer","minimum":0}"#;
        required r#"["blockhash","last_valid_block_height","slot"]"#
    ),
    |context, arguments, reply| {
        let commitment = only_commitment(arguments)?;
        let params = |params: &mut Array<'_>| settings(params, commitment, |_| ());
        rpc::ask(context, "getLatestBlockhash", &params, &mut |result| {
            let (slot, value) = of_slot(result)?;
            let [hash, height] = value.parts(["blockhash", "lastValidBlockHeight"])?;
            let text = hash.text()?;
            // It goes into transactions, where nobody looks at it again.
            Address::parse(&text).map_err(|_| hash.odd("a blockhash"))?;
            let height = height.number()?;
            reply.object(|o| {
                o.text("blockhash", &text);
                o.number("last_valid_block_height", height);
                o.number("slot", slot);
            });
            Ok(())
        })
    },
);
