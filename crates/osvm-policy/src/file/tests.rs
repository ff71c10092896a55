//! Which files are trusted with deciding what is isolated.

use super::*;
use crate::{Config, Created, Env, default_text};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

#[test]
fn the_first_use_writes_a_private_file_in_private_directories() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/isolation_config.json");
    let (config, created) = Config::load_or_create(&path, &env()).unwrap();
    assert_eq!(created, Created(true));
    assert_eq!(config.text(), default_text());
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&dir.path().join("a")), 0o700);
    assert_eq!(mode(&dir.path().join("a/b")), 0o700);
    let (_, created) = Config::load_or_create(&path, &env()).unwrap();
    assert_eq!(created, Created(false));
}

#[test]
fn many_first_users_at_once_agree_on_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("osvm/isolation_config.json");
    let created: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Config::load_or_create(&path, &env()).unwrap().1))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(created.iter().filter(|created| created.0).count(), 1);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_file_that_is_there_is_left_alone_even_if_it_is_wrong() {
    let (_dir, path) = file("{\"a\": 1}", 0o600);
    let error = Config::load_or_create(&path, &env()).unwrap_err();
    assert!(matches!(error, ConfigError::Invalid(_)), "{error:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\": 1}");
    assert!(!create(&path, "{}").unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\": 1}");
}

#[test]
fn a_dangling_link_is_not_followed_to_make_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.json");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
    let error = Config::load_or_create(&path, &env()).unwrap_err();
    assert!(matches!(error, ConfigError::Missing { .. }), "{error:?}");
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_directory_that_cannot_be_made_names_file_and_cause() {
    let (_dir, path) = file("", 0o600);
    let below = path.join("c.json");
    let error = create(&below, "{}").unwrap_err();
    assert_eq!(error.to_string(), format!("cannot create isolation config `{}`", below.display()));
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(
        error.hint().unwrap(),
        "name a file in a directory you can write with `--config FILE`"
    );
}

#[test]
fn a_file_that_everybody_can_write_is_refused() {
    let (_dir, path) = file("{}", 0o646);
    let error = Config::load(&path, &env()).unwrap_err();
    let name = path.display();
    assert_eq!(
        error.to_string(),
        format!("isolation config `{name}` can be written by every user (mode 0646)")
    );
    assert_eq!(
        error.hint().unwrap(),
        format!("read it, and if it is what you want: `chmod o-w '{name}'`")
    );
}

#[test]
fn a_file_of_another_user_is_refused_and_one_of_root_is_not() {
    let path = Path::new("/c'.json");
    let error = check_trust(path, 1001, 0o100_600, 1000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "isolation config `/c'.json` belongs to user 1001, not to user 1000 or root"
    );
    assert_eq!(
        error.hint().unwrap(),
        r#"read it, and if it is what you want: `sudo chown "$(id -u)" '/c'\''.json'`"#
    );
    check_trust(path, 0, 0o100_644, 1000).unwrap();
    check_trust(path, 1000, 0o100_664, 1000).unwrap();
    check_trust(path, 1000, 0o100_600, 0).unwrap_err();
}

#[test]
fn what_is_not_a_file_is_refused_without_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for path in [pipe.as_path(), dir.path(), Path::new("/dev/zero")] {
        let error = Config::load(path, &env()).unwrap_err();
        assert!(matches!(error, ConfigError::NotAFile { .. }), "{error:?}");
    }
}

#[test]
fn a_file_over_a_mebibyte_is_refused() {
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap();
    let (_dir, path) = file(&format!("{{}}{}", " ".repeat(limit - 2)), 0o600);
    Config::load(&path, &env()).unwrap();
    let (_dir, path) = file(&format!("{{}}{}", " ".repeat(limit - 1)), 0o600);
    let error = Config::load(&path, &env()).unwrap_err();
    assert!(matches!(error, ConfigError::TooLong { .. }), "{error:?}");
}

#[test]
fn a_missing_file_is_told_from_an_unreadable_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.json");
    let error = Config::load(&path, &env()).unwrap_err();
    assert_eq!(error.to_string(), format!("isolation config `{}` does not exist", path.display()));
    let (_dir, path) = file("", 0o600);
    let error = Config::load(&path.join("c.json"), &env()).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error:?}");
}

fn env() -> Env {
    Env::new(None, None, Some("/home/u".into())).unwrap()
}

fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("isolation_config.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
