//! The same servers in microVMs, in both lives, from images that `osvm image build` makes.
//!
//! A server that lives on is compared with one that does; copies with a server that is started anew
//! for every call, on the files that every copy finds.
//!
//! # Invariants
//!
//! - Images are kept in `target/mcp-images`, where the tests of osvm's commands have theirs: same
//!   name, same image.
//! - As many servers are compared at once as there are processors: a start takes one for seconds.

use super::{Compared, one, servers, template};
use crate::packages::Packages;
use crate::project::Project;
use crate::stage::Stage;
use crate::tally::Tally;
use crate::{guest, kernel, printer, process};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

const LIVES: [&str; 2] = ["clone", "persistent"];

/// What the comparisons have in common.
struct Bench<'a> {
    project: &'a Project,
    compare: &'a Path,
    packages: &'a Packages,
}

/// Compares all of them, or says why that can't be done here.
pub(super) fn check(project: &Project, compare: &Path, packages: &Packages) -> Result<Tally> {
    let erofs = process::succeeds(Command::new("which").arg("mkfs.erofs"));
    if !kernel::built(project).exists() || !erofs {
        let why = "they take `cargo xtask kernel` and `apt-get install erofs-utils`";
        printer::note(&format!("servers in microVMs skipped: {why}"));
        return Ok(Tally::skip());
    }
    let bench = Bench { project, compare, packages };
    let (count, next) = (servers(packages, Path::new("")).len(), AtomicUsize::new(0));
    let work = || -> Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if count <= number {
                return Ok(tally);
            }
            tally += bench.compare(number)?;
        }
    };
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let mut tally = Tally::default();
    for outcome in outcomes {
        let Ok(outcome) = outcome else { bail!("a comparison panicked") };
        tally += outcome?;
    }
    Ok(tally)
}

impl Bench<'_> {
    /// Builds the image of one server, and compares both of its lives.
    fn compare(&self, number: usize) -> Result<Tally> {
        let folder = self.project.root.join(format!("target/mcp/work-{number}"));
        let all = servers(self.packages, &folder);
        let server = all.get(number).context("there is no such server")?;
        let mut tally = Tally::default();
        for life in LIVES {
            tally += self
                .in_life(server, &folder, life)
                .with_context(|| format!("cannot compare `{}` as {life}", server.name))?;
        }
        Ok(tally)
    }

    fn in_life(&self, server: &Compared, folder: &Path, life: &str) -> Result<Tally> {
        let stage = Stage::new(self.project, &format!("{}-{life}", server.name))?;
        self.furnish(&stage)?;
        build(&stage, server)?;
        let mut inside = server.program.clone();
        for (name, value) in server.env_inside {
            inside.env.retain(|(known, _)| known != name);
            inside = inside.with_env(name, *value);
        }
        stage.add(server.name, &inside)?;
        let mut options = json!({"execution_mode": "microvm", "life": life, "timeout_secs": 270});
        if let (Some(part), Some(options)) = (server.workspace, options.as_object_mut()) {
            let files = template(&stage, server)?.join(part);
            // Changes of a server that lives on are written to the files; those of a copy are not.
            let mode = if life == "clone" { "diff" } else { "rw" };
            let workspace =
                json!({"host_path": files, "guest_path": folder.join(part), "mode": mode});
            options.insert("workspace".into(), workspace);
        }
        let config = json!({"mcp_servers": {server.name: options}});
        let path = stage.home().join(".config/osvm/isolation_config.json");
        fs::write(path, config.to_string()).context("cannot write the isolation config")?;
        // One instance serves all clients, in the era that the server prefers.
        let afresh = life == "clone";
        let more = json!({"mode": "microvm", "eras": "preferred", "each_afresh": afresh});
        one(&stage, self.compare, folder, server, (&format!("as {life}"), more))
    }

    /// Kernel, PID 1 and images.
    fn furnish(&self, stage: &Stage) -> Result<()> {
        let own = stage.home().join(".osvm");
        let images = self.project.root.join("target/mcp-images/images");
        fs::create_dir_all(own.join("guest")).context("cannot make a folder for the kernel")?;
        fs::create_dir_all(&images).context("cannot make a folder for images")?;
        let link = |from: PathBuf, to: &str| {
            symlink(&from, own.join(to)).with_context(|| format!("cannot link `{to}`"))
        };
        link(kernel::built(self.project), "guest/vmlinux")?;
        link(self.project.images().join(guest::INIT.file), "guest/osvm-init")?;
        link(images, "images")
    }
}

/// Builds the image, unless it is there.
fn build(stage: &Stage, server: &Compared) -> Result<()> {
    if process::succeeds(&mut stage.osvm(&["image", "show", server.name])) {
        return Ok(());
    }
    let mut build = stage.osvm(&["image", "build", server.name]);
    // How to reach a registry is in the environment of whoever runs the tests.
    let own = ["HOME", "PATH", "XDG_RUNTIME_DIR"];
    build.envs(std::env::vars_os().filter(|(name, _)| own.iter().all(|own| name != own)));
    process::run(build.args(&server.image))
}
