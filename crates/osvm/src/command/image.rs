//! `osvm image`: builds, lists, shows, checks, signs and removes images of Linux microVMs.

use super::{Outcome, Status};
use crate::cli::{Image, ImageBuild, ImageNeed, ImageRuntime, ImageShow, ImageSign, ImageVerify};
use crate::context::Context;
use crate::failure::Failure;
use crate::microvm::builder::Builder;
use crate::printer::table;
use osvm_build::{BuildError, Recipe, Runtime};
use osvm_image::Digest;
use osvm_image::linux::{
    LinuxError, LinuxStore, Manifest, Need, PrivateKey, PublicKey, ScriptRun, sbom,
};
use osvm_policy::printable;
use serde_json::{Value, json};
use std::io::Read as _;
use std::time::{Duration, Instant};

/// Longest list of files or lock file that is printed, in bytes.
const MAX_PRINTED: u64 = 64 << 20;

/// Does what the command says.
pub(crate) fn run(context: &Context, command: &Image) -> Outcome {
    let store = LinuxStore::new(context.env()?.home.join(".osvm/images"));
    match command {
        Image::Build(args) => build(context, &store, args)?,
        Image::Ls(args) => list(context, &store, args.json)?,
        Image::Show(args) => show(context, &store, args)?,
        Image::Verify(args) => return verify(context, &store, args),
        Image::Sign(args) => sign(context, &store, args)?,
        Image::Rm(args) => {
            for name in &args.names {
                store.remove(name).map_err(|error| failure(&error))?;
                context.printer.note(&format!("removed `{name}`"));
            }
        }
        Image::Gc(args) => collect(context, &store, args.json)?,
    }
    Ok(Status::Success)
}

fn build(context: &Context, store: &LinuxStore, args: &ImageBuild) -> Result<(), Failure> {
    let recipe = recipe(args)?;
    // Before minutes of work: whether the key can be used.
    let key = args.sign.as_deref().map(PrivateKey::read).transpose();
    let key = key.map_err(|error| failure(&error))?;
    let started = Instant::now();
    let say = |step: &str| context.printer.note(step);
    let builder = Builder {
        context,
        env: &context.env()?,
        memory: args.builder_memory,
        timeout: args.builder_timeout.map(|secs| Duration::from_secs(secs.into())),
    };
    let built = osvm_build::build(&recipe, store, &builder, &say);
    let built = built.map_err(|error| build_failure(&error))?;
    if let Some(key) = key {
        let signature = key.sign(built.digest);
        store.put_signature(&recipe.name, &signature).map_err(|error| failure(&error))?;
    }
    if args.json {
        return context.printer.pretty_json(&shown(&built.manifest, built.digest));
    }
    let seconds = started.elapsed().as_secs_f64();
    let size = megabytes(built.manifest.root.size);
    let name = &recipe.name;
    context.printer.note(&format!("built `{name}` in {seconds:.1} s: {size}"));
    context.printer.result(&built.digest.to_string())
}

/// The recipe of the file, if there is one, and what the flags change in it.
fn recipe(args: &ImageBuild) -> Result<Recipe, Failure> {
    let mut recipe = match &args.recipe {
        Some(path) => Recipe::read(path).map_err(|error| build_failure(&error))?,
        None => Recipe::default(),
    };
    let source = args.npm.is_some() || args.pypi.is_some() || args.git.is_some();
    if source || args.oci.is_some() || args.rootfs.is_some() || args.from.is_some() {
        (recipe.npm, recipe.pypi, recipe.git) =
            (args.npm.clone(), args.pypi.clone(), args.git.clone());
        (recipe.oci, recipe.rootfs) = (args.oci.clone(), args.rootfs.clone());
        recipe.from = args.from.map(runtime);
    }
    if let Some(command) = &args.command {
        let bad = || Failure::new("usage", format!("`--command` has an open quote: `{command}`"));
        recipe.command = shlex::split(command).ok_or_else(bad)?;
    }
    for pair in &args.env {
        let bad = || Failure::new("usage", format!("`--env` is NAME=VALUE, not `{pair}`"));
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        recipe.env.insert(name.into(), value.into());
    }
    recipe.name = args.name.clone().unwrap_or(recipe.name);
    recipe.args.extend(args.args.iter().cloned());
    recipe.add.extend(args.add.iter().cloned());
    recipe.deb.extend(args.deb.iter().cloned());
    recipe.skip_scripts.extend(args.skip_script.iter().cloned());
    recipe.needs.extend(args.needs.iter().copied().map(need));
    recipe.bundle |= args.bundle;
    recipe.no_scripts |= args.no_scripts;
    recipe.program = args.program.clone().or(recipe.program);
    recipe.cwd = args.cwd.clone().or(recipe.cwd);
    recipe.memory_mb = args.memory.or(recipe.memory_mb);
    recipe.node = args.node.clone().or(recipe.node);
    recipe.python = args.python.clone().or(recipe.python);
    recipe.lock = args.lock.clone().or(recipe.lock);
    Ok(recipe)
}

