//! MCP servers in real Linux guests, under QEMU's own translation.
#![cfg(test)]

mod clones;
mod death;
mod guest;
mod health;
mod hostile;
mod outside;
mod persistent;
mod workspace;
