//! Balances and accounts.

use super::{object, of_slot, settings, tool, with_commitment};
use crate::answer::Part;
use crate::context::Context;
use crate::json::{Array, Object};
use crate::rpc;
use crate::solana::address::Address;
use crate::tool::{Field, READS, Reply, Tool};
use crate::tools::arguments::Commitment;
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use osvm_protocol::message::RpcError;
use serde_json::value::RawValue;

/// Most accounts a node answers for at once.
const MAX_ACCOUNTS: usize = 100;
/// Most accounts of a program that are listed.
const MAX_LISTED: u64 = 1_000;
/// Accounts of a program that are listed when nobody says how many.
const LISTED: u64 = 100;
/// Most filters a node takes.
const MAX_FILTERS: usize = 4;
/// Longest an account's data can be, in bytes.
const MAX_DATA: u64 = 10 * 1024 * 1024;

/// Which bytes of an account's data are asked for.
#[derive(Clone, Copy)]
struct DataSlice {
    offset: u64,
    length: u64,
}

impl DataSlice {
    fn read(field: Field<'_>) -> Result<Option<Self>, RpcError> {
        if field.is_nothing() {
            return Ok(None);
        }
        let [offset, length] = field.fields(["offset", "length"])?;
        let number = |part: Field<'_>| {
            let number = part.part().number().ok().filter(|number| *number <= MAX_DATA);
            number.ok_or_else(|| {
                let reason = format_args!("its numbers are whole ones up to {MAX_DATA}");
                field.invalid(&reason)
            })
        };
        Ok(Some(Self { offset: number(offset)?, length: number(length)? }))
    }
}

pub(in crate::tools) const GET_BALANCE: Tool = tool(
    "get_balance",
    "Asks for the balance of an account, in lamports and in SOL.",
    READS,
    with_commitment!(r#""address":{"type":"string"}"#; required r#"["address"]"#),
    BALANCE,
    |context, arguments, reply| {
        let [address, commitment] = arguments.fields(["address", "commitment"])?;
        balance(context, reply, &address.address()?, commitment.commitment()?)
    },
);

/// Also what `get_solana_balance` answers.
pub(in crate::tools) const BALANCE: &str = object!(
    r#""balance":{"type":"integer","minimum":0,"description":"lamports"},"#,
    r#""decimals":{"type":"integer","const":9},"#,
    r#""sol":{"type":"string","description":"the balance in SOL, exactly"},"#,
    r#""slot":{"type":"integer","minimum":0}"#;
    required r#"["balance","decimals","sol","slot"]"#
);

/// Also what `get_solana_balance` does.
pub(in crate::tools) fn balance(
    context: &mut Context<'_>,
    reply: &mut Reply,
    address: &Address,
    commitment: Commitment,
) -> Result<(), RpcError> {
    let params = |params: &mut Array<'_>| {
        params.text(&address.text());
        settings(params, commitment, |_| ());
    };
    rpc::ask(context, "getBalance", &params, &mut |result| {
        let (slot, lamports) = of_slot(result)?;
        let lamports = lamports.number()?;
        reply.object(|o| {
            o.number("balance", lamports);
            o.number("decimals", 9);
            o.text("sol", &sol(lamports));
            o.number("slot", slot);
        });
        Ok(())
    })
}

/// Lamports in SOL, exactly: 10⁹ lamports are one SOL.
fn sol(lamports: u64) -> String {
    let (whole, part) = (lamports / 1_000_000_000, lamports % 1_000_000_000);
    let mut text = format!("{whole}.{part:09}");
    let len = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(len);
    text
}

/// What is known of one account.
macro_rules! account {
    ($type:literal) => {
        concat!(
            r#"{"type":"#, $type, r#","properties":{"#,
            r#""address":{"type":"string"},"lamports":{"type":"integer","minimum":0},"#,
            r#""owner":{"type":"string"},"executable":{"type":"boolean"},"#,
            r#""size_bytes":{"type":["integer","null"],"minimum":0,"description":"of all its data; null when the node does not say"},"#,
            r#""data_base64":{"type":"string"}},"#,
            r#""required":["address","lamports","owner","executable","size_bytes","data_base64"],"additionalProperties":false}"#
        )
    };
}

/// The argument that asks for less than all data.
macro_rules! data_slice {
    () => {
        r#""data_slice":{"type":"object","description":"which bytes of the data to return; all when not given","properties":{"offset":{"type":"integer","minimum":0,"maximum":10485760},"length":{"type":"integer","minimum":0,"maximum":10485760}},"required":["offset","length"],"additionalProperties":false}"#
    };
}

