//! Secrets: set, listed, removed, and never shown.

use crate::support::Home;
use snapbox::str;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const VALUE: &str = "sk-planted-value";

#[test]
fn a_secret_is_set_replaced_listed_and_removed() {
    let home = Home::without_images();
    home.osvm(["secret", "ls"]).assert().code(0).stdout_eq("").stderr_eq("no secrets yet\n");
    let set = || home.osvm(["secret", "set", "api-key"]);
    set().stdin(VALUE).assert().code(0).stdout_eq("").stderr_eq("set secret `api-key`\n");
    set().stdin("sk-another\n").assert().code(0).stderr_eq("replaced secret `api-key`\n");
    home.osvm(["secret", "ls"]).assert().code(0).stdout_eq("api-key\n").stderr_eq("");
    home.osvm(["secret", "ls", "--json"]).assert().code(0).stdout_eq("[\n  \"api-key\"\n]\n");
    let remove = || home.osvm(["secret", "rm", "api-key"]);
    remove().assert().code(0).stdout_eq("").stderr_eq("removed secret `api-key`\n");
    remove().assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: there is no secret `api-key`

hint: `osvm secret ls` lists them

"#]]);
}

#[test]
fn what_is_no_secret_is_refused() {
    let home = Home::without_images();
    home.osvm(["secret", "set", "a b"]).stdin(VALUE).assert().code(2).stderr_eq(str![[r#"
error: a secret's name has 1 to 64 letters, digits, `_` and `-`

"#]]);
    home.osvm(["secret", "set", "short"]).stdin("x").assert().code(2).stderr_eq(str![[r#"
error: a secret has at least 8 bytes

"#]]);
    home.osvm(["secret", "set", "binary"]).stdin(&b"\xff12345678"[..]).assert().code(2).stderr_eq(
        str![[r#"
error: it is no text

"#]],
    );
    // A value on the command line could be read by every process of this host.
    home.osvm(["secret", "set", "name", VALUE]).assert().code(2).stdout_eq("");
    home.osvm(["secret", "ls"]).assert().code(0).stdout_eq("");
}

#[test]
fn a_value_lies_nowhere_in_the_clear_and_its_files_are_the_users_alone() {
    let home = Home::without_images();
    home.osvm(["secret", "set", "api-key"]).stdin(VALUE).assert().code(0);
    let dir = home.path().join(".local/share/osvm");
    let mut files = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        let found = bytes.windows(VALUE.len()).any(|window| window == VALUE.as_bytes());
        assert!(!found, "{entry:?} holds the value");
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{entry:?} has mode {mode:o}");
        files += 1;
    }
    assert!(files > 0, "nothing was kept");
}

#[test]
fn a_file_that_was_tampered_with_gives_no_secret() {
    let home = Home::without_images();
    home.osvm(["secret", "set", "api-key"]).stdin(VALUE).assert().code(0);
    let path = home.path().join(".local/share/osvm/secrets");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    home.osvm(["secret", "ls"]).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: `[HOME]/.local/share/osvm/secrets` cannot be decrypted: it was changed, or its key was

hint: restore it, or remove `[HOME]/.local/share/osvm/secrets` and set the secrets anew

"#]]);
}
