//! (skeleton)
mod arguments;
mod cli;
mod failure;
mod interrupt;
mod logging;
mod printer;
mod vm_program;
fn main() {}
