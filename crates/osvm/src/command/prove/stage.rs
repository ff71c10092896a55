//! What a proof plays on: a config, files, names and a secret of its own, and one runtime for each way
//! of starting a VM. The user's config is asked for images and addresses only.

use super::attempts::RATE;
use super::server::Server;
use crate::failure::Failure;
use osvm_broker::{Broker, Protected, Resolver, SecretSource};
use osvm_policy::{Config, Env};
use osvm_receipts::Receipts;
use osvm_rules::{RuleFile, Rules};
use osvm_runtime::pool::Pool;
use osvm_runtime::{Dirs, Parts, Runtime, private_dir};
use osvm_vmm::Backend;
use rustix::fs::{FileType, Mode};
use serde_json::{Value, json};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// The image whose guests try things.
pub(super) const IMAGE: &str = "osvm_prober";
/// The server that the image has.
pub(super) const SERVER: &str = "probe";
/// Its tool.
pub(super) const TOOL: &str = "attempt";
/// Name of the secret that is there.
pub(super) const PLANTED: &str = "PROOF";
/// Name of the one that is not.
const UNSET: &str = "PROOF_UNSET";
/// What is in the file that no guest may change.
const OUTSIDE: &str = "not for guests\n";

/// Seconds of a call that is to end by itself: plenty, even where guests are interpreted.
const ENOUGH_SECS: u64 = 300;
/// Seconds of a call that is to be ended.
pub(super) const SLOW_SECS: u64 = 3;
/// Memory of each guest, in MiB.
const MEMORY_MB: u32 = 64;

/// What all ways of starting share. Dropping it removes every file of it.
///
/// No `Debug`: it holds the secret.
pub(super) struct Stage {
    root: TempDir,
    env: Env,
    user: User,
    names: Arc<Names>,
    secret: Zeroizing<String>,
}

/// What of the user's own settings a proof depends on.
#[derive(Clone, Debug)]
pub(super) struct User {
    /// Where the images are.
    pub(super) unikernel_dir: PathBuf,
    /// Addresses of guests.
    pub(super) cid_range: (u32, u32),
    /// Where CIDs are locked, so that they are everybody's.
    pub(super) dirs: Dirs,
}

/// What calls are made with, for one way of starting.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// Rules and mounts let a guest do a little.
    pub(super) open: Runtime,
    /// The same, and a call has [`SLOW_SECS`].
    pub(super) slow: Runtime,
    /// They let it do nothing.
    pub(super) closed: Runtime,
    /// Guests that are ready, where the way of starting is to have some.
    pub(super) pool: Option<Arc<Pool>>,
}

