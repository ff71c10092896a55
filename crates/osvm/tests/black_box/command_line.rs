//! Flags and commands, before anything is done.

use crate::support::Home;
use snapbox::str;

#[test]
fn without_a_command_help_is_shown_and_it_counts_as_wrong_use() {
    Home::without_images().osvm([]).assert().code(2).stdout_eq("").stderr_eq(str![]);
}

#[test]
fn version_is_one_line() {
    let home = Home::without_images();
    home.osvm(["--version"]).assert().code(0).stdout_eq("osvm [VERSION]\n").stderr_eq("");
}

#[test]
fn an_unknown_command_names_the_nearest() {
    let home = Home::without_images();
    home.osvm(["docter"]).assert().code(2).stdout_eq("").stderr_eq(str![]);
}

#[test]
fn help_of_a_call_shows_how_to_call() {
    let home = Home::without_images();
    home.osvm(["mcp", "call-tool", "--help"]).assert().code(0).stdout_eq(str![]).stderr_eq("");
}

#[test]
fn a_backend_of_another_build_is_told_from_a_misspelt_one() {
    let home = Home::without_images();
    home.osvm(["--backend", "qemuu", "ps"]).assert().code(2).stdout_eq("").stderr_eq(str![]);
}

#[test]
fn nothing_is_written_into_the_home_directory_by_asking_for_help() {
    let home = Home::without_images();
    home.osvm(["--help"]).assert().code(0);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "only `run` was there");
}
