//! Drives the built `osvm` as a user does, and pins what it prints and how it ends.
//!
//! One program, so that it links once. `cargo test unikernel` runs the module of that name.
#![cfg(test)]

mod agent_model;
mod client;
mod npm_registry;
mod support;
mod web;

mod agent;
mod agent_microvm;
mod agent_screen;
mod approvals;
mod arguments;
mod backends;
mod batch;
mod broker_crowd;
mod command_line;
mod config;
mod daemon;
mod denied;
mod doctor;
mod generated;
mod hostile;
mod image;
mod image_scripts;
mod lives;
mod mcp_add;
mod mcp_exchange;
mod mcp_servers;
mod mcp_upstream;
mod microvm;
mod microvm_fetch;
mod microvm_lives;
mod output;
mod policy;
mod prove;
mod receipts;
mod sdk;
mod secret;
mod secrets_stay;
mod secrets_stay_servers;
mod serve;
mod serve_abuse;
mod serve_eras;
mod serve_http;
mod serve_pins;
mod serve_servers;
mod solana;
mod tools;
mod trust;
mod unikernel;
mod watching;
mod workspace;