fn runtime(runtime: ImageRuntime) -> Runtime {
    match runtime {
        ImageRuntime::Node => Runtime::Node,
        ImageRuntime::Python => Runtime::Python,
        ImageRuntime::Debian => Runtime::Debian,
    }
}

fn need(need: ImageNeed) -> Need {
    match need {
        ImageNeed::Network => Need::Network,
        ImageNeed::Workspace => Need::Workspace,
        ImageNeed::State => Need::State,
    }
}

fn list(context: &Context, store: &LinuxStore, as_json: bool) -> Result<(), Failure> {
    let images = store.list().map_err(|error| failure(&error))?;
    if as_json {
        let images: Vec<Value> = images
            .iter()
            .map(|image| match &image.manifest {
                Ok((manifest, digest)) => {
                    let (size, memory) = (manifest.root.size, manifest.default_memory_mb);
                    json!({"name": image.name, "digest": digest, "size": size, "memory_mb": memory,
                        "command": manifest.command, "signed": image.signed})
                }
                Err(error) => json!({"name": image.name, "error": error.to_string()}),
            })
            .collect();
        return context.printer.pretty_json(&images);
    }
    if images.is_empty() {
        context.printer.note("no images yet: `osvm image build --help`");
        return Ok(());
    }
    let mut rows =
        vec![["NAME", "DIGEST", "SIZE", "MEMORY", "SIGNED", "COMMAND"].map(str::to_owned)];
    rows.extend(images.into_iter().map(|image| match image.manifest {
        Ok((manifest, digest)) => {
            let short: String = digest.hex().chars().take(12).collect();
            let signed = if image.signed { "yes" } else { "-" }.to_owned();
            let memory = format!("{} MiB", manifest.default_memory_mb);
            let command = manifest.command.join(" ");
            [image.name, short, megabytes(manifest.root.size), memory, signed, command]
        }
        Err(error) => {
            let dash = || "-".to_owned();
            [image.name, dash(), dash(), dash(), dash(), format!("unusable: {error}")]
        }
    }));
    context.printer.result(&table(&rows))
}

