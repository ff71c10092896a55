//! Taking CIDs and giving them back.

use crate::figure::Figure;
use crate::host::{Host, RUNS, WARM_UP};
use anyhow::{Context, Result};
use osvm_protocol::cid::EPHEMERAL;
use osvm_runtime::Cancel;
use osvm_runtime::cids::{Cids, Claim};
use std::time::Instant;

/// Takes all 100 at once, so that the search for a free one gets longer and longer, then gives
/// them back.
pub(crate) fn measure(host: &Host) -> Result<Vec<Figure>> {
    let cids = Cids::new(host.runtime_dir(), EPHEMERAL);
    let call = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().context("not a call id")?;
    let claim = Claim { call, server: "bench", tool: "cids" };
    let cancel = Cancel::default();
    let mut times = Vec::new();
    for run in 0..WARM_UP + RUNS {
        let begun = Instant::now();
        let taken: Result<Vec<_>, _> =
            EPHEMERAL.map(|_| cids.take(claim, begun, &cancel)).collect();
        drop(taken.context("cannot take a CID")?);
        if WARM_UP <= run {
            times.push(begun.elapsed());
        }
    }
    Ok(vec![Figure::times("cids: 100 taken and given back", &times)?.goal(100.0)])
}
