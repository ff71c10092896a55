//! The tool executor as a program, for Linux and Unikraft: serves vsock port 5252, or one
//! connection on stdin and stdout.
fn main() {}
