//! Runs what packages want to have run when they are installed, in a microVM of its own.
//!
//! ```text
//! builder image (store) ─ unpack ─┐
//! app, its scripts not run ───────┼─▶ erofs ─▶ Guests::run ─ lines ─▶ Session ─▶ app, as scripts left it
//! guest.mjs, certificates ────────┘
//! ```
//!
//! # Invariants
//!
//! - Nothing of a package runs on the host. The guest has no file of the host but the app, and reaches
//!   the package registry and nothing else.
//! - Of what scripts do, only what is below the app's folder comes back, through [`Session`].
//! - The builder image is made by this crate without running any script, and kept in the store, where
//!   its name says which Node.js is in it: modules that are compiled fit no other.
//!
//! # Not here
//!
//! - Virtual machines: whoever builds brings some, as [`Guests`].

mod session;

use crate::build::build_as;
use crate::error::BuildError;
use crate::jail::Yard;
use crate::recipe::Recipe;
use crate::scripts::Script;
use crate::tree::{Tree, write_all};
use crate::{erofs, node, packages, programs, registry};
use osvm_image::Digest;
use osvm_image::linux::{LinuxError, LinuxStore, Manifest, ScriptRun, Scripts, SourceKind};
use serde_json::json;
use session::Session;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

pub use crate::registry::Registry;

/// The release of npm in builders, whose parts packages expect; and what the registry says of it.
const NPM: &str = "10.9.9";
const NPM_INTEGRITY: &str = "sha512-1g+6jLQvaIuB4zwvHL7yrXuXcWZwDsCtBX8bbWDqbvJSSr9nPiDDWTHNgwXR27iIcTTW7v3A57hDW9RYv2W4Yg==";

/// Debian packages that scripts take for granted.
const TOOLS: [&str; 8] = ["bash", "coreutils", "dash", "findutils", "grep", "gzip", "sed", "tar"];

/// Packages that compile modules of Node.js, beside Python, and beginnings of the names of those that
/// these consist of.
const COMPILER: [&str; 2] = ["g++", "make"];
const COMPILER_PARTS: [&str; 9] =
    ["binutils", "cpp", "g++", "gcc", "libc6", "libgcc", "libstdc++", "linux-libc-dev", "make"];

/// The app in the guest, and what is there to work on it.
const APP: &str = "/app";
const BUILDER: &str = "osvm-builder";

const SCRIPT: &str = include_str!("builder/guest.mjs");

/// Every file in the guest belongs to the user that scripts run as: mkfs.erofs can give all of them
/// to one, and none of them to others without being root.
const OWNER: u32 = 1000;

/// How long all scripts together may take: compiling under an emulated CPU takes minutes.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Processes and threads of scripts.
const MAX_PROCESSES: u32 = 1024;

/// Virtual machines for builds.
pub trait Guests {
    /// Boots `guest`, gives its program the request as one line, and hands on each line that it says,
    /// of a bounded length, until `heard` breaks. The machine is gone when this returns.
    ///
    /// # Errors
    ///
    /// [`GuestError`] when there is no machine, or none any more before `heard` breaks.
    fn run(
        &self,
        guest: &BuildGuest<'_>,
        heard: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), GuestError>;
}

/// A guest that runs scripts.
#[derive(Debug)]
pub struct BuildGuest<'a> {
    /// The builder image that it is made from.
    pub builder: &'a str,
    /// SHA-256 of the builder image's manifest.
    pub builder_digest: Digest,
    /// Its root file system, which no other guest gets.
    pub root: &'a Path,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: &'a str,
    /// The user it runs as.
    pub uid: u32,
    /// Memory, in MiB; about half of it is for files.
    pub memory_mb: u32,
    /// Most processes and threads.
    pub max_processes: u32,
    /// All that it may reach.
    pub registry: &'a Registry,
    /// How long it may take.
    pub timeout: Duration,
    /// What it is told, without a line break.
    pub request: Vec<u8>,
}

/// Why there was no guest, or none to the end.
#[derive(Debug)]
pub struct GuestError {
    /// What is wrong.
    pub source: Box<dyn Error + Send + Sync>,
    /// What the user can do next.
    pub hint: Option<String>,
}

/// Where scripts are run.
#[derive(Clone, Copy)]
pub(crate) struct Workshop<'a> {
    pub(crate) guests: &'a dyn Guests,
    pub(crate) store: &'a LinuxStore,
    /// Release of Node.js that the image has.
    pub(crate) node: &'a str,
    pub(crate) say: &'a dyn Fn(&str),
}

