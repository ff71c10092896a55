//! A guest that breaks every rule, for tests only.
//!
//! One image: environment variable `HOSTILE` of its boot page says what it does, by the names in
//! [`guest::BEHAVIOURS`]. Without it the guest serves calls like the real one.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod rings;
#[cfg(target_os = "none")]
mod stream;
#[cfg(target_os = "none")]
mod vsock;

#[cfg(not(target_os = "none"))]
fn main() {}
