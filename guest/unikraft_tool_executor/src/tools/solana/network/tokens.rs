//! Token accounts and mints.

use super::{object, of_slot, settings, tool, with_commitment};
use crate::answer::Part;
use crate::json::{Array, Object};
use crate::rpc;
use crate::tool::{READS, Tool};
use osvm_protocol::message::RpcError;

/// The program whose accounts are meant when nobody says which: SPL Token.
const SPL_TOKEN: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

pub(in crate::tools) const GET_TOKEN_ACCOUNTS: Tool = tool(
    "get_token_accounts",
    "Asks for the token accounts of an owner, of one mint or of one token program.",
    READS,
    with_commitment!(
        r#""owner":{"type":"string"}"#,
        r#""mint":{"type":"string"}"#,
        r#""program_id":{"type":"string","description":"instead of a mint; SPL Token when neither is given"}"#;
        required r#"["owner"]"#
    ),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""accounts":{"type":"array","items":{"type":"object","properties":{"address":{"type":"string"},"mint":{"type":"string"},"amount":{"type":"string","description":"in the smallest unit"},"decimals":{"type":"integer"},"state":{"type":"string"}},"required":["address","mint","amount","decimals","state"],"additionalProperties":false}}"#;
        required r#"["slot","accounts"]"#
    ),
    |context, arguments, reply| {
        let [owner, mint, program, commitment] =
            arguments.fields(["owner", "mint", "program_id", "commitment"])?;
        let (owner, commitment) = (owner.address()?, commitment.commitment()?);
        if !mint.is_nothing() && !program.is_nothing() {
            return Err(program.invalid(&"`mint` is given too, and a node takes only one of them"));
        }
        let (mint, program) = (mint.optional_address()?, program.optional_address()?);
        let params = |params: &mut Array<'_>| {
            params.text(&owner.text());
            params.object(|o| match (&mint, &program) {
                (Some(mint), _) => o.text("mint", &mint.text()),
                (None, Some(program)) => o.text("programId", &program.text()),
                (None, None) => o.text("programId", SPL_TOKEN),
            });
            settings(params, commitment, |o| o.text("encoding", "jsonParsed"));
        };
        rpc::ask(context, "getTokenAccountsByOwner", &params, &mut |result| {
            let (slot, accounts) = of_slot(result)?;
            reply.object(|o| {
                o.number("slot", slot);
                o.array("accounts", |list| {
                    accounts.each(&mut |account| list.object(|o| show(o, account)))
                })
            })
        })
    },
);

/// Writes one token account.
fn show(o: &mut Object<'_>, account: Part<'_>) -> Result<(), RpcError> {
    let [address, account] = account.parts(["pubkey", "account"])?;
    let [data] = account.parts(["data"])?;
    let [parsed] = data.parts(["parsed"])?;
    let [info] = parsed.parts(["info"])?;
    let [mint, amount, state] = info.parts(["mint", "tokenAmount", "state"])?;
    let [amount, decimals] = amount.parts(["amount", "decimals"])?;
    o.text("address", &address.text()?);
    o.text("mint", &mint.text()?);
    show_amount(o, amount, decimals)?;
    o.text("state", &state.text()?);
    Ok(())
}

/// Writes an amount of tokens, which nodes give as text because it may be too large for a float.
fn show_amount(o: &mut Object<'_>, amount: Part<'_>, decimals: Part<'_>) -> Result<(), RpcError> {
    let text = amount.text()?;
    if text.parse::<u64>().is_err() || text.starts_with('+') {
        return Err(amount.odd("a whole number as text").into());
    }
    o.text("amount", &text);
    o.number("decimals", decimals.number()?);
    Ok(())
}

pub(in crate::tools) const GET_TOKEN_SUPPLY: Tool = tool(
    "get_token_supply",
    "Asks how many tokens of a mint there are.",
    READS,
    with_commitment!(r#""mint":{"type":"string"}"#; required r#"["mint"]"#),
    object!(
        r#""slot":{"type":"integer","minimum":0},"#,
        r#""amount":{"type":"string","description":"in the smallest unit"},"#,
        r#""decimals":{"type":"integer"}"#;
        required r#"["slot","amount","decimals"]"#
    ),
    |context, arguments, reply| {
        let [mint, commitment] = arguments.fields(["mint", "commitment"])?;
        let (mint, commitment) = (mint.address()?, commitment.commitment()?);
        let params = |params: &mut Array<'_>| {
            params.text(&mint.text());
            settings(params, commitment, |_| ());
        };
        rpc::ask(context, "getTokenSupply", &params, &mut |result| {
            let (slot, value) = of_slot(result)?;
            let [amount, decimals] = value.parts(["amount", "decimals"])?;
            reply.object(|o| {
                o.number("slot", slot);
                show_amount(o, amount, decimals)
            })
        })
    },
);