fn show(context: &Context, store: &LinuxStore, args: &ImageShow) -> Result<(), Failure> {
    let (manifest, digest) = store.manifest(&args.name).map_err(|error| failure(&error))?;
    if args.json {
        return context.printer.pretty_json(&shown(&manifest, digest));
    }
    if args.sbom {
        return context.printer.pretty_json(&sbom(&manifest, digest));
    }
    if args.files {
        return context.printer.result(&blob(store, &args.name, manifest.files.digest)?);
    }
    if args.lock {
        let none = || Failure::new("image", format!("image `{}` has no lock file", args.name));
        let lock = manifest.locks.first().ok_or_else(none)?;
        return context.printer.result(&blob(store, &args.name, lock.digest)?);
    }
    let signature = store.signature(&args.name).map_err(|error| failure(&error))?;
    let env: Vec<String> =
        manifest.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let root = manifest.root;
    let files = manifest.files;
    let mut rows = vec![
        ["digest".into(), digest.to_string()],
        ["root".into(), format!("{} ({})", root.digest, megabytes(root.size))],
        ["files".into(), format!("{} ({})", files.count, megabytes(files.bytes))],
        ["command".into(), manifest.command.join(" ")],
        ["directory".into(), manifest.cwd.clone()],
        ["environment".into(), env.join(" ")],
        ["memory".into(), format!("{} MiB", manifest.default_memory_mb)],
        ["signed by".into(), signature.map_or_else(|| "-".into(), |signature| signature.key)],
    ];
    rows.extend(manifest.sources.iter().map(|source| {
        [source.kind.as_str().to_owned(), format!("{} {}", source.name, source.version)]
    }));
    if let Some(scripts) = &manifest.scripts {
        rows.push(["builder".into(), format!("{} {}", scripts.builder, scripts.builder_digest)]);
        rows.extend(scripts.runs.iter().map(|run| {
            let ScriptRun { package, event, command, outcome, .. } = run;
            let outcome = outcome.as_str();
            ["script".into(), format!("{package} {event} ({outcome}): {}", printable(command))]
        }));
    }
    context.printer.result(&table(&rows))
}

fn blob(store: &LinuxStore, name: &str, digest: Digest) -> Result<String, Failure> {
    let file = store.blob(name, digest).map_err(|error| failure(&error))?;
    let mut text = String::new();
    file.take(MAX_PRINTED).read_to_string(&mut text).map_err(|error| {
        Failure::new("image", format!("cannot read blob {digest}")).caused_by(&error)
    })?;
    Ok(text)
}

fn verify(context: &Context, store: &LinuxStore, args: &ImageVerify) -> Outcome {
    let key = args.key.as_deref().map(PublicKey::read).transpose();
    let key = key.map_err(|error| failure(&error))?;
    let names = match args.names.as_slice() {
        [] => store.names().map_err(|error| failure(&error))?,
        names => names.to_vec(),
    };
    let mut wrong = None;
    let mut found = Vec::new();
    for name in &names {
        match store.verify(name, key.as_ref()) {
            Ok(digest) if args.json => {
                found.push(json!({"name": name, "digest": digest, "ok": true}))
            }
            Ok(digest) => context.printer.result(&format!("{name}  {digest}  ok"))?,
            Err(error) => {
                if args.json {
                    found.push(json!({"name": name, "ok": false, "error": error.to_string()}));
                } else {
                    context.printer.result(&format!("{name}  {error}"))?;
                }
                wrong.get_or_insert(failure(&error));
            }
        }
    }
    if args.json {
        context.printer.pretty_json(&found)?;
    }
    wrong.map_or(Ok(Status::Success), Err)
}

fn sign(context: &Context, store: &LinuxStore, args: &ImageSign) -> Result<(), Failure> {
    let key = PrivateKey::read(&args.key).map_err(|error| failure(&error))?;
    // Whoever signs says that the image is right, so it had better be.
    let digest = store.verify(&args.name, None).map_err(|error| failure(&error))?;
    store.put_signature(&args.name, &key.sign(digest)).map_err(|error| failure(&error))?;
    context.printer.note(&format!("signed `{}`, {digest}", args.name));
    Ok(())
}

fn collect(context: &Context, store: &LinuxStore, as_json: bool) -> Result<(), Failure> {
    let freed = store.gc().map_err(|error| failure(&error))?;
    if as_json {
        return context.printer.pretty_json(&json!({"files": freed.blobs, "bytes": freed.bytes}));
    }
    let (files, size) = (freed.blobs, megabytes(freed.bytes));
    context.printer.note(&format!("removed {files} files, {size}"));
    Ok(())
}

/// A manifest and its digest as one JSON object.
fn shown(manifest: &Manifest, digest: Digest) -> Value {
    let mut value = json!(manifest);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("digest".into(), json!(digest));
    }
    value
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

fn failure(error: &LinuxError) -> Failure {
    Failure::from_error("image", error, error.hint())
}

fn build_failure(error: &BuildError) -> Failure {
    Failure::from_error("image_build", error, error.hint())
}
