//! The store: get, set, list, remove.

use crate::error::SecretsError;
use crate::file;
use crate::key::{self, Key};
use crate::keyring::Keyring;
use crate::sealed::{self, KeyPlace, Values};
use crate::value::{MAX_VALUE, SecretName, SecretValue};
use std::path::{Path, PathBuf};

/// Secrets of one store.
const MAX_SECRETS: usize = 1000;

/// Longest file that osvm writes, in bytes.
const MAX_FILE: u64 = (MAX_SECRETS * (MAX_VALUE + 128)) as u64;

/// The secrets of one user. Touches nothing until it is asked.
#[derive(Clone, Debug)]
pub struct Secrets {
    file: PathBuf,
    key: PathBuf,
    lock: PathBuf,
    keyring: Option<Keyring>,
}

impl Secrets {
    /// The store in `dir`; a new one keeps its key in `keyring` if that works.
    pub fn new(dir: &Path, keyring: Option<Keyring>) -> Self {
        Self {
            file: dir.join("secrets"),
            key: dir.join("secrets.key"),
            lock: dir.join("secrets.lock"),
            keyring,
        }
    }

    /// Where this process's user has it, whose home directory is `home`: `$XDG_DATA_HOME/osvm`, else
    /// `~/.local/share/osvm`.
    pub fn dir_from_process(home: &Path) -> PathBuf {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.filter(|dir| dir.is_absolute());
        data.unwrap_or_else(|| home.join(".local/share")).join("osvm")
    }

    /// The value of a secret, if it is set.
    ///
    /// # Errors
    ///
    /// If the store can't be read or trusted.
    pub fn get(&self, name: &SecretName) -> Result<Option<SecretValue>, SecretsError> {
        Ok(self.load()?.and_then(|(mut values, ..)| values.remove(name)))
    }

    /// The names of all secrets, in order.
    ///
    /// # Errors
    ///
    /// If the store can't be read or trusted.
    pub fn names(&self) -> Result<Vec<SecretName>, SecretsError> {
        Ok(self.load()?.map(|(values, ..)| values.into_keys().collect()).unwrap_or_default())
    }

    /// Sets a secret, and says whether it is a new one.
    ///
    /// # Errors
    ///
    /// If the store can't be read, trusted or written. It is as it was then.
    pub fn set(&self, name: SecretName, value: SecretValue) -> Result<bool, SecretsError> {
        let _alone = file::lock(&self.lock)?;
        let (mut values, key, place) = match self.load()? {
            Some(loaded) => loaded,
            None => {
                let (key, place) = key::make(&self.key, self.keyring.as_ref())?;
                (Values::new(), key, place)
            }
        };
        if MAX_SECRETS <= values.len() && !values.contains_key(&name) {
            return Err(SecretsError::Full(MAX_SECRETS));
        }
        let new = values.insert(name, value).is_none();
        self.save(&values, &key, place)?;
        Ok(new)
    }

    /// Removes a secret, and says whether it was there.
    ///
    /// # Errors
    ///
    /// If the store can't be read, trusted or written. It is as it was then.
    pub fn remove(&self, name: &SecretName) -> Result<bool, SecretsError> {
        let _alone = file::lock(&self.lock)?;
        let Some((mut values, key, place)) = self.load()? else { return Ok(false) };
        let there = values.remove(name).is_some();
        if there {
            self.save(&values, &key, place)?;
        }
        Ok(there)
    }

    fn load(&self) -> Result<Option<(Values, Key, KeyPlace)>, SecretsError> {
        let Some(bytes) = file::read(&self.file, MAX_FILE)? else { return Ok(None) };
        let damaged = || SecretsError::Damaged(self.file.clone());
        let place = sealed::key_place(&bytes).ok_or_else(damaged)?;
        let key = key::load(place, &self.key, self.keyring.as_ref())?;
        let key = key.ok_or_else(|| SecretsError::NoKey {
            path: self.file.clone(),
            place: match place {
                KeyPlace::File => format!("there is no `{}`", self.key.display()),
                KeyPlace::Keyring => "the keyring of the session does not have it".into(),
            },
        })?;
        let values = sealed::open(&bytes, &key).ok_or_else(damaged)?;
        Ok(Some((values, key, place)))
    }

