//! A daemon on fake guests, as its clients see it.
#![cfg(test)]

mod calls;
mod others;
mod soak;
mod support;
