//! The Memo program: text in a transaction, vouched for by the accounts that sign it.

use super::{Kind, Layout, Program, Tag, layout};

pub(super) static PROGRAM: Program = Program {
    id: "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
    name: "spl-memo",
    tag: Tag::None,
    tables: &[&LAYOUTS],
};

/// The first version, which looks at no accounts.
pub(super) static PROGRAM_V1: Program =
    Program { id: "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo", ..PROGRAM };

const LAYOUTS: [Layout; 1] = [layout(0, "memo", &[("memo", Kind::TextToEnd)], &[]).rest("signers")];
