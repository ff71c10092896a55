//! One build, from recipe to installed image.

use crate::assembly::Assembly;
use crate::builder::{Guests, Workshop};
use crate::error::BuildError;
use crate::jail::Yard;
use crate::node;
use crate::packages::Pool;
use crate::python::Python;
use crate::recipe::{Main, Recipe, Runtime};
use crate::tree::{Entry, Kind, Tree};
use crate::{base, elf, erofs, git, npm, oci, pypi, read_file};
use osvm_image::Digest;
use osvm_image::linux::{
    FORMAT, FileList, FileSystem, LinuxError, LinuxStore, LockFile, Manifest, Root, Source,
    SourceKind, Writer,
};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Whose the files of an image are.
const ROOT: u32 = 0;

/// An image that was built and installed.
#[derive(Clone, Debug)]
pub struct Built {
    /// SHA-256 of the manifest.
    pub digest: Digest,
    /// What was installed.
    pub manifest: Manifest,
}

/// Builds the image of `recipe` and installs it in `store`. What packages want to have run is run in
/// one of `guests`. `say` is told each step when it begins.
///
/// # Errors
///
/// [`BuildError`]; the store is then as it was, but for blobs that nothing names.
pub fn build(
    recipe: &Recipe,
    store: &LinuxStore,
    guests: &dyn Guests,
    say: &dyn Fn(&str),
) -> Result<Built, BuildError> {
    build_as(recipe, false, store, guests, say)
}

/// The same; with `compiler`, what compiles modules of Node.js is put in.
pub(crate) fn build_as(
    recipe: &Recipe,
    compiler: bool,
    store: &LinuxStore,
    guests: &dyn Guests,
    say: &dyn Fn(&str),
) -> Result<Built, BuildError> {
    let stored = |source: LinuxError| BuildError::Store { name: recipe.name.clone(), source };
    // Before minutes of work: whether the image could be installed at all.
    let main = recipe.main()?;
    if let Err(error @ LinuxError::BadName { .. }) = store.manifest(&recipe.name) {
        return Err(stored(error));
    }
    let yard = Yard::new()?;
    let mut assembly = Assembly::new(Tree::create(&yard.path().join("root"))?);
    assembly.compiler = compiler;
    let workshop =
        Workshop { guests, store, node: recipe.node.as_deref().unwrap_or(node::DEFAULT), say };
    fill(&yard, &mut assembly, recipe, main, workshop)?;
    add_files(&mut assembly, recipe)?;
    say("making the root file system");
    let entries = assembly.tree.entries()?;
    let list = assembly.tree.listing(&entries)?;
    let image = yard.path().join("root.erofs");
    erofs::make(&yard, assembly.tree.path(), &image, ROOT)?;
    let writer = store.writer().map_err(stored)?;
    let root = put(&writer, &image).map_err(stored)?;
    let mut locks = Vec::new();
    for (kind, bytes) in &assembly.locks {
        locks.push(LockFile { kind: *kind, digest: writer.bytes(bytes).map_err(stored)? });
    }
    let files = FileList {
        digest: writer.bytes(&list).map_err(stored)?,
        count: entries.len() as u64,
        bytes: entries.iter().map(size).sum(),
    };
    let manifest = manifest(recipe, assembly, root, files, locks)?;
    let digest = writer.install(&manifest).map_err(stored)?;
    Ok(Built { digest, manifest })
}

fn size(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size, .. } => size,
        Kind::Dir | Kind::Link(_) => 0,
    }
}

/// Copies the finished image into the store, where it becomes a blob.
fn put(writer: &Writer<'_>, image: &Path) -> Result<Root, LinuxError> {
    let mut blob = writer.unfinished()?;
    File::open(image)
        .and_then(|mut file| io::copy(&mut file, blob.as_file_mut()))
        .map_err(|source| LinuxError::Io { path: image.into(), source })?;
    let (digest, size) = writer.blob(blob)?;
    Ok(Root { digest, size, fs: FileSystem::Erofs })
}

