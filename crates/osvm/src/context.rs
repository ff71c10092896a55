//! What commands share: the printer, the config, the directories.
//!
//! Nothing is read before a command asks for it, because reading it is on the way of every call.

use crate::backend::{self, Chosen, Wanted};
use crate::broker;
use crate::cli::Global;
use crate::failure::Failure;
use crate::printer::Printer;
use osvm_image::Store;
use osvm_policy::{Config, ConfigError, Created, Env, default_path, default_policy_path};
use osvm_receipts::Receipts;
use osvm_rules::pins::Pins;
use osvm_rules::{Approvals, Prompt, RuleFile, Rules};
use osvm_runtime::calls::CallLogs;
use osvm_runtime::{Dirs, LongGuests, Parts, Runtime};
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{debug, info};

/// The flags that every command takes, and what follows from them.
#[derive(Debug)]
pub(crate) struct Context {
    /// The way out.
    pub(crate) printer: Printer,
    /// The flags.
    pub(crate) global: Global,
    /// The guests of this process that may ask on behalf of calls.
    pub(crate) guests: LongGuests,
}

impl Context {
    /// The environment, as far as the config depends on it.
    pub(crate) fn env(&self) -> Result<Env, Failure> {
        Env::from_process().map_err(|error| Failure::from_error("home", &error, error.hint()))
    }

    /// Which config file is used.
    pub(crate) fn config_path(&self, env: &Env) -> PathBuf {
        self.global.config.clone().unwrap_or_else(|| default_path(env))
    }

    /// The config that is in force. The default one is written on first use; a file that was
    /// named has to be there, since a name that is misspelt must not weaken anything.
    pub(crate) fn config(&self, env: &Env) -> Result<Config, Failure> {
        let path = self.config_path(env);
        let named = self.global.config.is_some() || env.osvm_config.is_some();
        debug!(path = %path.display(), "reading the isolation config");
        let config = if named {
            Config::load(&path, env)
        } else {
            Config::load_or_create(&path, env).map(|(config, Created(created))| {
                if created {
                    info!(path = %path.display(), "wrote the default isolation config");
                }
                config
            })
        };
        config.map_err(|error| config_failure(&error))
    }

    /// Which hypervisor is to run guests.
    pub(crate) fn wanted(&self, config: &Config) -> Wanted {
        backend::wanted(self.global.backend, config)
    }

    /// Where the runtime keeps what several osvm share.
    pub(crate) fn dirs(&self, env: &Env) -> Dirs {
        Dirs::from_process(&env.home)
    }

    /// The logs of calls.
    pub(crate) fn call_logs(&self, env: &Env) -> CallLogs {
        CallLogs::new(self.dirs(env).calls)
    }

    /// The rules about calls. A file that was named has to be there.
    pub(crate) fn rules(&self, config: &Config, env: &Env) -> Rules {
        let named = self.global.policy.as_deref().or(config.policy());
        let required = named.is_some();
        let path = named.map_or_else(|| default_policy_path(env), Into::into);
        Rules::new(RuleFile { path, required }, self.dirs(env).state())
    }

    /// The questions that wait for a person.
    pub(crate) fn approvals(&self, env: &Env) -> Approvals {
        Approvals::new(self.dirs(env).state().join("approvals"))
    }

    /// The tool definitions that are believed.
    pub(crate) fn pins(&self, env: &Env) -> Pins {
        Pins::new(self.dirs(env).state())
    }

    /// Where the receipts are.
    pub(crate) fn receipts_dir(&self, env: &Env) -> PathBuf {
        self.dirs(env).state().join("receipts")
    }

    /// What runs calls, as `config` and the flags say.
    pub(crate) fn runtime(&self, config: Config, env: &Env) -> Result<Runtime, Failure> {
        self.runtime_asking(None, config, env)
    }

    /// The same, with somebody to ask for approvals.
    pub(crate) fn runtime_asking(
        &self,
        prompt: Option<Arc<dyn Prompt>>,
        config: Config,
        env: &Env,
    ) -> Result<Runtime, Failure> {
        let dirs = self.dirs(env);
        let Chosen { backend, reason } = backend::choose(self.wanted(&config), &dirs);
        debug!(backend = backend.name(), reason, "backend chosen");
        let host = Arc::new(broker::new(env, &config, &dirs));
        let cids = config.cid_range();
        let gate = Arc::new(self.rules(&config, env).with_prompt(prompt));
        let ledger = Arc::new(Receipts::new(self.receipts_dir(env)));
        let parts = Parts { config, backend, host, gate, ledger, dirs, cids };
        Ok(Runtime::new(parts).with_guests(self.guests.clone()))
    }

    /// The image store that `config` names.
    pub(crate) fn store(&self, config: &Config) -> Store {
        Store::new(config.unikernel_dir())
    }
}

/// A config that can't be used, as every command shows it.
pub(crate) fn config_failure(error: &ConfigError) -> Failure {
    Failure::from_error("config", error, error.hint())
}

/// Every case that `config` tells apart, as server and tool; the empty name stands for all that
/// have no entry.
pub(crate) fn cases(config: &Config) -> impl Iterator<Item = (&str, &str)> {
    let named = config.servers().flat_map(|entry| {
        let server = entry.name;
        entry.tools.into_iter().chain([""]).map(move |tool| (server, tool))
    });
    named.chain([("", "")])
}
