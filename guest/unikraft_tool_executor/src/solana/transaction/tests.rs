//! What the parser promises beyond the vectors, which are in `tests/black_box`.

use super::super::encoding::Encoding;
use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// A transaction in its parts, so that a test can break one of them.
struct Parts {
    signatures: u8,
    version: Option<u8>,
    header: [u8; 3],
    keys: u8,
    instructions: Vec<(u8, Vec<u8>)>,
    lookups: Vec<(u8, u8)>,
}

const GOOD: Parts = Parts {
    signatures: 1,
    version: None,
    header: [1, 0, 1],
    keys: 3,
    instructions: Vec::new(),
    lookups: Vec::new(),
};

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.signatures];
        bytes.resize(bytes.len() + usize::from(self.signatures) * 64, 1);
        bytes.extend(self.version.map(|version| VERSIONED | version));
        bytes.extend(self.header);
        bytes.push(self.keys);
        bytes.resize(bytes.len() + usize::from(self.keys) * 32 + 32, 2);
        bytes.push(u8::try_from(self.instructions.len()).unwrap());
        for (program, accounts) in &self.instructions {
            bytes.extend([*program, u8::try_from(accounts.len()).unwrap()]);
            bytes.extend(accounts);
            bytes.extend([2, 8, 9]);
        }
        if self.version.is_some() {
            bytes.push(u8::try_from(self.lookups.len()).unwrap());
            for (writable, readonly) in &self.lookups {
                bytes.extend([3; 32]);
                for count in [*writable, *readonly] {
                    // All counts here are below 128, one byte long.
                    bytes.push(count);
                    bytes.extend(0..count);
                }
            }
        }
        bytes
    }
}

#[track_caller]
fn check(parts: &Parts, expected: TransactionError) {
    assert_eq!(Transaction::parse(&parts.bytes()).unwrap_err(), expected);
}

#[test]
fn a_good_one_is_read() {
    let parts = Parts { instructions: vec![(2, vec![0, 1])], ..GOOD };
    let bytes = parts.bytes();
    let transaction = Transaction::parse(&bytes).unwrap();
    assert_eq!(transaction.message, &bytes[65..]);
    assert_eq!(transaction.keys.len(), 3);
    assert_eq!([0, 1, 2].map(|at| transaction.signs(at)), [true, false, false]);
    assert_eq!([0, 1, 2].map(|at| transaction.writes(at)), [true, true, false]);
    assert_eq!(transaction.instructions[0].data, [8, 9]);
}

#[test]
fn the_header_must_fit_the_accounts() {
    let error = |[signers, readonly_signers, readonly_others]: [u8; 3], keys| {
        let expected = TransactionError::Header {
            keys: usize::from(keys),
            signers,
            readonly_signers,
            readonly_others,
        };
        let header = [signers, readonly_signers, readonly_others];
        check(&Parts { header, keys, signatures: signers, ..GOOD }, expected);
    };
    error([1, 1, 0], 3);
    error([0, 0, 0], 3);
    error([1, 0, 3], 3);
    error([2, 0, 0], 1);
    error([1, 0, 0], 0);
}

#[test]
fn every_signer_has_one_signature() {
    for signatures in [0, 2] {
        let expected =
            TransactionError::Signatures { signers: 1, signatures: usize::from(signatures) };
        check(&Parts { signatures, ..GOOD }, expected);
    }
}

#[test]
fn programs_are_written_out_and_are_not_the_fee_payer() {
    for program in [0, 3] {
        let expected = TransactionError::Program { instruction: 1, account: usize::from(program) };
        let instructions = vec![(1, vec![]), (program, vec![])];
        check(&Parts { instructions, ..GOOD }, expected);
    }
    // A program from a look-up table is refused as well.
    let instructions = vec![(3, vec![])];
    let parts = Parts { version: Some(0), lookups: vec![(1, 0)], instructions, ..GOOD };
    check(&parts, TransactionError::Program { instruction: 0, account: 3 });
}

#[test]
fn accounts_may_come_from_look_up_tables_and_must_exist() {
    let good = Parts {
        version: Some(0),
        lookups: vec![(1, 1)],
        instructions: vec![(1, vec![3, 4])],
        ..GOOD
    };
    assert_eq!(Transaction::parse(&good.bytes()).unwrap().version, Version::V0);
    let parts = Parts { instructions: vec![(1, vec![3, 5])], ..good };
    check(&parts, TransactionError::Account { instruction: 0, account: 5 });
}

#[test]
fn a_look_up_looks_something_up() {
    let parts = Parts { version: Some(0), lookups: vec![(1, 0), (0, 0)], ..GOOD };
    check(&parts, TransactionError::EmptyLookup(1));
}

#[test]
fn more_accounts_than_a_byte_can_name_are_refused() {
    let parts = Parts { version: Some(0), lookups: vec![(127, 127)], ..GOOD };
    check(&parts, TransactionError::TooManyAccounts(257));
}

#[test]
fn versions_to_come_are_named() {
    check(&Parts { version: Some(1), ..GOOD }, TransactionError::Version(1));
    check(&Parts { version: Some(127), ..GOOD }, TransactionError::Version(127));
}

#[test]
fn every_cut_is_noticed_and_so_is_every_byte_too_many() {
    let lookups = vec![(1, 1)];
    let instructions = vec![(1, vec![0])];
    let mut bytes = Parts { version: Some(0), lookups, instructions, ..GOOD }.bytes();
    for len in 0..bytes.len() {
        let error = Transaction::parse(&bytes[..len]).unwrap_err();
        assert!(matches!(error, TransactionError::Unreadable(_)), "{len}: {error}");
    }
    bytes.extend([0, 0]);
    assert_eq!(Transaction::parse(&bytes).unwrap_err(), TransactionError::TrailingBytes(2));
}

#[test]
fn what_is_too_long_is_not_looked_at() {
    let bytes = vec![0; MAX_LEN + 1];
    assert_eq!(Transaction::parse(&bytes).unwrap_err(), TransactionError::TooLong(MAX_LEN + 1));
}

/// Transactions made by Solana's own library.
static GOOD_TRANSACTIONS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let file = include_str!("../../../tests/vectors/transactions.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let list = file["transactions"].as_array().unwrap();
    list.iter()
        .map(|one| Encoding::Base64.decode(one["base64"].as_str().unwrap()).unwrap())
        .collect()
});

/// Whatever is accepted is safe to show.
fn is_sound(transaction: &Transaction<'_>) -> bool {
    let looked_up: usize = transaction.lookups.iter().map(Lookup::len).sum();
    let accounts = transaction.keys.len() + looked_up;
    transaction.signatures.len() <= transaction.keys.len()
        && transaction.writes(0)
        && transaction.instructions.iter().all(|instruction| {
            instruction.program < transaction.keys.len()
                && instruction.accounts.iter().all(|account| usize::from(*account) < accounts)
        })
}

proptest! {
    #[test]
    fn any_bytes_are_a_sound_transaction_or_an_error(bytes: Vec<u8>) {
        assert!(Transaction::parse(&bytes).is_ok_and(|t| is_sound(&t)) || Transaction::parse(&bytes).is_err());
    }

    #[test]
    fn changed_transactions_are_sound_or_refused(
        which: prop::sample::Index, at: prop::sample::Index, byte: u8, cut: Option<prop::sample::Index>,
    ) {
        let good = &*GOOD_TRANSACTIONS;
        let mut bytes = good[which.index(good.len())].clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(transaction) = Transaction::parse(&bytes) {
            assert!(is_sound(&transaction));
        }
    }
}