fn fill(
    yard: &Yard,
    assembly: &mut Assembly,
    recipe: &Recipe,
    main: Main<'_>,
    workshop: Workshop<'_>,
) -> Result<(), BuildError> {
    let say = workshop.say;
    let lock = recipe.lock.as_deref().map(|path| read_file(path, npm::MAX_LOCK)).transpose()?;
    let lock = lock.as_deref();
    let debs: Vec<&str> = recipe.deb.iter().map(String::as_str).collect();
    let node_options = npm::Options {
        skip_scripts: &recipe.skip_scripts,
        lock,
        bundle: recipe.bundle,
        commanded: !recipe.command.is_empty(),
        workshop: (!recipe.no_scripts).then_some(workshop),
    };
    let python_options = pypi::Options {
        python: recipe.python.as_deref(),
        debs: &debs,
        lock,
        program: recipe.program.as_deref(),
    };
    match main {
        Main::Npm(spec) => {
            say("installing the package from npm");
            npm::add(yard, assembly, spec, node_options)?;
            with_node(yard, assembly, recipe, &debs, say)
        }
        Main::Pypi(spec) => {
            say("installing the package from PyPI");
            base::lay(&mut assembly.tree)?;
            let pool = pypi::add(yard, assembly, spec, python_options)?;
            finish(assembly, &pool, &debs)
        }
        Main::Git(spec) => {
            say("checking out the repository");
            let (dir, source) = git::check_out(yard, spec)?;
            assembly.sources.push(source);
            if dir.join("package.json").is_file() {
                npm::add_folder(yard, assembly, &dir, node_options)?;
                with_node(yard, assembly, recipe, &debs, say)
            } else {
                base::lay(&mut assembly.tree)?;
                let pool = pypi::add_folder(yard, assembly, &dir, python_options)?;
                finish(assembly, &pool, &debs)
            }
        }
        Main::Oci(path) => {
            say("unpacking the OCI image");
            oci::add(yard, assembly, path)
        }
        Main::Rootfs(path) => {
            say("copying the root file system");
            add_rootfs(assembly, path)
        }
        Main::Runtime(Runtime::Node) => with_node(yard, assembly, recipe, &debs, say),
        Main::Runtime(Runtime::Python) => {
            say("fetching Python");
            base::lay(&mut assembly.tree)?;
            let (python, pool, sources) =
                Python::install(yard, &mut assembly.tree, python_options.python, &debs)?;
            assembly.sources.extend(sources);
            python.compile(yard)?;
            finish(assembly, &pool, &debs)
        }
        Main::Runtime(Runtime::Debian) => {
            say("fetching Debian packages");
            base::lay(&mut assembly.tree)?;
            let mut wanted = vec!["libc6", "ca-certificates"];
            wanted.extend(&debs);
            let pool = Pool::fetch(yard, &wanted, debs.is_empty())?;
            // What is added may need libraries too.
            add_files(assembly, recipe)?;
            finish(assembly, &pool, &debs)
        }
    }
}

/// Copies a folder as the root, without what kernels put into theirs.
fn add_rootfs(assembly: &mut Assembly, path: &Path) -> Result<(), BuildError> {
    const KERNELS: [&str; 3] = ["dev", "proc", "sys"];
    let keep = |path: &Path| {
        let parent = path.parent();
        !parent.is_some_and(|dir| KERNELS.iter().any(|kernel| dir.starts_with(kernel)))
    };
    assembly.tree.add(path, Path::new("/"), &keep)?;
    base::complete(&mut assembly.tree)?;
    let digest = digest_of(&assembly.tree, Path::new("/"))?;
    assembly.sources.push(files("rootfs", digest));
    Ok(())
}

fn with_node(
    yard: &Yard,
    assembly: &mut Assembly,
    recipe: &Recipe,
    debs: &[&str],
    say: &dyn Fn(&str),
) -> Result<(), BuildError> {
    say("fetching Node.js and its libraries");
    base::lay(&mut assembly.tree)?;
    if assembly.compiler {
        // node-gyp is driven by it. First, because it wants the libraries of all that is there.
        let (_, _, sources) = Python::install(yard, &mut assembly.tree, None, &[])?;
        assembly.sources.extend(sources);
    }
    let version = recipe.node.as_deref().unwrap_or(node::DEFAULT);
    let source = node::install(yard, &mut assembly.tree, version, assembly.compiler)?;
    assembly.sources.push(source);
    let pool = node::pool(yard, debs)?;
    finish(assembly, &pool, debs)
}

