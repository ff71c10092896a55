//! The Compute Budget program: what a transaction may use, and what it pays for it.

use super::Kind::{U32, U64};
use super::{Layout, Program, Tag, layout};

pub(super) static PROGRAM: Program = Program {
    id: "ComputeBudget111111111111111111111111111111",
    name: "compute-budget",
    tag: Tag::U8,
    tables: &[&LAYOUTS],
};

const LAYOUTS: [Layout; 5] = [
    // Deprecated, and refused by the runtime, but it stands in old transactions.
    layout(0, "requestUnits", &[("units", U32), ("additionalFee", U32)], &[]),
    layout(1, "requestHeapFrame", &[("bytes", U32)], &[]),
    layout(2, "setComputeUnitLimit", &[("units", U32)], &[]),
    layout(3, "setComputeUnitPrice", &[("microLamports", U64)], &[]),
    layout(4, "setLoadedAccountsDataSizeLimit", &[("bytes", U32)], &[]),
];
