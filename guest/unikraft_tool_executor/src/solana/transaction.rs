//! Transactions as they travel: signatures, then a message, legacy or version 0.
//!
//! ```text
//! ├ n ┼ n signatures ┼ message ┤
//!                    ├ 0x80? ┼ header ┼ n ┼ n keys ┼ blockhash ┼ n ┼ n instructions ┼ look-ups? ┤
//! ```
//!
//! # Invariants
//!
//! - A [`Transaction`] keeps the rules Solana checks before it looks at anything else: every index
//!   points at an account, every signer has a signature, the fee payer is writable and runs no
//!   program. Bytes that break one are refused with the rule's name, as a node would refuse them.
//! - Room is only made for what is really there: no count is believed in advance.

use super::reader::Reader;
use super::signature::Signature;
use alloc::vec::Vec;
use thiserror::Error;

/// Most bytes that fit a packet of Solana's network today.
pub(crate) const PACKET_LEN: usize = 1_232;

/// Most bytes decoded: larger packets are being discussed, and somebody may ask why a transaction
/// is too large.
pub(crate) const MAX_LEN: usize = 4_096;

/// Accounts an instruction can point at with its one byte.
const MAX_ACCOUNTS: usize = 256;

/// The bit of a message's first byte that says that it has a version.
const VERSIONED: u8 = 0x80;

/// A transaction that could be sent.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    /// One per signer, in the order of the accounts.
    pub(crate) signatures: Vec<Signature>,
    /// What is signed.
    pub(crate) message: &'a [u8],
    /// How the message is written.
    pub(crate) version: Version,
    /// How many accounts sign and write.
    pub(crate) header: Header,
    /// The accounts written out; further ones come from look-up tables.
    pub(crate) keys: Vec<&'a [u8; 32]>,
    /// Says how old the transaction is.
    pub(crate) blockhash: &'a [u8; 32],
    /// What it does.
    pub(crate) instructions: Vec<Instruction<'a>>,
    /// Where further accounts come from.
    pub(crate) lookups: Vec<Lookup<'a>>,
}

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Without look-up tables.
    Legacy,
    /// With look-up tables.
    V0,
}

/// How many accounts sign and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The first accounts, which sign.
    pub(crate) signers: u8,
    /// The last of those, which are only read.
    pub(crate) readonly_signers: u8,
    /// The last of the others, which are only read.
    pub(crate) readonly_others: u8,
}

/// One call of a program.
#[derive(Debug)]
pub(crate) struct Instruction<'a> {
    /// Which account is the program.
    pub(crate) program: usize,
    /// The accounts it gets.
    pub(crate) accounts: &'a [u8],
    /// What it is told.
    pub(crate) data: &'a [u8],
}

/// Accounts taken from one look-up table.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    /// The table's address.
    pub(crate) table: &'a [u8; 32],
    /// Entries that are written.
    pub(crate) writable: &'a [u8],
    /// Entries that are only read.
    pub(crate) readonly: &'a [u8],
}

/// The bytes are not a transaction a node would look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TransactionError {
    /// Longer than [`MAX_LEN`].
    #[error("{0} bytes are over the limit of {MAX_LEN}")]
    TooLong(usize),
    /// They end early, or a length is not written as Solana writes it.
    #[error("{0} cannot be read: the bytes end early or a length is malformed")]
    Unreadable(&'static str),
    /// They go on after the end.
    #[error("{0} bytes follow the end of the transaction")]
    TrailingBytes(usize),
    /// A version without a decoder.
    #[error("message version {0} is not known, only legacy and 0 are")]
    Version(u8),
    /// The numbers in the header do not fit together.
    #[error(
        "header does not fit the {keys} accounts: {signers} signers, {readonly_signers} of them and {readonly_others} others only read"
    )]
    Header {
        /// Accounts written out.
        keys: usize,
        /// See [`Header`].
        signers: u8,
        /// See [`Header`].
        readonly_signers: u8,
        /// See [`Header`].
        readonly_others: u8,
    },
    /// Signers and signatures are not as many.
    #[error("{signers} signers have {signatures} signatures")]
    Signatures {
        /// Signers by the header.
        signers: u8,
        /// Signatures given.
        signatures: usize,
    },
    /// More accounts than an instruction can point at.
    #[error("{0} accounts are over the limit of {MAX_ACCOUNTS}")]
    TooManyAccounts(usize),
    /// A look-up that looks nothing up.
    #[error("look-up {0} of an address table is empty")]
    EmptyLookup(usize),
    /// A program that is not among the accounts written out, or is the fee payer.
    #[error("instruction {instruction} calls account {account}, which cannot be a program")]
    Program {
        /// The instruction's position.
        instruction: usize,
        /// The account's position.
        account: usize,
    },
    /// An account that is not there.
    #[error("instruction {instruction} uses account {account}, which does not exist")]
    Account {
        /// The instruction's position.
        instruction: usize,
        /// The account's position.
        account: u8,
    },
}

