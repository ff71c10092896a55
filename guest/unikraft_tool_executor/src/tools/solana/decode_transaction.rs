//! `decode_transaction`: everything a transaction says without asking the network.

use super::{SERVER, unpack};
use crate::json::{Array, Object};
use crate::solana::base58;
use crate::solana::encoding::{Encoding, Packed, base64, hex};
use crate::solana::program::{self, Decoded, Value};
use crate::solana::signature;
use crate::solana::transaction::{Instruction, PACKET_LEN, Transaction, TransactionError, Version};
use crate::tool::{PURE, Tool};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(in crate::tools) const TOOL: Tool = Tool {
    server: SERVER,
    name: "decode_transaction",
    description: "Decodes a Solana transaction, legacy or version 0, without asking the network: \
        signatures (each checked), fee payer, accounts, blockhash, address table look-ups and \
        instructions. Instructions of the System, SPL Token, Token-2022, Compute Budget and Memo \
        programs are decoded in full; others are given as bytes.",
    input: r#"{"type":"object","properties":{
        "transaction":{"type":"string","description":"the signed or unsigned transaction, in base64 or base58; at most 4096 bytes"},
        "encoding":{"type":"string","enum":["base58","base64"],"description":"found out when not given: base64 if that gives a whole transaction, else base58"}},
        "required":["transaction"],"additionalProperties":false}"#,
    output: OUTPUT,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        let [text, encoding] = arguments.fields(["transaction", "encoding"])?;
        let (bytes, packed) = unpack("transaction", &text.text()?, encoding.packed()?, check)?;
        let transaction = Transaction::parse(&bytes).map_err(|error| text.invalid(&error))?;
        reply.object(|o| write(o, &bytes, packed, &transaction));
        Ok(())
    },
};

/// Whether the bytes are a transaction.
pub(super) fn check(bytes: &[u8]) -> Result<(), TransactionError> {
    Transaction::parse(bytes).map(drop)
}

/// Writes the members of the result. `transaction` was read from `bytes`, which came `packed`.
pub(super) fn write(
    o: &mut Object<'_>,
    bytes: &[u8],
    packed: Packed,
    transaction: &Transaction<'_>,
) {
    o.text("encoding", Encoding::from(packed).name());
    o.number("size_bytes", bytes.len() as u64);
    o.flag("fits_packet", bytes.len() <= PACKET_LEN);
    show(o, transaction);
}

const OUTPUT: &str = r#"{"type":"object","properties":{
    "encoding":{"type":"string","enum":["base58","base64"]},
    "size_bytes":{"type":"integer","minimum":0},
    "fits_packet":{"type":"boolean","description":"whether it is short enough for Solana's network: at most 1232 bytes"},
    "version":{"type":"string","enum":["legacy","v0"]},
    "signatures_valid":{"type":"boolean","description":"whether every signer has signed this message"},
    "signatures":{"type":"array","items":{"type":"object","properties":{
        "signature":{"type":"string"},
        "signer":{"type":"string"},
        "status":{"type":"string","enum":["valid","invalid","missing"]},
        "reason":{"type":"string","description":"why it is not valid"}},
        "required":["signature","signer","status"],"additionalProperties":false}},
    "fee_payer":{"type":"string"},
    "recent_blockhash":{"type":"string"},
    "header":{"type":"object","properties":{
        "num_required_signatures":{"type":"integer"},
        "num_readonly_signed_accounts":{"type":"integer"},
        "num_readonly_unsigned_accounts":{"type":"integer"}},
        "required":["num_required_signatures","num_readonly_signed_accounts","num_readonly_unsigned_accounts"],
        "additionalProperties":false},
    "accounts":{"type":"array","items":{"type":"object","properties":{
        "index":{"type":"integer"},
        "address":{"type":["string","null"],"description":"null when only the chain knows it"},
        "signer":{"type":"boolean"},
        "writable":{"type":"boolean","description":"as the message asks; nodes also take programs and sysvars as read-only"},
        "source":{"type":"string","enum":["static","lookup_table"]},
        "lookup_table":{"type":"string"},
        "lookup_index":{"type":"integer"}},
        "required":["index","address","signer","writable","source"],"additionalProperties":false}},
    "instructions":{"type":"array","items":{"type":"object","properties":{
        "program_id":{"type":"string"},
        "program":{"type":["string","null"],"description":"null when it has no decoder here"},
        "accounts":{"type":"array","items":{"type":"integer"},"description":"indexes into accounts"},
        "data_base58":{"type":"string"},
        "data_hex":{"type":"string"},
        "decoded":{"type":["object","null"],"properties":{
            "type":{"type":"string"},
            "info":{"type":"object","description":"fields and named accounts; an account only the chain knows is null, token amounts are text"},
            "ignored_bytes":{"type":"integer","description":"bytes after the last field, which the program ignores"}},
            "required":["type","info"],"additionalProperties":false},
        "decode_error":{"type":"string","description":"why a known program's instruction is not decoded"}},
        "required":["program_id","program","accounts","data_base58","data_hex","decoded"],"additionalProperties":false}},
    "address_table_lookups":{"type":"array","items":{"type":"object","properties":{
        "account_key":{"type":"string"},
        "writable_indexes":{"type":"array","items":{"type":"integer"}},
        "readonly_indexes":{"type":"array","items":{"type":"integer"}}},
        "required":["account_key","writable_indexes","readonly_indexes"],"additionalProperties":false}}},
    "required":["encoding","size_bytes","fits_packet","version","signatures_valid","signatures","fee_payer","recent_blockhash","header","accounts","instructions","address_table_lookups"],
    "additionalProperties":false}"#;

