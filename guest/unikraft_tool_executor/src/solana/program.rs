//! Instructions of the programs we know, decoded from tables.
//!
//! ```text
//! data:     ├ tag ┼ field ┼ field ┼ … ┤ bytes the program ignores ┤
//! accounts: named, then optional, then the rest
//! ```
//!
//! A program is a table of [`Layout`]s, one per instruction; [`decode`] is the one reader for all
//! of them. Names are those of Solana's own JSON form (`jsonParsed`), so a reader of either knows
//! the other.
//!
//! # Invariants
//!
//! - Decoding allocates in proportion to the data, and nests one level (a token batch).
//! - What a program ignores is not an error: bytes after the last field are counted, and accounts
//!   after the last name stay in the instruction's own list.

mod compute_budget;
mod memo;
mod system;
mod token;

use super::reader::Reader;
use alloc::vec::Vec;
use thiserror::Error;

/// A program whose instructions we know.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its address, in base58.
    pub(crate) id: &'static str,
    /// The name Solana's JSON form gives it.
    pub(crate) name: &'static str,
    tag: Tag,
    /// The first table that has the tag is right.
    tables: &'static [&'static [Layout]],
}

/// Every program we know.
const PROGRAMS: [&Program; 6] = [
    &system::PROGRAM,
    &token::PROGRAM,
    &token::PROGRAM_2022,
    &compute_budget::PROGRAM,
    &memo::PROGRAM,
    &memo::PROGRAM_V1,
];

/// How an instruction says which one it is.
#[derive(Clone, Copy, Debug)]
enum Tag {
    /// The program has one instruction.
    None,
    /// One byte.
    U8,
    /// Four bytes, little-endian.
    U32,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
struct Layout {
    tag: u32,
    kind: &'static str,
    fields: &'static [(&'static str, Kind)],
    accounts: &'static [&'static str],
    optional: &'static [&'static str],
    rest: Option<&'static str>,
}

/// An instruction with its fields in data, and the accounts it cannot do without.
const fn layout(
    tag: u32,
    kind: &'static str,
    fields: &'static [(&'static str, Kind)],
    accounts: &'static [&'static str],
) -> Layout {
    Layout { tag, kind, fields, accounts, optional: &[], rest: None }
}

impl Layout {
    /// Accounts that may be missing.
    const fn optional(self, optional: &'static [&'static str]) -> Self {
        Self { optional, ..self }
    }

    /// The name of all further accounts.
    const fn rest(self, name: &'static str) -> Self {
        Self { rest: Some(name), ..self }
    }
}

/// What a field is made of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    U8,
    U32,
    U64,
    /// A token amount: Solana's JSON form writes it as text.
    Amount,
    /// A byte that says whether there is one, then a token amount.
    OptionalAmount,
    Key,
    /// A byte that says whether there is one, then the key.
    OptionalKey,
    /// Length in 8 bytes, then UTF-8.
    Text,
    /// UTF-8 to the end.
    TextToEnd,
    /// A byte that picks a word.
    Word(&'static [&'static str]),
    /// Numbers of two bytes to the end.
    U16sToEnd,
    /// Bytes to the end that are not decoded further.
    BytesToEnd,
    /// Instructions of the same program to the end, each with its number of accounts and its
    /// length in front.
    Batch,
}

/// A field's value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number.
    Number(u64),
    /// A token amount.
    Amount(u64),
    /// A key.
    Key(&'a [u8; 32]),
    /// There is none.
    Nothing,
    /// Text.
    Text(&'a str),
    /// Several numbers.
    Numbers(Vec<u64>),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Instructions within the instruction.
    Batch(Vec<Decoded<'a>>),
}

/// A decoded instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded<'a> {
    /// Its name.
    pub(crate) kind: &'static str,
    /// Names of accounts, and their position in the instruction's list.
    pub(crate) accounts: Vec<(&'static str, usize)>,
    /// The name of all further accounts, and the positions of those.
    pub(crate) rest: Option<(&'static str, core::ops::Range<usize>)>,
    /// Names and values of fields.
    pub(crate) fields: Vec<(&'static str, Value<'a>)>,
    /// Bytes after the last field, which the program ignores.
    pub(crate) ignored_bytes: usize,
}

/// Why the program would refuse the instruction, or we do not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Undecoded {
    /// The data ends before it says which instruction it is.
    #[error("data is too short to name an instruction")]
    NoTag,
    /// A number without an instruction.
    #[error("instruction {0} is not known")]
    UnknownTag(u32),
    /// The data ends inside a field, or the field says something impossible.
    #[error("`{field}` of `{kind}` cannot be read")]
    BadField {
        /// The instruction.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
    /// Fewer accounts than the program needs.
    #[error("`{kind}` needs {needed} accounts and has {given}")]
    MissingAccounts {
        /// The instruction.
        kind: &'static str,
        /// Accounts it cannot do without.
        needed: usize,
        /// Accounts it was given.
        given: usize,
    },
}

/// The program with this address, if we know it.
pub(crate) fn known(id: &str) -> Option<&'static Program> {
    PROGRAMS.into_iter().find(|program| program.id == id)
}

/// Decodes an instruction that was given `accounts` accounts.
pub(crate) fn decode<'a>(
    program: &Program,
    data: &'a [u8],
    accounts: usize,
) -> Result<Decoded<'a>, Undecoded> {
    decode_part(program, data, 0..accounts, Depth::Top)
}

