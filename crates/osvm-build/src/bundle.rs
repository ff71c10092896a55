//! All modules of a server as one, made by esbuild.
//!
//! Loading hundreds of modules is most of a Node server's start: each is looked up, read, linked.
//! One module halves it (docs/images.md has the figures). Modules keep finding their own files,
//! because each goes on seeing its own path, and the unbundled tree stays in the image.
//!
//! A V8 compile cache is not baked in: V8 binds it to the features of the CPU it was made on, and
//! a guest's are others.

use crate::assembly::Assembly;
use crate::error::BuildError;
use crate::jail::Yard;
use crate::node;
use crate::programs;
use osvm_image::linux::{Source, SourceKind};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The release of esbuild. Another one could write another bundle.
const VERSION: &str = "0.28.2";

const SCRIPT: &str = include_str!("bundle.mjs");

/// Bundles the program `entry` of the folder `app`. Returns the bundle, which lies beside it.
pub(crate) fn make(
    yard: &Yard,
    assembly: &mut Assembly,
    app: &Path,
    entry: &Path,
) -> Result<PathBuf, BuildError> {
    let dir = yard.sub("esbuild")?;
    let package = format!(r#"{{"private":true,"dependencies":{{"esbuild":"{VERSION}"}}}}"#);
    crate::tree::write_all(&dir.join("package.json"), package.as_bytes())?;
    crate::tree::write_all(&dir.join("bundle.mjs"), SCRIPT.as_bytes())?;
    let install = node::npm(yard, "fetch esbuild".into())?.with_network().within(&dir);
    yard.run(install.args(["install", "--ignore-scripts"]))?;
    let stem = entry.file_stem().unwrap_or(OsStr::new("index")).to_string_lossy();
    let bundle = entry.with_file_name(format!("{stem}.osvm-bundle.mjs"));
    let program = programs::find("node", "bundle modules", "nodejs")?;
    let mut step = yard.step("bundle the server's modules", &program).within(&dir);
    step.read.extend(programs::prefix(&program));
    let (from, to) = (app.join(entry), app.join(&bundle));
    let args = [OsStr::new("bundle.mjs"), app.as_os_str(), from.as_os_str(), to.as_os_str()];
    yard.run(step.args(args))?;
    let (kind, name, version) = (SourceKind::Npm, "esbuild".to_owned(), VERSION.to_owned());
    assembly.sources.push(Source { kind, name, version, digest: None });
    Ok(bundle)
}
