//! The program of every VM process: the embedded VMM, or the guard of another hypervisor.
//!
//! All of it is in `osvm_kvm`. It is a program of its own so that it starts fast and holds nothing
//! of what osvm knows.

use osvm_kvm::{guard, vm_process};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == guard::WORD => guard::main(args),
        Some(word) if word == vm_process::LINUX => vm_process::linux_main(),
        _ => vm_process::main(),
    }
}
