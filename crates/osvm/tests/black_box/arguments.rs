//! Arguments of a call that are wrong in themselves. No VM is started for any of them.

use crate::support::Home;
use snapbox::str;

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check(["{text: hi}"], str![]);
}

#[test]
fn json_that_is_no_object_is_refused() {
    check(["[1]"], str![]);
}

#[test]
fn a_missing_argument_file_is_named() {
    check(["@nowhere.json"], str![]);
}

#[test]
fn a_file_over_the_limit_is_refused_without_reading_it_all() {
    // Reading this to its end would never end.
    check(["@/dev/zero"], str![]);
}

#[test]
fn stdin_over_the_limit_is_refused() {
    let home = Home::new();
    let text = format!("{{\"text\":\"{}\"}}", "a".repeat(10 << 20));
    let call = home.osvm(["mcp", "call-tool", "system", "echo", "-"]).stdin(text);
    call.assert().code(2).stdout_eq("").stderr_eq(str![]);
}

#[track_caller]
fn check(arguments: [&str; 1], stderr: snapbox::data::Inline) {
    let home = Home::new();
    let [arguments] = arguments;
    let call = home.osvm(["mcp", "call-tool", "system", "echo", arguments]);
    call.assert().code(2).stdout_eq("").stderr_eq(stderr);
}