impl<'a> Transaction<'a> {
    /// Reads all of `bytes`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, TransactionError> {
        if MAX_LEN < bytes.len() {
            return Err(TransactionError::TooLong(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let signatures = read_many(&mut reader, |reader| reader.array().copied().map(Signature))
            .ok_or(TransactionError::Unreadable("list of signatures"))?;
        let message = reader.rest();
        let version = version(&mut reader)?;
        let header = header(&mut reader).ok_or(TransactionError::Unreadable("header"))?;
        let keys = read_many(&mut reader, Reader::array)
            .ok_or(TransactionError::Unreadable("list of accounts"))?;
        let blockhash = reader.array().ok_or(TransactionError::Unreadable("blockhash"))?;
        let instructions = read_many(&mut reader, instruction)
            .ok_or(TransactionError::Unreadable("list of instructions"))?;
        let lookups = match version {
            Version::Legacy => Vec::new(),
            Version::V0 => read_many(&mut reader, lookup)
                .ok_or(TransactionError::Unreadable("list of address table look-ups"))?,
        };
        if !reader.rest().is_empty() {
            return Err(TransactionError::TrailingBytes(reader.rest().len()));
        }
        let transaction =
            Self { signatures, message, version, header, keys, blockhash, instructions, lookups };
        transaction.check()?;
        Ok(transaction)
    }

    /// Whether the account at this position signs.
    pub(crate) fn signs(&self, account: usize) -> bool {
        account < self.header.signers.into()
    }

    /// Whether the message asks to write the account at this position, one of those written out.
    ///
    /// A node also takes programs and sysvars as read-only, whatever the message asks.
    pub(crate) fn writes(&self, account: usize) -> bool {
        let Header { signers, readonly_signers, readonly_others } = self.header;
        let end = if self.signs(account) {
            usize::from(signers).saturating_sub(readonly_signers.into())
        } else {
            self.keys.len().saturating_sub(readonly_others.into())
        };
        account < end
    }

    fn check(&self) -> Result<(), TransactionError> {
        let Header { signers, readonly_signers, readonly_others } = self.header;
        let keys = self.keys.len();
        if signers <= readonly_signers || keys < usize::from(signers) + usize::from(readonly_others)
        {
            return Err(TransactionError::Header {
                keys,
                signers,
                readonly_signers,
                readonly_others,
            });
        }
        let signatures = self.signatures.len();
        if usize::from(signers) != signatures {
            return Err(TransactionError::Signatures { signers, signatures });
        }
        if let Some(empty) = self.lookups.iter().position(|lookup| lookup.len() == 0) {
            return Err(TransactionError::EmptyLookup(empty));
        }
        let accounts = self.lookups.iter().map(Lookup::len).fold(keys, usize::saturating_add);
        if MAX_ACCOUNTS < accounts {
            return Err(TransactionError::TooManyAccounts(accounts));
        }
        for (at, instruction) in self.instructions.iter().enumerate() {
            if instruction.program == 0 || keys <= instruction.program {
                let account = instruction.program;
                return Err(TransactionError::Program { instruction: at, account });
            }
            let missing = instruction.accounts.iter().find(|index| accounts <= (**index).into());
            if let Some(&account) = missing {
                return Err(TransactionError::Account { instruction: at, account });
            }
        }
        Ok(())
    }
}

impl Lookup<'_> {
    fn len(&self) -> usize {
        self.writable.len().saturating_add(self.readonly.len())
    }
}

fn version(reader: &mut Reader<'_>) -> Result<Version, TransactionError> {
    match reader.rest().first() {
        None => Err(TransactionError::Unreadable("message")),
        Some(first) if first & VERSIONED == 0 => Ok(Version::Legacy),
        Some(first) => match first & !VERSIONED {
            0 => reader.u8().map(|_| Version::V0).ok_or(TransactionError::Unreadable("message")),
            version => Err(TransactionError::Version(version)),
        },
    }
}

fn header(reader: &mut Reader<'_>) -> Option<Header> {
    let [signers, readonly_signers, readonly_others] = *reader.array()?;
    Some(Header { signers, readonly_signers, readonly_others })
}

fn instruction<'a>(reader: &mut Reader<'a>) -> Option<Instruction<'a>> {
    let program = reader.u8()?.into();
    let accounts = counted_bytes(reader)?;
    let data = counted_bytes(reader)?;
    Some(Instruction { program, accounts, data })
}

fn lookup<'a>(reader: &mut Reader<'a>) -> Option<Lookup<'a>> {
    let table = reader.array()?;
    let writable = counted_bytes(reader)?;
    let readonly = counted_bytes(reader)?;
    Some(Lookup { table, writable, readonly })
}

fn counted_bytes<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = reader.compact_u16()?;
    reader.take(len)
}

fn read_many<'a, T>(
    reader: &mut Reader<'a>,
    mut read_one: impl FnMut(&mut Reader<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = reader.compact_u16()?;
    let mut many = Vec::new();
    for _ in 0..count {
        many.push(read_one(reader)?);
    }
    Some(many)
}

#[cfg(test)]
mod tests;
