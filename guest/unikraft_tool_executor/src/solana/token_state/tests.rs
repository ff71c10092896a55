//! What the decoder promises beyond the vectors, which are in `tests/black_box`.

use super::*;
use alloc::vec;
use proptest::prelude::*;

/// An extended account: its type, and what follows.
fn extended(kind: u8, extensions: &[u8]) -> Vec<u8> {
    let mut data = vec![0; ACCOUNT_LEN];
    data.push(kind);
    data.extend_from_slice(extensions);
    data
}

fn listed(data: &[u8]) -> Vec<(u16, usize)> {
    let found = match TokenState::parse(data).unwrap() {
        TokenState::Account(account) => account.extensions,
        TokenState::Mint(mint) => mint.extensions,
        TokenState::Multisig(_) => None,
    };
    found.unwrap().iter().map(|extension| (extension.kind, extension.data.len())).collect()
}

#[track_caller]
fn check(data: &[u8], expected: TokenStateError) {
    assert_eq!(TokenState::parse(data).unwrap_err(), expected);
}

#[test]
fn only_known_lengths_are_read() {
    for len in [0, 1, 81, 83, 164] {
        check(&vec![0; len], TokenStateError::Length(len));
    }
    check(&vec![0; MAX_LEN + 1], TokenStateError::Length(MAX_LEN + 1));
}

#[test]
fn an_extended_account_says_what_it_is() {
    check(&extended(0, &[]), TokenStateError::Kind(0));
    check(&extended(3, &[]), TokenStateError::Kind(3));
    assert_eq!(listed(&extended(1, &[])), []);
    assert_eq!(listed(&extended(2, &[])), []);
}

#[test]
fn extensions_are_listed_up_to_the_padding() {
    assert_eq!(listed(&extended(2, &[7, 0, 0, 0, 11, 0, 1, 0, 5])), [(7, 0), (11, 1)]);
    assert_eq!(listed(&extended(2, &[7, 0, 0, 0, 0, 0, 9, 9, 9, 9])), [(7, 0)]);
    assert_eq!(listed(&extended(2, &[7, 0, 0, 0, 1])), [(7, 0)]);
    // A number without a name is still an extension.
    let data = extended(2, &[0xff, 0xff, 0, 0]);
    assert_eq!(listed(&data), [(0xffff, 0)]);
    assert_eq!(Extension { kind: 0xffff, data: &[] }.name(), None);
    assert_eq!(Extension { kind: 18, data: &[] }.name(), Some("metadataPointer"));
}

#[test]
fn an_extension_that_is_cut_off_is_refused() {
    check(&extended(2, &[7, 0, 0, 0, 7, 0, 1]), TokenStateError::Extension(1));
    check(&extended(2, &[7, 0, 2, 0, 1]), TokenStateError::Extension(0));
}

#[test]
fn values_the_program_never_writes_are_refused() {
    for (at, value, field) in
        [(72, 2, "delegate"), (108, 3, "state"), (109, 2, "is_native"), (129, 9, "close_authority")]
    {
        let mut data = vec![0; ACCOUNT_LEN];
        data[at] = value;
        check(&data, TokenStateError::Field(field));
    }
    for (at, value, field) in
        [(0, 2, "mint_authority"), (45, 2, "is_initialized"), (46, 7, "freeze_authority")]
    {
        let mut data = vec![0; MINT_LEN];
        data[at] = value;
        check(&data, TokenStateError::Field(field));
    }
    let mut data = vec![0; MULTISIG_LEN];
    data[1] = 12;
    check(&data, TokenStateError::Field("n"));
    let mut data = extended(1, &[]);
    data[100] = 1;
    check(&data, TokenStateError::Field("padding"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes: Vec<u8>, extensions: Vec<u8>, kind in 0..4_u8) {
        let _ = TokenState::parse(&bytes);
        let _ = TokenState::parse(&extended(kind, &extensions));
        for len in [MINT_LEN, ACCOUNT_LEN, MULTISIG_LEN] {
            let mut bytes = bytes.clone();
            bytes.resize(len, 1);
            let _ = TokenState::parse(&bytes);
        }
    }
}
