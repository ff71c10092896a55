//! Tests of the whole device, through the registers and rings of a made-up guest.

mod credit;
mod flow;
pub(crate) mod guest;
mod hostile;
mod properties;
mod registers;
mod saved;
