//! `decode_token_account`: the data of an account that a token program owns.

use super::{SERVER, unpack};
use crate::json::Object;
use crate::solana::base58;
use crate::solana::encoding::base64;
use crate::solana::token_state::{Account, Extension, Mint, Multisig, TokenState};
use crate::tool::{PURE, Tool};
use alloc::format;

pub(in crate::tools) const TOOL: Tool = Tool {
    server: SERVER,
    name: "decode_token_account",
    description: "Decodes the data of an account owned by the SPL Token or Token-2022 program: a \
        token account, a mint or a multisig. Extensions of Token-2022 are listed with their bytes.",
    input: r#"{"type":"object","properties":{
        "data":{"type":"string","description":"the account's data, in base64 or base58"},
        "encoding":{"type":"string","enum":["base58","base64"],"description":"found out when not given: base64 if that gives a token account, mint or multisig, else base58"}},
        "required":["data"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "kind":{"type":"string","enum":["account","mint","multisig"]},
        "mint":{"type":"string"},
        "owner":{"type":"string"},
        "amount":{"type":"string","description":"in the mint's smallest unit"},
        "state":{"type":"string","enum":["uninitialized","initialized","frozen"]},
        "delegate":{"type":["string","null"]},
        "delegated_amount":{"type":"string"},
        "is_native":{"type":"boolean","description":"whether the tokens are wrapped SOL"},
        "rent_exempt_reserve":{"type":["integer","null"],"description":"lamports of a native account that are not tokens"},
        "close_authority":{"type":["string","null"]},
        "mint_authority":{"type":["string","null"]},
        "supply":{"type":"string","description":"in the smallest unit"},
        "decimals":{"type":"integer"},
        "is_initialized":{"type":"boolean"},
        "freeze_authority":{"type":["string","null"]},
        "num_required_signers":{"type":"integer"},
        "num_valid_signers":{"type":"integer"},
        "signers":{"type":"array","items":{"type":"string"}},
        "extensions":{"type":["array","null"],"description":"null when the account has no room for any","items":{"type":"object","properties":{
            "type":{"type":"integer"},
            "name":{"type":["string","null"]},
            "size_bytes":{"type":"integer"},
            "data_base64":{"type":"string"}},
            "required":["type","name","size_bytes","data_base64"],"additionalProperties":false}}},
        "required":["kind"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let [data, encoding] = arguments.fields(["data", "encoding"])?;
        let (text, encoding) = (data.text()?, encoding.packed()?);
        let (bytes, _) =
            unpack("data", &text, encoding, |bytes| TokenState::parse(bytes).map(drop))?;
        let state = TokenState::parse(&bytes).map_err(|error| data.invalid(&error))?;
        reply.object(|o| match &state {
            TokenState::Account(account) => show_account(o, account),
            TokenState::Mint(mint) => show_mint(o, mint),
            TokenState::Multisig(multisig) => show_multisig(o, multisig),
        });
        Ok(())
    },
};

fn show_account(o: &mut Object<'_>, account: &Account<'_>) {
    o.text("kind", "account");
    key(o, "mint", Some(account.mint));
    key(o, "owner", Some(account.owner));
    o.text("amount", &format!("{}", account.amount));
    o.text("state", account.state);
    key(o, "delegate", account.delegate);
    o.text("delegated_amount", &format!("{}", account.delegated_amount));
    o.flag("is_native", account.rent_exempt_reserve.is_some());
    match account.rent_exempt_reserve {
        Some(lamports) => o.number("rent_exempt_reserve", lamports),
        None => o.null("rent_exempt_reserve"),
    }
    key(o, "close_authority", account.close_authority);
    show_extensions(o, account.extensions.as_deref());
}

fn show_mint(o: &mut Object<'_>, mint: &Mint<'_>) {
    o.text("kind", "mint");
    key(o, "mint_authority", mint.mint_authority);
    o.text("supply", &format!("{}", mint.supply));
    o.number("decimals", mint.decimals.into());
    o.flag("is_initialized", mint.is_initialized);
    key(o, "freeze_authority", mint.freeze_authority);
    show_extensions(o, mint.extensions.as_deref());
}

fn show_multisig(o: &mut Object<'_>, multisig: &Multisig<'_>) {
    o.text("kind", "multisig");
    o.number("num_required_signers", multisig.m.into());
    o.number("num_valid_signers", multisig.signers.len() as u64);
    o.flag("is_initialized", multisig.is_initialized);
    o.array("signers", |list| {
        multisig.signers.iter().for_each(|signer| list.text(&base58::encode_32(signer)));
    });
}

fn show_extensions(o: &mut Object<'_>, extensions: Option<&[Extension<'_>]>) {
    let Some(extensions) = extensions else { return o.null("extensions") };
    o.array("extensions", |list| {
        for extension in extensions {
            list.object(|o| {
                o.number("type", extension.kind.into());
                o.optional_text("name", extension.name());
                o.number("size_bytes", extension.data.len() as u64);
                o.text("data_base64", &base64(extension.data));
            });
        }
    });
}

fn key(o: &mut Object<'_>, name: &str, key: Option<&[u8; 32]>) {
    o.optional_text(name, key.map(base58::encode_32).as_deref());
}
