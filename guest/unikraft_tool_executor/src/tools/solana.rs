//! Server `solana`: what Solana's bytes mean, computed inside the guest, and the tools that ask
//! the network.

pub(super) mod decode_token_account;
pub(super) mod decode_transaction;
pub(super) mod keys;
pub(super) mod network;

use crate::solana::encoding::{Encoding, EncodingError, Packed};
use crate::tool::invalid;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use osvm_protocol::code::TOOL_FAILED;
use osvm_protocol::message::RpcError;

const SERVER: &str = "solana";

/// Reads the argument `name`, whose encoding may be told.
///
/// When it is not, a text that means something as base64 is taken as base64, and otherwise as
/// base58: a text can be both, but what `check` accepts of one it practically never accepts of the
/// other.
fn unpack<E: fmt::Display>(
    name: &str,
    text: &str,
    told: Option<Packed>,
    check: impl Fn(&[u8]) -> Result<(), E>,
) -> Result<(Vec<u8>, Packed), RpcError> {
    let read = |packed| -> Result<Result<Vec<u8>, E>, EncodingError> {
        let bytes = Encoding::from(packed).decode(text)?;
        Ok(check(&bytes).map(|()| bytes))
    };
    let failed = |error: E| RpcError::new(TOOL_FAILED, format!("`{name}`: {error}"));
    if let Some(packed) = told {
        let bytes = read(packed).map_err(|error| invalid(name, &error))?;
        return Ok((bytes.map_err(failed)?, packed));
    }
    let base64 = match read(Packed::Base64) {
        Ok(Ok(bytes)) => return Ok((bytes, Packed::Base64)),
        unfit => unfit.ok().and_then(Result::err),
    };
    match (base64, read(Packed::Base58)) {
        (_, Ok(Ok(bytes))) => Ok((bytes, Packed::Base58)),
        (None, Ok(Err(error))) | (Some(error), Err(_)) => Err(failed(error)),
        (Some(base64), Ok(Err(base58))) => {
            let both = format!("`{name}`: as base64: {base64}; as base58: {base58}");
            Err(RpcError::new(TOOL_FAILED, both))
        }
        (None, Err(error)) => {
            Err(invalid(name, &format_args!("neither base64 nor base58: {error}")))
        }
    }
}
