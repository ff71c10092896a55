//! Completions and manual pages, made from the definitions of the command line.

use crate::support::Home;

#[test]
fn completions_of_each_shell_name_the_commands() {
    let home = Home::without_images();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.osvm(["completions", shell]).output().unwrap();
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains("add-github") && script.contains("osvm"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let home = Home::without_images();
    let page = home.osvm(["man"]).output().unwrap().stdout;
    assert!(String::from_utf8(page).unwrap().contains(".TH osvm 1"));
    home.osvm(["man", "--output", "man"]).assert().code(0).stdout_eq("").stderr_eq("");
    for page in ["osvm.1", "osvm-mcp-add.1", "osvm-client-connect.1"] {
        assert!(home.path().join("man").join(page).exists(), "{page}");
    }
}