fn show(o: &mut Object<'_>, transaction: &Transaction<'_>) {
    o.text(
        "version",
        match transaction.version {
            Version::Legacy => "legacy",
            Version::V0 => "v0",
        },
    );
    // Written once, used wherever an account is named.
    let addresses: Vec<_> = transaction.keys.iter().map(|key| base58::encode_32(key)).collect();
    show_signatures(o, transaction, &addresses);
    o.text("fee_payer", addresses.first().map_or("", String::as_str));
    o.text("recent_blockhash", &base58::encode_32(transaction.blockhash));
    o.object("header", |o| {
        let header = transaction.header;
        o.number("num_required_signatures", header.signers.into());
        o.number("num_readonly_signed_accounts", header.readonly_signers.into());
        o.number("num_readonly_unsigned_accounts", header.readonly_others.into());
    });
    o.array("accounts", |list| show_accounts(list, transaction, &addresses));
    o.array("instructions", |list| {
        for instruction in &transaction.instructions {
            list.object(|o| show_instruction(o, instruction, &addresses));
        }
    });
    o.array("address_table_lookups", |list| {
        for lookup in &transaction.lookups {
            list.object(|o| {
                o.text("account_key", &base58::encode_32(lookup.table));
                o.array("writable_indexes", |list| numbers(list, lookup.writable));
                o.array("readonly_indexes", |list| numbers(list, lookup.readonly));
            });
        }
    });
}

fn show_signatures(o: &mut Object<'_>, transaction: &Transaction<'_>, addresses: &[String]) {
    let mut all_valid = true;
    let signers = transaction.keys.iter().zip(addresses);
    o.array("signatures", |list| {
        for (signature, (key, address)) in transaction.signatures.iter().zip(signers) {
            list.object(|o| {
                o.text("signature", &base58::encode_64(&signature.0));
                o.text("signer", address);
                // What a wallet puts in the place of a signature still to come.
                if signature.0 == [0; 64] {
                    o.text("status", "missing");
                    all_valid = false;
                    return;
                }
                match signature::verify(key, transaction.message, signature) {
                    Ok(()) => o.text("status", "valid"),
                    Err(fault) => {
                        o.text("status", "invalid");
                        o.text("reason", fault.reason());
                        all_valid = false;
                    }
                }
            });
        }
    });
    o.flag("signatures_valid", all_valid);
}

