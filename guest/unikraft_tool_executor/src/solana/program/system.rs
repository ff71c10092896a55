//! The System program: accounts, lamports, nonces.

use super::Kind::{Key, Text, U64};
use super::{Layout, Program, Tag, layout};

pub(super) static PROGRAM: Program = Program {
    id: "11111111111111111111111111111111",
    name: "system",
    tag: Tag::U32,
    tables: &[&LAYOUTS],
};

const NEW_ACCOUNT: &[(&str, super::Kind)] = &[("lamports", U64), ("space", U64), ("owner", Key)];

const LAYOUTS: [Layout; 14] = [
    layout(0, "createAccount", NEW_ACCOUNT, &["source", "newAccount"]),
    layout(1, "assign", &[("owner", Key)], &["account"]),
    layout(2, "transfer", &[("lamports", U64)], &["source", "destination"]),
    // The base signs as a third account unless it is the source.
    layout(
        3,
        "createAccountWithSeed",
        &[("base", Key), ("seed", Text), ("lamports", U64), ("space", U64), ("owner", Key)],
        &["source", "newAccount"],
    ),
    // The authority of a nonce must sign, but need not be among the instruction's accounts.
    layout(4, "advanceNonce", &[], &["nonceAccount", "recentBlockhashesSysvar"])
        .optional(&["nonceAuthority"]),
    layout(
        5,
        "withdrawFromNonce",
        &[("lamports", U64)],
        &["nonceAccount", "destination", "recentBlockhashesSysvar", "rentSysvar"],
    )
    .optional(&["nonceAuthority"]),
    layout(
        6,
        "initializeNonce",
        &[("nonceAuthority", Key)],
        &["nonceAccount", "recentBlockhashesSysvar", "rentSysvar"],
    ),
    layout(7, "authorizeNonce", &[("newAuthorized", Key)], &["nonceAccount"])
        .optional(&["nonceAuthority"]),
    layout(8, "allocate", &[("space", U64)], &["account"]),
    layout(
        9,
        "allocateWithSeed",
        &[("base", Key), ("seed", Text), ("space", U64), ("owner", Key)],
        &["account"],
    ),
    layout(10, "assignWithSeed", &[("base", Key), ("seed", Text), ("owner", Key)], &["account"]),
    layout(
        11,
        "transferWithSeed",
        &[("lamports", U64), ("sourceSeed", Text), ("sourceOwner", Key)],
        &["source", "sourceBase", "destination"],
    ),
    layout(12, "upgradeNonce", &[], &["nonceAccount"]),
    layout(13, "createAccountAllowPrefund", NEW_ACCOUNT, &["newAccount"]).optional(&["source"]),
];
