//! Receipts as their users see them: appended by several processes, killed, tampered with.
#![cfg(test)]

mod crash;
mod support;
mod tamper;
mod writers;