/// A batch within a batch is refused, by the program as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    InBatch,
}

fn decode_part<'a>(
    program: &Program,
    data: &'a [u8],
    accounts: core::ops::Range<usize>,
    depth: Depth,
) -> Result<Decoded<'a>, Undecoded> {
    let mut reader = Reader::new(data);
    let tag = match program.tag {
        Tag::None => Some(0),
        Tag::U8 => reader.u8().map(u32::from),
        Tag::U32 => reader.u32(),
    };
    let tag = tag.ok_or(Undecoded::NoTag)?;
    let layout = program.tables.iter().copied().flatten().find(|layout| layout.tag == tag);
    let layout = layout.ok_or(Undecoded::UnknownTag(tag))?;
    let mut fields = Vec::with_capacity(layout.fields.len());
    for (name, kind) in layout.fields {
        let bad_field = Undecoded::BadField { kind: layout.kind, field: name };
        let value = match kind {
            Kind::Batch if depth == Depth::InBatch => return Err(bad_field),
            Kind::Batch => batch(program, &mut reader, accounts.clone(), bad_field)?,
            kind => value(*kind, &mut reader).ok_or(bad_field)?,
        };
        fields.push((*name, value));
    }
    let (accounts, rest) = name_accounts(layout, accounts)?;
    let ignored_bytes = reader.rest().len();
    Ok(Decoded { kind: layout.kind, accounts, rest, fields, ignored_bytes })
}

type Named = (Vec<(&'static str, usize)>, Option<(&'static str, core::ops::Range<usize>)>);

fn name_accounts(layout: &Layout, given: core::ops::Range<usize>) -> Result<Named, Undecoded> {
    let (kind, needed) = (layout.kind, layout.accounts.len());
    if given.len() < needed {
        return Err(Undecoded::MissingAccounts { kind, needed, given: given.len() });
    }
    let names = layout.accounts.iter().chain(layout.optional).copied();
    let accounts: Vec<_> = names.zip(given.clone()).collect();
    let rest = given.start.saturating_add(accounts.len())..given.end;
    let rest = layout.rest.map(|name| (name, rest)).filter(|(_, rest)| !rest.is_empty());
    Ok((accounts, rest))
}

fn value<'a>(kind: Kind, reader: &mut Reader<'a>) -> Option<Value<'a>> {
    Some(match kind {
        Kind::U8 => Value::Number(reader.u8()?.into()),
        Kind::U32 => Value::Number(reader.u32()?.into()),
        Kind::U64 => Value::Number(reader.u64()?),
        Kind::Amount => Value::Amount(reader.u64()?),
        Kind::OptionalAmount => match reader.u8()? {
            0 => Value::Nothing,
            1 => Value::Amount(reader.u64()?),
            _ => return None,
        },
        Kind::Key => Value::Key(reader.array()?),
        Kind::OptionalKey => match reader.u8()? {
            0 => Value::Nothing,
            1 => Value::Key(reader.array()?),
            _ => return None,
        },
        Kind::Text => {
            let len = usize::try_from(reader.u64()?).ok()?;
            Value::Text(str::from_utf8(reader.take(len)?).ok()?)
        }
        Kind::TextToEnd => Value::Text(str::from_utf8(reader.take_rest()).ok()?),
        Kind::Word(words) => Value::Text(words.get(usize::from(reader.u8()?))?),
        Kind::U16sToEnd => {
            let mut numbers = Vec::with_capacity(reader.rest().len() / 2);
            while !reader.rest().is_empty() {
                numbers.push(reader.u16()?.into());
            }
            Value::Numbers(numbers)
        }
        Kind::BytesToEnd => Value::Bytes(reader.take_rest()),
        // It needs the program, so `batch` reads it.
        Kind::Batch => return None,
    })
}

fn batch<'a>(
    program: &Program,
    reader: &mut Reader<'a>,
    accounts: core::ops::Range<usize>,
    bad_field: Undecoded,
) -> Result<Value<'a>, Undecoded> {
    let mut instructions = Vec::new();
    let mut start = accounts.start;
    while !reader.rest().is_empty() {
        let count = reader.u8().ok_or(bad_field)?;
        let len = reader.u8().ok_or(bad_field)?;
        let data = reader.take(len.into()).ok_or(bad_field)?;
        let end = start.saturating_add(count.into());
        if accounts.end < end {
            return Err(bad_field);
        }
        instructions.push(decode_part(program, data, start..end, Depth::InBatch)?);
        start = end;
    }
    Ok(Value::Batch(instructions))
}

#[cfg(test)]
mod tests;
