//! A daemon on fake guests, as its clients see it.
#![cfg(test)]

mod calls;
mod soak;
mod support;
