//! What arguments of tools can be.
//!
//! They are read one by one with [`Field`], not by types derived for each tool: thirty of those
//! would take 60 KB of the image.

use crate::answer::Part;
use crate::solana::address::Address;
use crate::solana::encoding::{Encoding, Packed};
use crate::solana::signature::Signature;
use crate::tool::Field;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use osvm_protocol::message::RpcError;

/// How sure the answer must be: what nodes call it, if anything was said.
pub(super) type Commitment = Option<&'static str>;

impl<'a> Field<'a> {
    /// An address in base58.
    #[inline(never)]
    pub(super) fn address(self) -> Result<Address, RpcError> {
        let text = self.text()?;
        Address::parse(&text)
            .map_err(|error| self.invalid(&format_args!("not an address: {error}")))
    }

    /// An address, or nothing.
    pub(super) fn optional_address(self) -> Result<Option<Address>, RpcError> {
        if self.is_nothing() { Ok(None) } else { self.address().map(Some) }
    }

    /// 64 bytes in base58 or base64.
    #[inline(never)]
    pub(super) fn signature(self) -> Result<Signature, RpcError> {
        let text = self.text()?;
        Signature::parse(&text)
            .ok_or_else(|| self.invalid(&"not a signature: neither base58 nor base64 of 64 bytes"))
    }

    /// A signature, or nothing.
    pub(super) fn optional_signature(self) -> Result<Option<Signature>, RpcError> {
        if self.is_nothing() { Ok(None) } else { self.signature().map(Some) }
    }

    /// A number of a range.
    #[inline(never)]
    pub(super) fn number(self, range: RangeInclusive<u64>) -> Result<u64, RpcError> {
        let number = self.part().number().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            self.invalid(&format_args!("not a whole number from {min} to {max}"))
        })
    }

    /// A number of a range, or nothing.
    pub(super) fn optional_number(
        self,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, RpcError> {
        if self.is_nothing() { Ok(None) } else { self.number(range).map(Some) }
    }

    /// `true`, or `false`, which is also what nothing means.
    pub(super) fn flag(self) -> Result<bool, RpcError> {
        if self.is_nothing() {
            return Ok(false);
        }
        self.part().flag().map_err(|_| self.invalid(&"not true or false"))
    }

    /// One of these words, or nothing.
    #[inline(never)]
    pub(super) fn word(self, words: &[&'static str]) -> Result<Option<&'static str>, RpcError> {
        if self.is_nothing() {
            return Ok(None);
        }
        let text = self.text()?;
        match words.iter().find(|word| **word == text) {
            Some(word) => Ok(Some(word)),
            None => {
                let words = words.join("`, `");
                Err(self.invalid(&format_args!("`{text}` is none of `{words}`")))
            }
        }
    }

    /// How sure the answer must be.
    pub(super) fn commitment(self) -> Result<Commitment, RpcError> {
        self.word(&["processed", "confirmed", "finalized"])
    }

    /// How bytes are written.
    pub(super) fn encoding(self) -> Result<Option<Encoding>, RpcError> {
        let word = self.word(&["utf8", "base58", "base64", "hex"])?;
        Ok(word.map(|word| match word {
            "utf8" => Encoding::Utf8,
            "base58" => Encoding::Base58,
            "base64" => Encoding::Base64,
            _ => Encoding::Hex,
        }))
    }

    /// How a transaction is written.
    pub(super) fn packed(self) -> Result<Option<Packed>, RpcError> {
        let word = self.word(&["base58", "base64"])?;
        Ok(word.map(|word| if word == "base58" { Packed::Base58 } else { Packed::Base64 }))
    }

    /// The same, if something was given.
    pub(super) fn required(self) -> Result<Self, RpcError> {
        if self.is_nothing() { Err(self.invalid(&"it is missing")) } else { Ok(self) }
    }

    /// The elements of a list of at most `max`; nothing has none.
    #[inline(never)]
    pub(super) fn list(self, max: usize) -> Result<Vec<Self>, RpcError> {
        let mut elements = Vec::new();
        if self.is_nothing() {
            return Ok(elements);
        }
        let mut too_many = false;
        let read = self.part().each(&mut |part: Part<'a>| {
            too_many = max <= elements.len();
            if too_many {
                return Err(self.invalid(&format_args!("a list of more than {max}")));
            }
            elements.push(self.element(part));
            Ok(())
        });
        match read {
            Ok(()) => Ok(elements),
            Err(error) if too_many => Err(error),
            Err(_) => Err(self.invalid(&"not a list")),
        }
    }
}