pub(in crate::tools) const GET_ACCOUNT_INFO: Tool = tool(
    "get_account_info",
    "Asks for an account: lamports, owner and data; null when there is none.",
    READS,
    with_commitment!(r#""address":{"type":"string"}"#, data_slice!(); required r#"["address"]"#),
    concat!(
        r#"{"type":"object","properties":{"slot":{"type":"integer","minimum":0},"account":"#,
        account!(r#"["object","null"]"#),
        r#"},"required":["slot","account"],"additionalProperties":false}"#
    ),
    |context, arguments, reply| {
        let [address, slice, commitment] =
            arguments.fields(["address", "data_slice", "commitment"])?;
        let address = address.address()?.text();
        let (slice, commitment) = (DataSlice::read(slice)?, commitment.commitment()?);
        let params = |params: &mut Array<'_>| {
            params.text(&address);
            settings(params, commitment, |o| data_settings(o, slice));
        };
        rpc::ask(context, "getAccountInfo", &params, &mut |result| {
            let (slot, account) = of_slot(result)?;
            reply.object(|o| {
                o.number("slot", slot);
                if account.is_nothing() {
                    o.null("account");
                    return Ok(());
                }
                o.object("account", |o| show(o, &address, account, slice.is_some()))
            })
        })
    },
);

pub(in crate::tools) const GET_MULTIPLE_ACCOUNTS: Tool = tool(
    "get_multiple_accounts",
    "Asks for up to 100 accounts at once; in the place of one that there is not stands null.",
    READS,
    with_commitment!(
        r#""addresses":{"type":"array","maxItems":100,"items":{"type":"string"}}"#,
        data_slice!();
        required r#"["addresses"]"#
    ),
    concat!(
        r#"{"type":"object","properties":{"slot":{"type":"integer","minimum":0},"accounts":{"type":"array","items":"#,
        account!(r#"["object","null"]"#),
        r#"}},"required":["slot","accounts"],"additionalProperties":false}"#
    ),
    |context, arguments, reply| {
        let [addresses, slice, commitment] =
            arguments.fields(["addresses", "data_slice", "commitment"])?;
        let (slice, commitment) = (DataSlice::read(slice)?, commitment.commitment()?);
        let given = addresses.required()?.list(MAX_ACCOUNTS)?;
        let mut addresses = Vec::new();
        for one in given {
            addresses.push(one.address()?.text());
        }
        let params = |params: &mut Array<'_>| {
            params.array(|list| addresses.iter().for_each(|address| list.text(address)));
            settings(params, commitment, |o| data_settings(o, slice));
        };
        rpc::ask(context, "getMultipleAccounts", &params, &mut |result| {
            let (slot, accounts) = of_slot(result)?;
            let mut addresses = addresses.iter();
            reply.object(|o| {
                o.number("slot", slot);
                o.array("accounts", |list| {
                    accounts.each(&mut |account| {
                        let address =
                            addresses.next().ok_or_else(|| accounts.odd("as long as asked for"))?;
                        if account.is_nothing() {
                            list.raw(RawValue::NULL);
                            return Ok(());
                        }
                        list.object(|o| show(o, address, account, slice.is_some()))
                    })
                })
            })?;
            match addresses.next() {
                None => Ok(()),
                Some(_) => Err(accounts.odd("as long as asked for").into()),
            }
        })
    },
);

pub(in crate::tools) const GET_PROGRAM_ACCOUNTS: Tool = tool(
    "get_program_accounts",
    "Asks for the accounts a program owns, filtered, up to a limit. A program with many accounts \
     takes filters or a short `data_slice`: at most 4 MiB are read of the node's answer.",
    READS,
    with_commitment!(
        r#""program_id":{"type":"string"}"#,
        r#""filters":{"type":"array","maxItems":4,"items":{"type":"object","properties":{"data_size":{"type":"integer","minimum":0},"memcmp":{"type":"object","properties":{"offset":{"type":"integer","minimum":0},"bytes":{"type":"string","description":"base58"}},"required":["offset","bytes"],"additionalProperties":false}},"minProperties":1,"maxProperties":1,"additionalProperties":false}}"#,
        data_slice!(),
        r#""limit":{"type":"integer","minimum":1,"maximum":1000,"description":"100 when not given"}"#;
        required r#"["program_id"]"#
    ),
    concat!(
        r#"{"type":"object","properties":{"slot":{"type":"integer","minimum":0},"#,
        r#""total":{"type":"integer","minimum":0,"description":"how many there are; the first up to the limit are listed"},"#,
        r#""accounts":{"type":"array","items":"#,
        account!(r#""object""#),
        r#"}},"required":["slot","total","accounts"],"additionalProperties":false}"#
    ),
    |context, arguments, reply| {
        let [program, filters, slice, limit, commitment] =
            arguments.fields(["program_id", "filters", "data_slice", "limit", "commitment"])?;
        let program = program.address()?.text();
        let (slice, commitment) = (DataSlice::read(slice)?, commitment.commitment()?);
        let limit = limit.optional_number(1..=MAX_LISTED)?.unwrap_or(LISTED);
        let mut wanted = Vec::new();
        for filter in filters.list(MAX_FILTERS)? {
            wanted.push(Filter::read(filter)?);
        }
        let params = |params: &mut Array<'_>| {
            params.text(&program);
            settings(params, commitment, |o| {
                o.flag("withContext", true);
                data_settings(o, slice);
                o.array("filters", |list| {
                    wanted.iter().for_each(|filter| list.object(|o| filter.write(o)));
                });
            });
        };
        rpc::ask(context, "getProgramAccounts", &params, &mut |result| {
            let (slot, accounts) = of_slot(result)?;
            let total = Cell::new(0);
            reply.object(|o| {
                o.number("slot", slot);
                o.array("accounts", |list| {
                    accounts.each(&mut |part| {
                        total.set(total.get() + 1);
                        if limit < total.get() {
                            return Ok(());
                        }
                        let [address, account] = part.parts(["pubkey", "account"])?;
                        let address = address.text()?;
                        list.object(|o| show(o, &address, account, slice.is_some()))
                    })
                })?;
                o.number("total", total.get());
                Ok(())
            })
        })
    },
);

/// Which accounts of a program are meant.
enum Filter<'a> {
    DataSize(u64),
    Memcmp { offset: u64, bytes: Cow<'a, str> },
}

impl<'a> Filter<'a> {
    fn read(field: Field<'a>) -> Result<Self, RpcError> {
        let wrong = || {
            field.invalid(&"a filter is {\"data_size\"} or {\"memcmp\": {\"offset\", \"bytes\"}}")
        };
        let [size, compare] = field.fields(["data_size", "memcmp"])?;
        match (size.is_nothing(), compare.is_nothing()) {
            (false, true) => Ok(Self::DataSize(size.part().number().map_err(|_| wrong())?)),
            (true, false) => {
                let [offset, bytes] =
                    compare.part().parts(["offset", "bytes"]).map_err(|_| wrong())?;
                let offset = offset.number().map_err(|_| wrong())?;
                Ok(Self::Memcmp { offset, bytes: bytes.text().map_err(|_| wrong())? })
            }
            _ => Err(wrong()),
        }
    }

    fn write(&self, o: &mut Object<'_>) {
        match self {
            Self::DataSize(size) => o.number("dataSize", *size),
            Self::Memcmp { offset, bytes } => o.object("memcmp", |o| {
                o.number("offset", *offset);
                o.text("bytes", bytes);
            }),
        }
    }
}

fn data_settings(o: &mut Object<'_>, slice: Option<DataSlice>) {
    o.text("encoding", "base64");
    if let Some(DataSlice { offset, length }) = slice {
        o.object("dataSlice", |o| {
            o.number("offset", offset);
            o.number("length", length);
        });
    }
}

/// Writes one account.
fn show(
    o: &mut Object<'_>,
    address: &str,
    account: Part<'_>,
    sliced: bool,
) -> Result<(), RpcError> {
    let [lamports, owner, executable, data, space] =
        account.parts(["lamports", "owner", "executable", "data", "space"])?;
    let mut of_data = [None, None];
    let mut places = of_data.iter_mut();
    data.each(&mut |part| {
        *places.next().ok_or_else(|| data.odd("base64"))? = Some(part);
        Ok(())
    })?;
    let [Some(bytes), Some(encoding)] = of_data else { return Err(data.odd("base64").into()) };
    if encoding.text()? != "base64" {
        return Err(data.odd("base64").into());
    }
    let bytes = bytes.text()?;
    // Old nodes do not tell the size, and a slice does not show it.
    let size = space.optional_number()?.or_else(|| (!sliced).then(|| base64_len(&bytes)));
    o.text("address", address);
    o.number("lamports", lamports.number()?);
    o.text("owner", &owner.text()?);
    o.flag("executable", executable.flag()?);
    o.optional_number("size_bytes", size);
    o.text("data_base64", &bytes);
    Ok(())
}

/// How many bytes a text in base64 means: 4 digits for 3 bytes, padding apart.
fn base64_len(text: &str) -> u64 {
    let digits = text.trim_end_matches('=').len() as u64;
    digits.saturating_mul(3) / 4
}

pub(in crate::tools) const GET_MINIMUM_BALANCE_FOR_RENT_EXEMPTION: Tool = tool(
    "get_minimum_balance_for_rent_exemption",
    "Asks how many lamports an account of a size must hold to stay.",
    READS,
    with_commitment!(
        r#""size_bytes":{"type":"integer","minimum":0,"maximum":10485760}"#;
        required r#"["size_bytes"]"#
    ),
    object!(r#""lamports":{"type":"integer","minimum":0}"#; required r#"["lamports"]"#),
    |context, arguments, reply| {
        let [size, commitment] = arguments.fields(["size_bytes", "commitment"])?;
        let (size, commitment) = (size.number(0..=MAX_DATA)?, commitment.commitment()?);
        let params = |params: &mut Array<'_>| {
            params.number(size);
            settings(params, commitment, |_| ());
        };
        rpc::ask(context, "getMinimumBalanceForRentExemption", &params, &mut |result| {
            let lamports = result.number()?;
            reply.object(|o| o.number("lamports", lamports));
            Ok(())
        })
    },
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lamports_are_written_in_sol_to_the_last_digit() {
        for (lamports, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000_000, "1.5"),
            (10_000_000_000, "10"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(sol(lamports), text);
        }
    }

    #[test]
    fn the_length_of_data_follows_from_its_base64() {
        for (text, len) in [("", 0), ("aA==", 1), ("aGk=", 2), ("aGk", 2), ("aGlo", 3)] {
            assert_eq!(base64_len(text), len, "{text}");
        }
    }
}
