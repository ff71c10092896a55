//! What the decoder promises beyond the vectors, which are in `tests/black_box`.

use super::*;
use alloc::vec;
use proptest::prelude::*;

const KEY: [u8; 32] = [7; 32];

fn token_2022() -> &'static Program {
    known("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb").unwrap()
}

#[test]
fn every_table_has_each_number_once() {
    for program in PROGRAMS {
        let tags: Vec<_> = program.tables.iter().copied().flatten().map(|l| l.tag).collect();
        for (at, tag) in tags.iter().enumerate() {
            assert_eq!(tags.iter().position(|other| other == tag), Some(at), "{tag}");
        }
    }
}

#[test]
fn every_address_is_one() {
    for program in PROGRAMS {
        assert!(crate::solana::base58::decode_32(program.id).is_some(), "{}", program.name);
    }
}

#[test]
fn what_token_2022_adds_is_decoded() {
    let key = [&[35], KEY.as_slice()].concat();
    let value = fields(token_2022(), &key, 1);
    assert_eq!(value, [("delegate", Value::Key(&KEY))]);

    let with = [&[25, 1], KEY.as_slice()].concat();
    assert_eq!(fields(token_2022(), &with, 1), [("newAuthority", Value::Key(&KEY))]);
    assert_eq!(fields(token_2022(), &[25, 0], 1), [("newAuthority", Value::Nothing)]);

    let types = fields(token_2022(), &[29, 7, 0, 0, 1], 4);
    assert_eq!(types, [("extensionTypes", Value::Numbers(vec![7, 256]))]);

    let inner = fields(token_2022(), &[26, 5, 1, 2], 0);
    assert_eq!(inner, [("instruction", Value::Number(5)), ("data", Value::Bytes(&[1, 2]))]);
    assert_eq!(decode(token_2022(), &[32], 1).unwrap().kind, "initializeNonTransferableMint");
    assert_eq!(decode(token_2022(), &[31], 3).unwrap().kind, "createNativeMint");
}

#[test]
fn authorities_that_only_token_2022_has_are_unknown_to_spl_token() {
    let data = [6, 4, 0];
    let expected =
        [("authorityType", Value::Text("transferFeeConfig")), ("newAuthority", Value::Nothing)];
    assert_eq!(fields(token_2022(), &data, 2), expected);
    let bad = Undecoded::BadField { kind: "setAuthority", field: "authorityType" };
    assert_eq!(decode(&token::PROGRAM, &data, 2), Err(bad));
}

#[test]
fn further_accounts_keep_their_places() {
    let decoded = decode(&token::PROGRAM, &[9], 5).unwrap();
    assert_eq!(decoded.accounts, [("account", 0), ("destination", 1), ("owner", 2)]);
    assert_eq!(decoded.rest, Some(("signers", 3..5)));
}

#[test]
fn a_batch_shares_out_its_accounts_in_order() {
    let data = [255, 3, 1, 9, 2, 1, 5];
    let decoded = decode(&token::PROGRAM, &data, 6).unwrap();
    let [(_, Value::Batch(inner))] = decoded.fields.as_slice() else { panic!("{decoded:?}") };
    assert_eq!(inner[0].accounts, [("account", 0), ("destination", 1), ("owner", 2)]);
    assert_eq!(inner[1].accounts, [("source", 3), ("owner", 4)]);
}

#[test]
fn a_batch_that_is_cut_off_wants_too_much_or_nests_is_refused() {
    let bad = Err(Undecoded::BadField { kind: "batch", field: "instructions" });
    assert_eq!(decode(&token::PROGRAM, &[255, 3], 3), bad);
    assert_eq!(decode(&token::PROGRAM, &[255, 3, 2, 9], 3), bad);
    assert_eq!(decode(&token::PROGRAM, &[255, 3, 1, 9], 2), bad);
    assert_eq!(decode(&token::PROGRAM, &[255, 0, 3, 255, 0, 0], 0), bad);
}

#[test]
fn text_that_is_none_is_refused() {
    let mut data = vec![3, 0, 0, 0];
    data.extend_from_slice(&KEY);
    data.extend_from_slice(&1_u64.to_le_bytes());
    data.push(0xff);
    let bad = Undecoded::BadField { kind: "createAccountWithSeed", field: "seed" };
    assert_eq!(decode(&system::PROGRAM, &data, 2), Err(bad));
    data[36..44].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(decode(&system::PROGRAM, &data, 2), Err(bad));
}

proptest! {
    #[test]
    fn any_data_is_decoded_or_refused(data: Vec<u8>, tag: u8, accounts in 0..300_usize) {
        for program in PROGRAMS {
            let wide = [&[tag % 16, 0, 0, 0], data.as_slice()].concat();
            let narrow = [&[tag], data.as_slice()].concat();
            for data in [&data, &wide, &narrow] {
                if let Ok(decoded) = decode(program, data, accounts) {
                    let within = |(_, at): &(&str, usize)| *at < accounts;
                    assert!(decoded.accounts.iter().all(within));
                    assert!(decoded.rest.is_none_or(|(_, rest)| rest.end <= accounts));
                    assert!(decoded.ignored_bytes <= data.len());
                }
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_never_taken_for_whole(cut in 0..9_usize) {
        let whole = [&[2, 0, 0, 0], 5_u64.to_le_bytes().as_slice()].concat();
        assert!(decode(&system::PROGRAM, &whole[..cut], 2).is_err());
    }
}

fn fields<'a>(
    program: &Program,
    data: &'a [u8],
    accounts: usize,
) -> Vec<(&'static str, Value<'a>)> {
    decode(program, data, accounts).unwrap().fields
}