    fn save(&self, values: &Values, key: &Key, place: KeyPlace) -> Result<(), SecretsError> {
        let sealed = sealed::seal(values, key, key::random()?, place);
        let sealed = sealed.ok_or_else(|| SecretsError::Damaged(self.file.clone()))?;
        file::replace(&self.file, &sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::tests::{WORKS, fake};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use zeroize::Zeroizing;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    fn value(text: &str) -> SecretValue {
        SecretValue::new(Zeroizing::new(text.into())).unwrap()
    }

    fn store() -> (tempfile::TempDir, Secrets) {
        let dir = tempfile::tempdir().unwrap();
        let store = Secrets::new(&dir.path().join("osvm"), None);
        (dir, store)
    }

    #[test]
    fn what_is_set_is_there_until_it_is_removed() {
        let (_dir, store) = store();
        assert_eq!(store.get(&name("A")).unwrap(), None);
        assert!(!store.remove(&name("A")).unwrap());
        assert!(store.set(name("B"), value("value of b")).unwrap());
        assert!(store.set(name("A"), value("value of a")).unwrap());
        assert!(!store.set(name("A"), value("another a")).unwrap());
        assert_eq!(store.names().unwrap(), [name("A"), name("B")]);
        assert_eq!(store.get(&name("A")).unwrap().unwrap().reveal(), "another a");
        assert!(store.remove(&name("A")).unwrap());
        assert_eq!(store.names().unwrap(), [name("B")]);
    }

    #[test]
    fn files_are_the_users_alone_and_tell_nothing() {
        let (_dir, store) = store();
        store.set(name("A"), value("s3cr3t-value")).unwrap();
        for path in [&store.file, &store.key, &store.lock] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
            let bytes = fs::read(path).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"s3cr3t"));
        }
        let dir = store.file.parent().unwrap();
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let (_dir, store) = store();
        store.set(name("A"), value("s3cr3t-value")).unwrap();
        for path in [&store.file, &store.key] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
            let error = store.get(&name("A")).unwrap_err();
            assert!(matches!(error, SecretsError::Unsafe { .. }), "{error}");
            assert!(error.hint().unwrap().contains("chmod 600"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let elsewhere = store.file.with_extension("elsewhere");
        fs::rename(&store.file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &store.file).unwrap();
        assert!(matches!(store.get(&name("A")), Err(SecretsError::Io { .. })));
    }

    #[test]
    fn a_changed_file_or_key_is_refused_and_not_overwritten() {
        let (_dir, store) = store();
        store.set(name("A"), value("s3cr3t-value")).unwrap();
        let before = fs::read(&store.file).unwrap();
        fs::write(&store.key, [7; 32]).unwrap();
        let error = store.set(name("B"), value("value of b")).unwrap_err();
        assert!(matches!(error, SecretsError::Damaged(_)), "{error}");
        fs::remove_file(&store.key).unwrap();
        let error = store.set(name("B"), value("value of b")).unwrap_err();
        assert!(matches!(error, SecretsError::NoKey { .. }), "{error}");
        assert_eq!(fs::read(&store.file).unwrap(), before);
    }

    #[test]
    fn writers_do_not_lose_each_others_secrets() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..5 {
                        let name = name(&format!("T{thread}_{i}"));
                        store.set(name, value("12345678")).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.names().unwrap().len(), 40);
    }

    #[test]
    fn the_key_is_in_the_keyring_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = fake(dir.path(), WORKS);
        let store = Secrets::new(&dir.path().join("osvm"), Some(keyring));
        store.set(name("A"), value("s3cr3t-value")).unwrap();
        assert!(!store.key.exists());
        assert_eq!(store.get(&name("A")).unwrap().unwrap().reveal(), "s3cr3t-value");
        let without = Secrets { keyring: None, ..store };
        assert!(matches!(without.get(&name("A")), Err(SecretsError::NoKey { .. })));
    }

    #[test]
    fn a_keyring_that_does_not_work_is_done_without() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = fake(dir.path(), "exit 1");
        let store = Secrets::new(&dir.path().join("osvm"), Some(keyring));
        store.set(name("A"), value("s3cr3t-value")).unwrap();
        assert!(store.key.exists());
        assert!(store.get(&name("A")).unwrap().is_some());
    }
}
