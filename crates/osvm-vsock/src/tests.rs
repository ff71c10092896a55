//! Tests of the whole device, through the registers and rings of a made-up guest.

mod flow;
pub(crate) mod guest;
