//! `verify_signature`, `validate_address` and `derive_address`: what can be said of keys alone.

use super::SERVER;
use crate::solana::address::{self, Address};
use crate::solana::encoding::{Encoding, hex};
use crate::solana::signature;
use crate::tool::{Field, PURE, Tool, invalid};
use alloc::format;
use alloc::vec::Vec;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;

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
        let [text, encoding, signature, key] =
            arguments.fields(["message", "encoding", "signature", "public_key"])?;
        let encoding = encoding.encoding()?.unwrap_or(Encoding::Utf8);
        let message = encoding.decode(&text.text()?).map_err(|error| text.invalid(&error))?;
        let (signature, public_key) = (signature.signature()?, key.address()?);
        let verdict = signature::verify(&public_key.0, &message, &signature);
        reply.object(|o| {
            o.flag("valid", verdict.is_ok());
            o.optional_text("reason", verdict.err().map(signature::Fault::reason));
        });
        Ok(())
    },
};

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
        let [address] = arguments.fields(["address"])?;
        let address = Address::parse(&address.text()?);
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
        let [program, seeds, bump] = arguments.fields(["program_id", "seeds", "bump"])?;
        let program_id = program.address()?;
        let bump = bump.optional_number(0..=255)?.and_then(|bump| u8::try_from(bump).ok());
        let mut bytes = Vec::new();
        for (at, seed) in seeds.required()?.list(usize::MAX)?.into_iter().enumerate() {
            bytes.push(seed_bytes(at, seed)?);
        }
        let seeds: Vec<_> = bytes.iter().map(Vec::as_slice).collect();
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

/// The bytes of one seed, an object whose one member says how they are written.
fn seed_bytes(at: usize, seed: Field<'_>) -> Result<Vec<u8>, RpcError> {
    let given = seed.fields(["utf8", "base58", "base64", "hex", "pubkey"])?;
    let mut given = given.into_iter().filter(|field| !field.is_nothing());
    let (Some(field), None) = (given.next(), given.next()) else {
        return Err(seed.invalid(&format_args!("seed {at} is not written in one way")));
    };
    let text = field.text()?;
    let encoding = match field.name() {
        "utf8" => Encoding::Utf8,
        "base58" => Encoding::Base58,
        "base64" => Encoding::Base64,
        "hex" => Encoding::Hex,
        _ => return Ok(field.address()?.0.to_vec()),
    };
    let name = || format!("seeds[{at}].{}", encoding.name());
    encoding.decode(&text).map_err(|error| invalid(&name(), &error))
}
