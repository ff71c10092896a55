//! The program of every VM process. All of it is in `osvm_kvm::vm_process`.

use std::process::ExitCode;

fn main() -> ExitCode {
    osvm_kvm::vm_process::main()
}
