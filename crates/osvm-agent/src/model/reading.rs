//! One answer of a model on its way: pieces of a stream go in, its words come out at once, and what
//! it said as a whole at the end.
//!
//! # Invariants
//!
//! - Where a stream is cut into pieces changes nothing.
//! - What was said piece by piece is the text of the [`Turn`], if there is one.

use super::sse::Events;
use super::{Assembly, ModelError, Provider, Turn, anthropic, openai};
use crate::limits::MAX_TURN;
use std::fmt;

/// Bytes of a stream for one byte of the answer: each token comes wrapped in a lot of JSON.
const WRAPPING: usize = 32;

/// An answer that is being read.
pub struct Reading {
    events: Events,
    assembly: Box<dyn Assembly>,
    bytes: usize,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Reading {
    /// Nothing has come yet.
    pub fn new(provider: Provider) -> Self {
        let assembly: Box<dyn Assembly> = match provider {
            Provider::OpenAi => Box::<openai::Assembled>::default(),
            Provider::Anthropic => Box::<anthropic::Assembled>::default(),
        };
        Self { events: Events::default(), assembly, bytes: 0 }
    }

    /// Takes the next piece; `say` hears what the model says in it.
    ///
    /// # Errors
    ///
    /// [`ModelError`]; nothing can be made of the rest.
    pub fn take(&mut self, piece: &str, say: &mut dyn FnMut(&str)) -> Result<(), ModelError> {
        self.bytes = self.bytes.saturating_add(piece.len());
        if MAX_TURN.saturating_mul(WRAPPING) < self.bytes {
            return Err(ModelError::TooLong);
        }
        for data in self.events.take(piece) {
            if let Some(text) = self.assembly.event(&data)? {
                say(&text);
            }
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if the model was not done.
    pub fn finish(self) -> Result<Turn, ModelError> {
        self.assembly.finish()
    }
}