/// Debian packages that were asked for, the libraries that programs need, certificates.
fn finish(assembly: &mut Assembly, pool: &Pool, debs: &[&str]) -> Result<(), BuildError> {
    for deb in debs {
        let source = pool.install(&mut assembly.tree, deb, &|_| true)?;
        assembly.sources.push(source);
    }
    let libraries = elf::close(&mut assembly.tree, pool)?;
    assembly.sources.extend(libraries);
    base::certificates(&mut assembly.tree, pool)
}

fn add_files(assembly: &mut Assembly, recipe: &Recipe) -> Result<(), BuildError> {
    for (from, to) in recipe.added()? {
        // What is named may be a link; what is below it stays as it is.
        let from = from.canonicalize().map_err(BuildError::io(from))?;
        assembly.tree.add(&from, to, &|_| true)?;
        let name = to.display().to_string();
        if !assembly.sources.iter().any(|source| source.name == name) {
            let digest = digest_of(&assembly.tree, to)?;
            assembly.sources.push(files(&name, digest));
        }
    }
    Ok(())
}

/// The digest of the list of all entries at and below `to`.
fn digest_of(tree: &Tree, to: &Path) -> Result<Digest, BuildError> {
    let to = to.strip_prefix("/").unwrap_or(to);
    let mut entries = tree.entries()?;
    entries.retain(|entry| entry.path.starts_with(to));
    Ok(Digest::of(&tree.listing(&entries)?))
}

fn files(name: &str, digest: Digest) -> Source {
    let (kind, name) = (SourceKind::Files, name.to_owned());
    Source { kind, name, version: String::new(), digest: Some(digest.to_string()) }
}

fn manifest(
    recipe: &Recipe,
    assembly: Assembly,
    root: Root,
    files: FileList,
    locks: Vec<LockFile>,
) -> Result<Manifest, BuildError> {
    let mut sources = assembly.sources;
    sources.sort_unstable();
    sources.dedup();
    let mut identity = format!("osvm-build {}\n", env!("CARGO_PKG_VERSION")).into_bytes();
    identity.extend(recipe.identity());
    for source in &sources {
        identity.extend(format!("{source:?}\n").into_bytes());
    }
    let mut command =
        if recipe.command.is_empty() { assembly.command } else { recipe.command.clone() };
    if command.is_empty() {
        return Err(BuildError::recipe("neither it nor the source names a command"));
    }
    command.extend(recipe.args.iter().cloned());
    let mut env = assembly.env;
    env.extend(recipe.env.clone());
    Ok(Manifest {
        format: FORMAT,
        name: recipe.name.clone(),
        created: created(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?,
        root,
        command,
        env,
        cwd: recipe.cwd.clone().unwrap_or(assembly.cwd),
        default_memory_mb: recipe.memory_mb.unwrap_or(assembly.memory_mb),
        needs: recipe.needs.clone(),
        sources,
        files,
        locks,
        scripts: assembly.scripts,
        build_id: Digest::of(&identity),
    })
}

/// <https://reproducible-builds.org/specs/source-date-epoch/>: seconds since 1970.
fn created(epoch: Option<&str>) -> Result<Option<String>, BuildError> {
    let Some(text) = epoch.filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = || BuildError::recipe(format!("`SOURCE_DATE_EPOCH` is `{}`", text.escape_debug()));
    let seconds: u32 = text.parse().map_err(|_| bad())?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    Ok(Some(humantime::format_rfc3339_seconds(time).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_build_is_the_one_it_is_given() {
        assert_eq!(created(None).unwrap(), None);
        assert_eq!(created(Some("0")).unwrap().as_deref(), Some("1970-01-01T00:00:00Z"));
        assert!(created(Some("now")).is_err());
        assert!(created(Some("99999999999999999999")).is_err());
    }
}
