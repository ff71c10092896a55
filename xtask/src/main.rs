//! `cargo xtask`: builds, checks and measures osvm.
//!
//! Each command is a module with a `run`. This file only reads the command line and turns the
//! outcome into an exit code: 0 done, 1 a check failed, 2 the command could not run.
//!
//! Errors are `anyhow`'s: nobody matches on them, a person reads them.

mod agent;
mod apt;
mod bench;
mod check;
mod clients;
mod conformance;
mod demo;
mod envelope;
mod fuzz;
mod guest;
mod install;
mod kernel;
mod osvm;
mod packages;
mod printer;
mod process;
mod project;
mod servers;
mod solana;
mod stage;
mod tally;
mod test;
mod test_host;
mod tidy;
mod toolchain;

use crate::project::Project;
use anyhow::{Context, Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo              build everything, run a real tool call in a VM, say what happened
  test              every test there is
  guest [--check]   build the guest images into target/guest; --check also proves that
                    a second build from scratch gives the same bytes
  kernel            build the kernel of Linux guests into target/guest-kernel
  install           put the images into ~/.osvm/unikernels
  check <what>      install, execution, performance, security: the scripts of the handbook
  conformance [--requirements 2025-11-25|2026-07-28]
                    run the official conformance suite of MCP against osvm
  clients           try MCP clients that are not osvm's in front of osvm
  servers           compare MCP servers that are not osvm's, directly and behind osvm
  tidy              check what no compiler checks: who uses whom, the code map, headers
  bench [name]      measure and print, each figure beside its goal
  test-host [suite…]
                    run the KVM tests on a Linux host with emulated hardware KVM
  fuzz [seconds]    run each fuzz target for so long (default 10)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(code) => code,
        Err(error) => {
            printer::error(&error);
            ExitCode::from(2)
        }
    }
}

fn dispatch(words: &[&str]) -> Result<ExitCode> {
    let project = Project::find()?;
    match words {
        ["demo"] => demo::run(&project).map(|()| ExitCode::SUCCESS),
        ["test"] => test::run(&project),
        ["guest"] => guest::run(&project, guest::Check::No).map(|()| ExitCode::SUCCESS),
        ["guest", "--check"] => guest::run(&project, guest::Check::Yes).map(|()| ExitCode::SUCCESS),
        ["kernel"] => kernel::run(&project).map(|()| ExitCode::SUCCESS),
        ["install"] => install::run(&project).map(|()| ExitCode::SUCCESS),
        ["check", name] => check::run(&project, name),
        ["conformance"] => conformance::run(&project, None),
        ["conformance", "--requirements", revision] => conformance::run(&project, Some(revision)),
        ["clients"] => clients::run(&project),
        ["servers"] => servers::run(&project),
        ["tidy"] => tidy::run(&project),
        ["bench"] => bench::run(&project, None).map(|()| ExitCode::SUCCESS),
        ["bench", name] => bench::run(&project, Some(name)).map(|()| ExitCode::SUCCESS),
        ["test-host", suites @ ..] => test_host::run(&project, suites),
        ["fuzz"] => fuzz::run(&project, 10),
        ["fuzz", seconds] => {
            let seconds = seconds.parse().with_context(|| format!("`{seconds}` is no number"))?;
            fuzz::run(&project, seconds)
        }
        [] | ["help" | "--help" | "-h"] => {
            printer::result(USAGE);
            Ok(ExitCode::SUCCESS)
        }
        [command, ..] => bail!("cannot understand `{command}`\n\n{USAGE}"),
    }
}
