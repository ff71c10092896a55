//! `verify_signature`, `validate_address` and `derive_address`: what can be said of keys alone.

use super::SERVER;
use crate::solana::address::{self, Address};
use crate::solana::encoding::{Encoding, hex};
use crate::solana::signature::{self, Signature};
use crate::tool::{PURE, Tool, invalid};
use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;
use serde::Deserialize;

pub(in crate::tools) const VERIFY_SIGNATURE: Tool = Tool {
    server: SERVER,
    name: "verify_signature",
    description: "Checks an ed25519 signature of a message exactly as Solana does.",
    input: r#"{"type":"object","properties":{
        "message":{"type":"string","description":"what was signed"},
        "encoding":{"type":"string","enum":["utf8","base58","base64","hex"],"description":"how the message is written; utf8 when not given"},
        "signature":{"type":"string","description":"64 bytes in base58 or base64"},
        "public_key":{"type":"string","description":"the signer's address"}},
        "required":["message","signature","public_key"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "valid":{"type":"boolean"},
        "reason":{"type":["string","null"],"description":"why it is not valid"}},
        "required":["valid","reason"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let VerifySignature { message, encoding, signature, public_key } = arguments.parse()?;
        let message = encoding
            .unwrap_or(Encoding::Utf8)
            .decode(&message)
            .map_err(|error| invalid("message", &error))?;
        let verdict = signature::verify(&public_key.0, &message, &signature);
        reply.object(|o| {
            o.flag("valid", verdict.is_ok());
            o.optional_text("reason", verdict.err().map(signature::Fault::reason));
        });
        Ok(())
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifySignature<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    encoding: Option<Encoding>,
    signature: Signature,
    public_key: Address,
}

pub(in crate::tools) const VALIDATE_ADDRESS: Tool = Tool {
    server: SERVER,
    name: "validate_address",
    description: "Says whether a text is a Solana address, and whether it is on the ed25519 \
        curve: an address on the curve can belong to a key pair, one off the curve is derived \
        from a program.",
    input: r#"{"type":"object","properties":{
        "address":{"type":"string"}},
        "required":["address"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "valid":{"type":"boolean","description":"whether it is base58 of 32 bytes"},
        "on_curve":{"type":["boolean","null"]},
        "hex":{"type":["string","null"],"description":"the 32 bytes"},
        "reason":{"type":["string","null"],"description":"why it is not valid"}},
        "required":["valid","on_curve","hex","reason"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let ValidateAddress { address } = arguments.parse()?;
        let address = Address::parse(&address);
        reply.object(|o| {
            o.flag("valid", address.is_ok());
            match address {
                Ok(address) => {
                    o.flag("on_curve", address.is_on_curve());
                    o.text("hex", &hex(&address.0));
                    o.null("reason");
                }
                Err(error) => {
                    o.null("on_curve");
                    o.null("hex");
                    o.text("reason", &format!("{error}"));
                }
            }
        });
        Ok(())
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidateAddress<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
}

pub(in crate::tools) const DERIVE_ADDRESS: Tool = Tool {
    server: SERVER,
    name: "derive_address",
    description: "Derives the address that belongs to a program and some seeds (a program-derived \
        address), with the highest bump that gives one, or with the bump asked for.",
    input: r#"{"type":"object","properties":{
        "program_id":{"type":"string","description":"the program's address"},
        "seeds":{"type":"array","maxItems":15,"description":"in order, at most 15 of at most 32 bytes each","items":{"type":"object","properties":{
            "utf8":{"type":"string"},
            "base58":{"type":"string"},
            "base64":{"type":"string"},
            "hex":{"type":"string"},
            "pubkey":{"type":"string","description":"an address"}},
            "minProperties":1,"maxProperties":1,"additionalProperties":false}},
        "bump":{"type":"integer","minimum":0,"maximum":255}},
        "required":["program_id","seeds"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "address":{"type":"string"},
        "bump":{"type":"integer"}},
        "required":["address","bump"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let DeriveAddress { program_id, seeds, bump } = arguments.parse()?;
        let seeds: Vec<_> =
            seeds.iter().enumerate().map(|(at, seed)| seed.bytes(at)).collect::<Result<_, _>>()?;
        let seeds: Vec<_> = seeds.iter().map(Vec::as_slice).collect();
        let derived = match bump {
            Some(bump) => address::create(&seeds, bump, &program_id).map(|address| (address, bump)),
            None => address::find(&seeds, &program_id),
        };
        let (address, bump) =
            derived.map_err(|error| RpcError::new(TOOL_FAILED, format!("{error}")))?;
        reply.object(|o| {
            o.text("address", &address.text());
            o.number("bump", bump.into());
        });
        Ok(())
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeriveAddress<'a> {
    program_id: Address,
    #[serde(borrow)]
    seeds: Vec<Seed<'a>>,
    bump: Option<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Seed<'a> {
    Utf8(#[serde(borrow)] Cow<'a, str>),
    Base58(#[serde(borrow)] Cow<'a, str>),
    Base64(#[serde(borrow)] Cow<'a, str>),
    Hex(#[serde(borrow)] Cow<'a, str>),
    Pubkey(Address),
}

impl Seed<'_> {
    fn bytes(&self, at: usize) -> Result<Vec<u8>, RpcError> {
        let (encoding, text) = match self {
            Self::Utf8(text) => (Encoding::Utf8, text),
            Self::Base58(text) => (Encoding::Base58, text),
            Self::Base64(text) => (Encoding::Base64, text),
            Self::Hex(text) => (Encoding::Hex, text),
            Self::Pubkey(address) => return Ok(address.0.to_vec()),
        };
        let name = || format!("seeds[{at}].{}", encoding.name());
        encoding.decode(text).map_err(|error| invalid(&name(), &error))
    }
}