fn show_accounts(list: &mut Array<'_>, transaction: &Transaction<'_>, addresses: &[String]) {
    for (index, address) in addresses.iter().enumerate() {
        list.object(|o| {
            o.number("index", index as u64);
            o.text("address", address);
            o.flag("signer", transaction.signs(index));
            o.flag("writable", transaction.writes(index));
            o.text("source", "static");
        });
    }
    // All that are written come before all that are only read, whatever their table.
    let lookups = &transaction.lookups;
    let writable = lookups.iter().flat_map(|l| l.writable.iter().map(|at| (l.table, *at, true)));
    let readonly = lookups.iter().flat_map(|l| l.readonly.iter().map(|at| (l.table, *at, false)));
    for (index, (table, at, writable)) in (addresses.len()..).zip(writable.chain(readonly)) {
        list.object(|o| {
            o.number("index", index as u64);
            o.null("address");
            o.flag("signer", false);
            o.flag("writable", writable);
            o.text("source", "lookup_table");
            o.text("lookup_table", &base58::encode_32(table));
            o.number("lookup_index", at.into());
        });
    }
}

fn show_instruction(o: &mut Object<'_>, instruction: &Instruction<'_>, addresses: &[String]) {
    let id = addresses.get(instruction.program).map_or("", String::as_str);
    let known = program::known(id);
    o.text("program_id", id);
    o.optional_text("program", known.map(|program| program.name));
    o.array("accounts", |list| numbers(list, instruction.accounts));
    o.text("data_base58", &base58::encode(instruction.data));
    o.text("data_hex", &hex(instruction.data));
    let decoded =
        known.map(|program| program::decode(program, instruction.data, instruction.accounts.len()));
    match decoded {
        None => o.null("decoded"),
        Some(Err(error)) => {
            o.null("decoded");
            o.text("decode_error", &format!("{error}"));
        }
        Some(Ok(decoded)) => {
            let accounts = Accounts { indexes: instruction.accounts, addresses };
            o.object("decoded", |o| show_decoded(o, &decoded, &accounts));
        }
    }
}

/// The accounts of one instruction.
struct Accounts<'a> {
    indexes: &'a [u8],
    addresses: &'a [String],
}

impl Accounts<'_> {
    /// The address at this position; `None` when only the chain knows it.
    fn address(&self, position: usize) -> Option<&str> {
        let index = self.indexes.get(position)?;
        self.addresses.get(usize::from(*index)).map(String::as_str)
    }
}

fn show_decoded(o: &mut Object<'_>, decoded: &Decoded<'_>, accounts: &Accounts<'_>) {
    o.text("type", decoded.kind);
    o.object("info", |o| {
        for (name, position) in &decoded.accounts {
            o.optional_text(name, accounts.address(*position));
        }
        if let Some((name, positions)) = &decoded.rest {
            o.array(name, |list| {
                for position in positions.clone() {
                    list.optional_text(accounts.address(position));
                }
            });
        }
        for (name, value) in &decoded.fields {
            show_value(o, name, value, accounts);
        }
    });
    if decoded.ignored_bytes != 0 {
        o.number("ignored_bytes", decoded.ignored_bytes as u64);
    }
}

fn show_value(o: &mut Object<'_>, name: &str, value: &Value<'_>, accounts: &Accounts<'_>) {
    match value {
        Value::Number(number) => o.number(name, *number),
        Value::Amount(amount) => o.text(name, &format!("{amount}")),
        Value::Key(key) => o.text(name, &base58::encode_32(key)),
        Value::Nothing => o.null(name),
        Value::Text(text) => o.text(name, text),
        Value::Numbers(numbers) => {
            o.array(name, |list| numbers.iter().for_each(|number| list.number(*number)));
        }
        Value::Bytes(bytes) => o.text(name, &base64(bytes)),
        Value::Batch(instructions) => o.array(name, |list| {
            for instruction in instructions {
                list.object(|o| show_decoded(o, instruction, accounts));
            }
        }),
    }
}

fn numbers(list: &mut Array<'_>, bytes: &[u8]) {
    bytes.iter().for_each(|byte| list.number((*byte).into()));
}
