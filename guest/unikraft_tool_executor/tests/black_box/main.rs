//! Drives the library and the program as a host does: frames in, frames out.
#![cfg(test)]

mod arguments;
mod chain;
mod connection;
mod files;
mod networked;
#[cfg(feature = "std")]
mod program;
mod support;
mod vectors;
