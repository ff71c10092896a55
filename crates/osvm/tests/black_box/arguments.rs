//! Arguments of a call that are wrong in themselves. No VM is started for any of them.

use crate::support::Home;
use snapbox::data::Inline;
use snapbox::str;

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    check(
        "{text: hi}",
        str![[r#"
error: cannot read the arguments as JSON
  caused by: key must be a string at line 1 column 2

hint: quote them for the shell, as in '{"text":"hi"}'

"#]],
    );
}

#[test]
fn json_that_is_no_object_is_refused() {
    check(
        "[1]",
        str![[r#"
error: the arguments must be a JSON object, not an array

hint: give each argument a name, as in '{"text":"hi"}'

"#]],
    );
}

#[test]
fn a_missing_argument_file_is_named() {
    check(
        "@nowhere.json",
        str![[r#"
error: cannot read `nowhere.json`
  caused by: No such file or directory (os error 2)

"#]],
    );
}

#[test]
fn a_file_over_the_limit_is_refused_without_reading_it_all() {
    // Reading this to its end would never end.
    check(
        "@/dev/zero",
        str![[r#"
error: `/dev/zero` holds more than the limit of 10485760 bytes (10 MiB)

"#]],
    );
}

#[test]
fn stdin_over_the_limit_is_refused() {
    let home = Home::without_images();
    let text = format!("{{\"text\":\"{}\"}}", "a".repeat(10 << 20));
    let call = home.osvm(["mcp", "call-tool", "system", "echo", "-"]).stdin(text);
    call.assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: stdin holds more than the limit of 10485760 bytes (10 MiB)

"#]]);
}

#[track_caller]
fn check(arguments: &str, stderr: Inline) {
    let home = Home::without_images();
    let call = home.osvm(["mcp", "call-tool", "system", "echo", arguments]);
    call.assert().code(2).stdout_eq("").stderr_eq(stderr);
}
