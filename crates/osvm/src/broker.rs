//! The broker with the user's secrets, and what no mount may expose.

use osvm_broker::{Broker, Protected, SecretSource};
use osvm_policy::{Config, Env, default_path};
use osvm_runtime::Dirs;
use osvm_secrets::{Keyring, SecretName, Secrets};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The store of this user's secrets. Nothing of it is opened yet.
pub(crate) fn secrets(env: &Env) -> Secrets {
    Secrets::new(&Secrets::dir_from_process(&env.home), Keyring::of_session())
}

/// The broker for calls under `config`. Nothing is started or read before a guest asks for something.
pub(crate) fn new(env: &Env, config: &Config, dirs: &Dirs) -> Broker {
    Broker::new(Arc::new(Store(secrets(env))), protected(env, config, dirs))
}

/// What belongs to osvm, and is no guest's.
pub(crate) fn protected(env: &Env, config: &Config, dirs: &Dirs) -> Protected {
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let state = parent(&dirs.calls);
    // The file itself, and the directory where the default one and its neighbours are.
    let files = [Some(config.path().to_owned()), parent(&default_path(env))];
    let more = [
        Some(Secrets::dir_from_process(&env.home)),
        Some(dirs.run.clone()),
        Some(dirs.calls.clone()),
        state.filter(|state| state.ends_with("osvm")),
        Some(config.unikernel_dir()),
        Some(env.home.join(".osvm")),
    ];
    Protected::new(env.home.clone(), files.into_iter().chain(more).flatten().collect())
}

/// The store as the broker sees it.
#[derive(Debug)]
struct Store(Secrets);

impl SecretSource for Store {
    fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        let name: SecretName = name.parse().map_err(|error| format!("`{name}`: {error}"))?;
        match self.0.get(&name) {
            Ok(value) => Ok(value.map(|value| Zeroizing::new(value.reveal().to_owned()))),
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                Err(format!("{error}{hint}"))
            }
        }
    }
}
