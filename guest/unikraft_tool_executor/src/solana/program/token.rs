//! SPL Token, and the instructions Token-2022 adds to it.
//!
//! The extensions of Token-2022 have instructions of their own below one number each. Those are
//! named, with the number of the inner instruction and its bytes.

use super::Kind::{
    Amount, Batch, BytesToEnd, Key, OptionalAmount, OptionalKey, TextToEnd, U8, U16sToEnd, Word,
};
use super::{Kind, Layout, Program, Tag, layout};

pub(super) static PROGRAM: Program = Program {
    id: "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
    name: "spl-token",
    tag: Tag::U8,
    tables: &[&CLASSIC, &BOTH],
};

pub(super) static PROGRAM_2022: Program = Program {
    id: "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb",
    name: "spl-token-2022",
    tag: Tag::U8,
    tables: &[&NEWER, &BOTH],
};

/// What an authority may be set for, by number. SPL Token knows the first four.
const AUTHORITIES: &[&str] = &[
    "mintTokens",
    "freezeAccount",
    "accountOwner",
    "closeAccount",
    "transferFeeConfig",
    "withheldWithdraw",
    "closeMint",
    "interestRate",
    "permanentDelegate",
    "confidentialTransferMint",
    "transferHookProgramId",
    "confidentialTransferFeeConfig",
    "metadataPointer",
    "groupPointer",
    "groupMemberPointer",
    "scaledUiAmount",
    "pause",
    "permissionedBurn",
];
const CLASSIC_AUTHORITIES: &[&str] = AUTHORITIES.split_at(4).0;

const AMOUNT: &[(&str, Kind)] = &[("amount", Amount)];
const CHECKED: &[(&str, Kind)] = &[("amount", Amount), ("decimals", U8)];
const NEW_MINT: &[(&str, Kind)] =
    &[("decimals", U8), ("mintAuthority", Key), ("freezeAuthority", OptionalKey)];
/// An extension's inner instruction.
const INNER: &[(&str, Kind)] = &[("instruction", U8), ("data", BytesToEnd)];

const BOTH: [Layout; 26] = [
    layout(0, "initializeMint", NEW_MINT, &["mint", "rentSysvar"]),
    layout(1, "initializeAccount", &[], &["account", "mint", "owner", "rentSysvar"]),
    layout(2, "initializeMultisig", &[("m", U8)], &["multisig", "rentSysvar"]).rest("signers"),
    layout(3, "transfer", AMOUNT, &["source", "destination", "authority"]).rest("signers"),
    layout(4, "approve", AMOUNT, &["source", "delegate", "owner"]).rest("signers"),
    layout(5, "revoke", &[], &["source", "owner"]).rest("signers"),
    layout(7, "mintTo", AMOUNT, &["mint", "account", "mintAuthority"]).rest("signers"),
    layout(8, "burn", AMOUNT, &["account", "mint", "authority"]).rest("signers"),
    layout(9, "closeAccount", &[], &["account", "destination", "owner"]).rest("signers"),
    layout(10, "freezeAccount", &[], &["account", "mint", "freezeAuthority"]).rest("signers"),
    layout(11, "thawAccount", &[], &["account", "mint", "freezeAuthority"]).rest("signers"),
    layout(12, "transferChecked", CHECKED, &["source", "mint", "destination", "authority"])
        .rest("signers"),
    layout(13, "approveChecked", CHECKED, &["source", "mint", "delegate", "owner"]).rest("signers"),
    layout(14, "mintToChecked", CHECKED, &["mint", "account", "mintAuthority"]).rest("signers"),
    layout(15, "burnChecked", CHECKED, &["account", "mint", "authority"]).rest("signers"),
    layout(16, "initializeAccount2", &[("owner", Key)], &["account", "mint", "rentSysvar"]),
    layout(17, "syncNative", &[], &["account"]).optional(&["rentSysvar"]),
    layout(18, "initializeAccount3", &[("owner", Key)], &["account", "mint"]),
    layout(19, "initializeMultisig2", &[("m", U8)], &["multisig"]).rest("signers"),
    layout(20, "initializeMint2", NEW_MINT, &["mint"]),
    layout(22, "initializeImmutableOwner", &[], &["account"]),
    layout(23, "amountToUiAmount", AMOUNT, &["mint"]),
    layout(24, "uiAmountToAmount", &[("uiAmount", TextToEnd)], &["mint"]),
    layout(38, "withdrawExcessLamports", &[], &["source", "destination", "authority"])
        .rest("signers"),
    layout(
        45,
        "unwrapLamports",
        &[("amount", OptionalAmount)],
        &["source", "destination", "authority"],
    )
    .rest("signers"),
    layout(255, "batch", &[("instructions", Batch)], &[]),
];

const CLASSIC: [Layout; 2] = [
    layout(
        6,
        "setAuthority",
        &[("authorityType", Word(CLASSIC_AUTHORITIES)), ("newAuthority", OptionalKey)],
        &["account", "authority"],
    )
    .rest("signers"),
    layout(21, "getAccountDataSize", &[], &["mint"]),
];

const NEWER: [Layout; 22] = [
    layout(
        6,
        "setAuthority",
        &[("authorityType", Word(AUTHORITIES)), ("newAuthority", OptionalKey)],
        &["account", "authority"],
    )
    .rest("signers"),
    layout(21, "getAccountDataSize", &[("extensionTypes", U16sToEnd)], &["mint"]),
    layout(25, "initializeMintCloseAuthority", &[("newAuthority", OptionalKey)], &["mint"]),
    layout(26, "transferFeeExtension", INNER, &[]),
    layout(27, "confidentialTransferExtension", INNER, &[]),
    layout(28, "defaultAccountStateExtension", INNER, &[]),
    layout(
        29,
        "reallocate",
        &[("extensionTypes", U16sToEnd)],
        &["account", "payer", "systemProgram", "owner"],
    )
    .rest("signers"),
    layout(30, "memoTransferExtension", INNER, &[]),
    layout(31, "createNativeMint", &[], &["payer", "nativeMint", "systemProgram"]),
    layout(32, "initializeNonTransferableMint", &[], &["mint"]),
    layout(33, "interestBearingMintExtension", INNER, &[]),
    layout(34, "cpiGuardExtension", INNER, &[]),
    layout(35, "initializePermanentDelegate", &[("delegate", Key)], &["mint"]),
    layout(36, "transferHookExtension", INNER, &[]),
    layout(37, "confidentialTransferFeeExtension", INNER, &[]),
    layout(39, "metadataPointerExtension", INNER, &[]),
    layout(40, "groupPointerExtension", INNER, &[]),
    layout(41, "groupMemberPointerExtension", INNER, &[]),
    layout(42, "confidentialMintBurnExtension", INNER, &[]),
    layout(43, "scaledUiAmountExtension", INNER, &[]),
    layout(44, "pausableExtension", INNER, &[]),
    layout(46, "permissionedBurnExtension", INNER, &[]),
];