impl Stage {
    /// Makes the files.
    pub(super) fn new(env: &Env, user: User) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::new("host", "cannot make the files of the proof").caused_by(&error)
        };
        let state = user.dirs.state();
        private_dir(state).map_err(|error| Failure::from_error("host", &error, error.hint()))?;
        let root = tempfile::Builder::new().prefix("proof-").tempdir_in(state).map_err(cannot)?;
        files(root.path()).map_err(cannot)?;
        let secret = random().map_err(cannot)?;
        Ok(Self { root, env: env.clone(), user, names: Arc::default(), secret })
    }

    /// Runtimes of their own for one way of starting.
    pub(super) fn runtimes(
        &self,
        backend: &Arc<dyn Backend>,
        server: &Server,
        pooled: bool,
    ) -> Result<Runtimes, Failure> {
        let secrets = Arc::new(Planted(self.secret.clone()));
        // What is protected beside the user's own places, whose state directory this is in.
        let protected = Protected::new(self.env.home.clone(), vec![self.path("own")]);
        let names = Arc::clone(&self.names);
        let host = Arc::new(Broker::new(secrets, protected).with_network(names, None));
        let rules = RuleFile { path: self.path("policy.cedar"), required: false };
        let parts = |config: Config| Parts {
            cids: config.cid_range(),
            config,
            backend: Arc::clone(backend),
            host: Arc::clone(&host) as _,
            gate: Arc::new(Rules::new(rules.clone(), self.root.path())),
            ledger: Arc::new(Receipts::new(self.receipts())),
            dirs: Dirs { run: self.user.dirs.run.clone(), calls: self.path("calls") },
        };
        let pool = pooled.then(Pool::start).transpose();
        let pool = pool.map_err(|error| Failure::new("host", "no pool").caused_by(&error))?;
        let pool = pool.map(Arc::new);
        let runtime = |options: Value, secs: u64| {
            let runtime = Runtime::new(parts(self.config(options, secs)?));
            Ok::<_, Failure>(match &pool {
                Some(pool) => runtime.with_pool(Arc::clone(pool)),
                None => runtime,
            })
        };
        let open = runtime(self.grants(server), ENOUGH_SECS)?;
        let slow = runtime(self.grants(server), SLOW_SECS)?;
        let closed = runtime(json!({}), ENOUGH_SECS)?;
        if let Some(pool) = &pool {
            pool.adopt(open.plan());
        }
        Ok(Runtimes { open, slow, closed, pool })
    }

    /// What the prober's tool may do.
    fn grants(&self, server: &Server) -> Value {
        let port = server.port;
        let header = |name: &str| json!({"Authorization": format!("Bearer ${{secret:{name}}}")});
        let rule = |paths: &str, more: Value| {
            let mut rule = json!({"host": "127.0.0.1", "ports": [port], "paths": [paths]});
            if let (Some(rule), Some(more)) = (rule.as_object_mut(), more.as_object()) {
                rule.extend(more.clone());
            }
            rule
        };
        json!({
            "network_enabled": true,
            "egress": [
                rule("/allowed/*", json!({"methods": ["GET", "POST"]})),
                rule("/small/*", json!({"methods": ["GET", "POST"], "max_bytes": 4096})),
                rule("/rated", json!({"rate_per_minute": RATE})),
                rule("/secret/*", json!({"headers": header(PLANTED)})),
                rule("/unset", json!({"headers": header(UNSET)})),
                {"host": "*.proof.test", "ports": [port], "paths": ["/*"]},
                {"host": "localhost", "ports": [port], "paths": ["/*"]},
            ],
            "mounts": [
                {"host_path": self.path("in"), "guest_path": "/in"},
                {"host_path": self.path("out"), "guest_path": "/out", "readonly": false},
                {"host_path": self.path("own"), "guest_path": "/own"},
                {"host_path": self.path("kernel"), "guest_path": "/kernel"},
            ],
        })
    }

    fn config(&self, options: Value, timeout_secs: u64) -> Result<Config, Failure> {
        let mut server = json!({
            "execution_mode": "unikernel", "on_isolation_failure": "deny",
            "unikernel_image": IMAGE, "memory_mb": MEMORY_MB, "timeout_secs": timeout_secs,
        });
        if let (Some(server), Value::Object(options)) = (server.as_object_mut(), options) {
            server.extend(options);
        }
        let (first, last) = self.user.cid_range;
        let text = json!({
            "unikernel_dir": self.user.unikernel_dir,
            // So that the pool keeps guests of the prober and of no other image.
            "default_execution_mode": "microvm",
            "cid_range": [first, last],
            "pool": {"size": 1, "max_vms": 4},
            "mcp_servers": {SERVER: server},
        });
        let path = self.path("isolation_config.json");
        Config::parse(text.to_string(), &path, &self.env)
            .map_err(|error| Failure::from_error("config", &error, None))
    }

    /// Where the receipts of the proof are.
    pub(super) fn receipts(&self) -> PathBuf {
        self.path("receipts")
    }

    /// Everything that was written down about the calls: receipts and logs.
    pub(super) fn written(&self) -> Vec<String> {
        let files = |dir: &str| {
            let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let all = files("receipts").into_iter().chain(files("calls"));
        all.filter_map(|path| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into())).collect()
    }

    /// The secret that no guest may see.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// What guests left in the files, other than they were allowed to.
    pub(super) fn damage(&self) -> Option<String> {
        let outside = fs::read_to_string(self.path("outside")).unwrap_or_default();
        if outside != OUTSIDE {
            return Some("the file outside was changed".into());
        }
        let count = |name: &str| fs::read_dir(self.path(name)).map_or(0, Iterator::count);
        let hello = fs::read_to_string(self.path("in/hello")).unwrap_or_default();
        if hello != "hello\n" || count("in") != 4 {
            return Some("the read-only mount was changed".into());
        }
        let long = fs::metadata(self.path("out/written")).is_ok_and(|data| data.len() > 100);
        (long || count("out") > 2).then(|| "more was written than was allowed".into())
    }

    /// Names that were looked up although no rule is about them.
    pub(super) fn stray_names(&self) -> Vec<String> {
        let asked = self.names.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let ruled = |name: &String| name.ends_with(".proof.test") || name == "localhost";
        asked.iter().filter(|name| !ruled(name)).cloned().collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

fn files(root: &Path) -> io::Result<()> {
    for name in ["in", "out", "own"] {
        fs::create_dir(root.join(name))?;
    }
    fs::write(root.join("outside"), OUTSIDE)?;
    fs::write(root.join("own/secrets"), OUTSIDE)?;
    fs::write(root.join("in/hello"), "hello\n")?;
    symlink("../outside", root.join("in/link"))?;
    symlink("..", root.join("in/up"))?;
    symlink("../outside", root.join("out/link"))?;
    symlink("/proc", root.join("kernel"))?;
    let pipe = root.join("in/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(())
}

/// 32 random bytes in hexadecimal.
fn random() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    File::open("/dev/urandom")?.read_exact(&mut *bytes)?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// One secret.
struct Planted(Zeroizing<String>);

impl fmt::Debug for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Planted")
    }
}

impl SecretSource for Planted {
    fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, String> {
        Ok((name == PLANTED).then(|| self.0.clone()))
    }
}

/// The names of the proof, which mean addresses that no name may lead to. Nobody else is asked.
#[derive(Debug, Default)]
struct Names {
    asked: Mutex<Vec<String>>,
}

impl Resolver for Names {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        let address = match name {
            "localhost" | "loopback.proof.test" => "127.0.0.1",
            "private.proof.test" => "10.0.0.1",
            "link-local.proof.test" => "169.254.1.1",
            "metadata.proof.test" => "169.254.169.254",
            "private6.proof.test" => "fd00::1",
            "mapped.proof.test" => "::ffff:127.0.0.1",
            _ => return Err(io::Error::other("there is no such name")),
        };
        Ok(address.parse().into_iter().collect())
    }
}
