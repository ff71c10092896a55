//! Which files are trusted, and what is left when one is replaced.

use super::*;
use std::fs;

#[test]
fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b.json");
    replace(&path, b"1").unwrap();
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    replace(&path, b"2").unwrap();
    assert_eq!((mode(&path), read(&path).unwrap().unwrap()), (0o640, b"2".to_vec()));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_link_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "1").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    replace(&link, b"2").unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).unwrap(), b"2");
}

#[test]
fn a_file_that_is_missing_is_none_and_a_directory_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(&dir.path().join("x")).unwrap(), None);
    assert!(matches!(read(dir.path()).unwrap_err(), ServersError::NotAFile { .. }));
}

#[test]
fn a_file_that_everybody_can_write_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "{}").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let error = read(&path).unwrap_err();
    let name = path.display();
    assert_eq!(error.to_string(), format!("`{name}` can be written by every user (mode 0666)"));
    assert!(error.hint().unwrap().contains("chmod o-w"));
}

#[test]
fn a_file_of_another_user_is_refused_and_one_of_root_is_not() {
    let path = Path::new("/c.json");
    assert!(matches!(
        check_trust(path, 1001, 0o100_600, 1000),
        Err(ServersError::ForeignOwner { owner: 1001, user: 1000, .. })
    ));
    check_trust(path, 0, 0o100_644, 1000).unwrap();
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let file = File::create(&path).unwrap();
    file.set_len(MAX_BYTES).unwrap();
    assert_eq!(read(&path).unwrap().unwrap().len() as u64, MAX_BYTES);
    file.set_len(MAX_BYTES + 1).unwrap();
    assert!(matches!(read(&path).unwrap_err(), ServersError::TooLong { .. }));
}

#[test]
fn a_backup_lies_beside_the_file_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let backup = back_up(&dir.path().join("x.json"), b"old").unwrap();
    assert_eq!(backup, dir.path().join("x.json.osvm-backup"));
    assert_eq!((mode(&backup), fs::read(&backup).unwrap()), (0o600, b"old".to_vec()));
}

#[test]
fn changes_at_once_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    replace(&path, b"0").unwrap();
    let add_one = || {
        let _lock = lock(&path).unwrap();
        let text = String::from_utf8(read(&path).unwrap().unwrap()).unwrap();
        let number: u32 = text.parse().unwrap();
        replace(&path, (number + 1).to_string().as_bytes()).unwrap();
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(add_one);
        }
    });
    assert_eq!(fs::read(&path).unwrap(), b"8");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}
