//! The tools of server `solana` that ask a node of its network.
//!
//! Each asks one method of the node and answers with what a caller needs of the result, under
//! names of our own. What is too much for a guest or a frame is refused, never cut in silence.

pub(in crate::tools) mod accounts;
pub(in crate::tools) mod blocks;
pub(in crate::tools) mod tokens;
pub(in crate::tools) mod transactions;

use super::SERVER;
use crate::answer::{Odd, Part};
use crate::json::{Array, Object};
use crate::tool::{Run, Tool};
use crate::tools::arguments::Commitment;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;

/// A tool of these files.
const fn tool(
    name: &'static str,
    description: &'static str,
    annotations: Annotations,
    input: &'static str,
    output: &'static str,
    run: Run,
) -> Tool {
    Tool { server: SERVER, name, description, input, output, annotations, needs_network: true, run }
}

/// The schema of an object.
macro_rules! object {
    ($($properties:literal),+ ; required $required:literal) => {
        concat!(
            r#"{"type":"object","properties":{"#, $($properties,)+ r#"},"required":"#, $required,
            r#","additionalProperties":false}"#
        )
    };
}
use object;

/// The schema of arguments: most tools also take a commitment.
macro_rules! with_commitment {
    ($($properties:expr),* ; required $required:literal) => {
        concat!(
            r#"{"type":"object","properties":{"#, $($properties, ",",)*
            r#""commitment":{"type":"string","enum":["processed","confirmed","finalized"],"description":"finalized when not given"}},"required":"#,
            $required, r#","additionalProperties":false}"#
        )
    };
}
use with_commitment;

/// Writes the last parameter of most methods: an object of settings.
fn settings(params: &mut Array<'_>, commitment: Commitment, more: impl FnOnce(&mut Object<'_>)) {
    params.object(|o| {
        if let Some(commitment) = commitment {
            o.text("commitment", commitment);
        }
        more(o);
    });
}

/// The slot and the value of a result that names its context.
fn of_slot(result: Part<'_>) -> Result<(u64, Part<'_>), Odd> {
    let [context, value] = result.parts(["context", "value"])?;
    let [slot] = context.parts(["slot"])?;
    Ok((slot.number()?, value))
}

/// Writes a list of strings; nothing is an empty one.
fn texts(o: &mut Object<'_>, name: &str, list: Part<'_>) -> Result<(), RpcError> {
    o.array(name, |out| {
        if list.is_nothing() {
            return Ok(());
        }
        list.each(&mut |text| {
            out.text(&text.text()?);
            Ok(())
        })
    })
}