impl std::fmt::Debug for Workshop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Workshop<'_> {
    /// Runs `scripts` of the app in the folder `app`, and leaves the app as they do.
    pub(crate) fn run(
        &self,
        yard: &Yard,
        app: &Path,
        scripts: &[Script],
    ) -> Result<Scripts, BuildError> {
        let compiler = scripts.iter().any(|script| script.compiles);
        let registry = registry::of_npm(yard)?;
        let (manifest, builder_digest) = self.builder(compiler)?;
        let root = yard.path().join("builder.erofs");
        self.root(yard, &manifest, app, &root, &registry)?;
        let mut tree = Tree::adopt(app)?;
        let spool = tempfile::tempfile_in(yard.path()).map_err(BuildError::io(yard.path()))?;
        let mut session = Session::new(&mut tree, scripts, spool, self.say);
        let guest = BuildGuest {
            builder: &manifest.name,
            builder_digest,
            root: &root,
            command: vec![node::PROGRAM.into(), format!("/{BUILDER}/guest.mjs")],
            env: env(self.node, &registry, compiler),
            cwd: APP,
            uid: OWNER,
            memory_mb: if compiler { 2048 } else { 768 },
            max_processes: MAX_PROCESSES,
            registry: &registry,
            timeout: TIMEOUT,
            request: request(scripts),
        };
        (self.say)(&format!(
            "starting a microVM for install scripts; it reaches `{}` and nothing else",
            registry.origin()
        ));
        let ran = self.guests.run(&guest, &mut |line| session.hear(line));
        let runs = concluded(session.finish(), ran)?;
        Ok(Scripts { builder: manifest.name.clone(), builder_digest, runs })
    }

    /// The builder image; made if the store has none.
    fn builder(&self, compiler: bool) -> Result<(Manifest, Digest), BuildError> {
        let kind = if compiler { "gcc-" } else { "" };
        let name = format!("osvm-builder-{kind}node-{}", self.node);
        let stored = |source: LinuxError| BuildError::Store { name: name.clone(), source };
        match self.store.manifest(&name) {
            Ok((manifest, digest)) if is_current(&manifest, self.node, compiler) => {
                return Ok((manifest, digest));
            }
            Ok(_) | Err(LinuxError::NotFound { .. }) => {}
            Err(error) => return Err(stored(error)),
        }
        (self.say)(&format!("making `{name}`, in which install scripts run: once for all images"));
        let mut recipe = Recipe {
            name: name.clone(),
            npm: Some(format!("npm@{NPM}")),
            node: Some(self.node.to_owned()),
            deb: TOOLS.map(str::to_owned).into(),
            no_scripts: true,
            ..Recipe::default()
        };
        if compiler {
            recipe.deb.extend(packages::closure(&Yard::new()?, &COMPILER, &COMPILER_PARTS)?);
        }
        let built = build_as(&recipe, compiler, self.store, self.guests, &|_| {})?;
        if !is_current(&built.manifest, self.node, compiler) {
            let reason = "the registry's package is not the one this osvm knows";
            return Err(BuildError::refused(format!("package `npm@{NPM}`"), reason));
        }
        Ok((built.manifest, built.digest))
    }

    /// Makes the guest's root: the builder image, and the app in it.
    fn root(
        &self,
        yard: &Yard,
        builder: &Manifest,
        app: &Path,
        output: &Path,
        registry: &Registry,
    ) -> Result<(), BuildError> {
        let name = &builder.name;
        let image = self.store.load(name);
        let image = image.map_err(|source| BuildError::Store { name: name.clone(), source })?;
        let dir = yard.path().join("builder");
        let program = programs::find("fsck.erofs", "unpack the builder image", "erofs-utils")?;
        let step = yard.step("unpack the builder image", program).reading(&image.path);
        let extract = format!("--extract={}", dir.display());
        yard.run(step.args([extract.as_ref(), "--no-preserve".as_ref(), image.path.as_os_str()]))?;
        // npm, which is the builder's app, makes room for the other one.
        let (own, inside) = (dir.join(BUILDER), dir.join(APP.trim_start_matches('/')));
        let rename =
            |from: &Path, to: &Path| std::fs::rename(from, to).map_err(BuildError::io(from));
        rename(&inside, &own)?;
        write_all(&own.join("guest.mjs"), SCRIPT.as_bytes())?;
        write_all(&own.join("certificates.pem"), &registry.certificates)?;
        rename(app, &inside)?;
        let made = erofs::make(yard, &dir, output, OWNER);
        rename(&inside, app)?;
        made
    }
}

