//! A guest that breaks every rule.
fn main() {}