/// The scripts that ran, if they came to their end and so did the guest.
fn concluded(
    said: Option<Result<Vec<ScriptRun>, BuildError>>,
    ran: Result<(), GuestError>,
) -> Result<Vec<ScriptRun>, BuildError> {
    match (said, ran) {
        // What the guest said of itself is closer to the cause than that it ended.
        (Some(Err(error)), _) => Err(error),
        (_, Err(GuestError { source, hint })) => Err(BuildError::Guest { source, hint }),
        (Some(Ok(runs)), Ok(())) => Ok(runs),
        (None, Ok(())) => Err(BuildError::refused("what the builder says", "it has no end")),
    }
}

/// Whether a builder in the store is what this osvm would make.
fn is_current(manifest: &Manifest, node: &str, compiler: bool) -> bool {
    let npm = |name: &str, version: &str, digest: Option<String>| {
        manifest.sources.iter().any(|source| {
            let same = source.kind == SourceKind::Npm && source.name == name;
            same && source.version == version && (digest.is_none() || source.digest == digest)
        })
    };
    let debian = |name: &str| {
        let mut sources = manifest.sources.iter();
        sources.any(|source| source.kind == SourceKind::Debian && source.name == name)
    };
    let compilers = COMPILER.iter().filter(|_| compiler);
    npm("npm", NPM, node::hex(NPM_INTEGRITY))
        && npm(node::PACKAGE, node, None)
        && TOOLS.iter().chain(compilers).all(|name| debian(name))
}

fn env(node: &str, registry: &Registry, compiler: bool) -> Vec<(String, String)> {
    let certificates = format!("/{BUILDER}/certificates.pem");
    let mut env = vec![
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("HOME", "/home/osvm".into()),
        ("TMPDIR", "/tmp".into()),
        ("LANG", "C.UTF-8".into()),
        ("TZ", "UTC".into()),
        ("CI", "true".into()),
        ("NODE_ENV", "production".into()),
        ("NODE_EXTRA_CA_CERTS", certificates.clone()),
        ("SSL_CERT_FILE", certificates.clone()),
        ("npm_config_audit", "false".into()),
        ("npm_config_cache", "/tmp/npm-cache".into()),
        ("npm_config_cafile", certificates),
        ("npm_config_fund", "false".into()),
        ("npm_config_registry", registry.url.clone()),
        ("npm_config_update_notifier", "false".into()),
        ("npm_config_user_agent", format!("npm/{NPM} node/v{node} linux x64 workspaces/false")),
    ];
    if compiler {
        // The headers are there; they need not be fetched from anywhere.
        env.push(("npm_config_nodedir", "/usr".into()));
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn request(scripts: &[Script]) -> Vec<u8> {
    let scripts: Vec<_> = scripts
        .iter()
        .map(|Script { dir, event, command, optional, .. }| {
            json!({"dir": dir, "event": event, "command": command, "optional": optional})
        })
        .collect();
    let params = json!({"app": APP, "tools": format!("/{BUILDER}"), "scripts": scripts});
    json!({"jsonrpc": "2.0", "id": 1, "method": "run", "params": params}).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_have_run_only_if_guest_and_host_say_so() {
        let broken = || GuestError { source: "no receipt".into(), hint: Some("do".into()) };
        let wrong = || BuildError::refused("x", "y");
        assert_eq!(concluded(Some(Ok(Vec::new())), Ok(())).unwrap(), []);
        let error = concluded(Some(Ok(Vec::new())), Err(broken())).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("do"));
        let error = concluded(Some(Err(wrong())), Err(broken())).unwrap_err();
        assert_eq!(error.to_string(), "x is refused: y");
        assert!(concluded(None, Err(broken())).is_err() && concluded(None, Ok(())).is_err());
    }

    #[test]
    fn a_request_is_one_line_whatever_scripts_say() {
        let script = Script {
            dir: "node_modules/x".into(),
            package: "x".into(),
            version: "1.0.0".into(),
            event: "install",
            command: "one\ntwo".into(),
            optional: true,
            compiles: false,
        };
        let request = request(&[script]);
        assert!(!request.contains(&b'\n'));
        let request: serde_json::Value = serde_json::from_slice(&request).unwrap();
        assert_eq!(request["params"]["scripts"][0]["command"], "one\ntwo");
    }
}
