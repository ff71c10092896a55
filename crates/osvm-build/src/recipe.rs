//! What an image is to be made from: the flags of `osvm image build`, or the same in a file.

use crate::error::BuildError;
use osvm_image::linux::Need;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest recipe file, in bytes.
const MAX_RECIPE: u64 = 1 << 20;

/// A recipe. Paths in it are relative to the working directory, and in a file to that file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Name of the image.
    pub name: String,
    /// A package of npm, `name@version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub npm: Option<String>,
    /// A package of PyPI, `name==version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pypi: Option<String>,
    /// A repository, `URL@COMMIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// An OCI image layout: a folder or a tar archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<PathBuf>,
    /// A folder that is the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// What runs the command when nothing above does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Runtime>,
    /// Program and arguments, in place of what the source itself names.
    pub command: Vec<String>,
    /// Arguments after the command.
    pub args: Vec<String>,
    /// The program of a Python package that has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Files and folders to copy, `SOURCE:DESTINATION`.
    pub add: Vec<String>,
    /// Debian packages to have in the image.
    pub deb: Vec<String>,
    /// Environment of the server.
    pub env: BTreeMap<String, String>,
    /// Working directory of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Memory of a guest, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// What the server needs from its host to be of use.
    pub needs: BTreeSet<Need>,
    /// Release of Node.js.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Release of Python, `3.11`; it has to be one of the host's Debian archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Make one module of all JavaScript modules.
    pub bundle: bool,
    /// Packages of npm that work without their install scripts.
    pub skip_scripts: Vec<String>,
    /// Whether a package that needs its install script is refused, and not run in a microVM.
    pub no_scripts: bool,
    /// The lock file of an earlier build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<PathBuf>,
}

/// What can run a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Node.js.
    Node,
    /// Python.
    Python,
    /// Programs of the Debian packages in `deb`, or what is added.
    Debian,
}

/// The one source of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Main<'a> {
    Npm(&'a str),
    Pypi(&'a str),
    Git(&'a str),
    Oci(&'a Path),
    Rootfs(&'a Path),
    Runtime(Runtime),
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    ///
    /// [`BuildError::ReadRecipe`].
    pub fn read(path: &Path) -> Result<Self, BuildError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BuildError::ReadRecipe {
            path: path.into(),
            source,
        };
        let bytes = crate::read_file(path, MAX_RECIPE).map_err(|error| failed(error.into()))?;
        let text = String::from_utf8(bytes).map_err(|error| failed(error.into()))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|error| failed(error.into()))?;
        recipe.relative_to(path.parent().unwrap_or(Path::new("")));
        Ok(recipe)
    }

    fn relative_to(&mut self, dir: &Path) {
        for path in [&mut self.oci, &mut self.rootfs, &mut self.lock].into_iter().flatten() {
            *path = dir.join(&*path);
        }
        for add in &mut self.add {
            if let Some((from, to)) = add.split_once(':') {
                *add = format!("{}:{to}", dir.join(from).display());
            }
        }
    }

    /// What it is made from, once it was checked that it is one thing.
    pub(crate) fn main(&self) -> Result<Main<'_>, BuildError> {
        let sources = [
            self.npm.as_deref().map(Main::Npm),
            self.pypi.as_deref().map(Main::Pypi),
            self.git.as_deref().map(Main::Git),
            self.oci.as_deref().map(Main::Oci),
            self.rootfs.as_deref().map(Main::Rootfs),
            self.from.map(Main::Runtime),
        ];
        let mut given = sources.into_iter().flatten();
        let main = match (given.next(), given.next()) {
            (Some(main), None) => main,
            (None, _) if !self.command.is_empty() => Main::Runtime(Runtime::Debian),
            (None, _) => return Err(BuildError::recipe("it names nothing to make an image from")),
            (Some(_), Some(_)) => {
                return Err(BuildError::recipe(
                    "it names more than one thing to make an image from",
                ));
            }
        };
        if matches!(main, Main::Runtime(_) | Main::Rootfs(_)) && self.command.is_empty() {
            return Err(BuildError::recipe("it names no command"));
        }
        Ok(main)
    }

    /// Sources and destinations of what is added.
    pub(crate) fn added(&self) -> Result<Vec<(&Path, &Path)>, BuildError> {
        let mut added = Vec::new();
        for add in &self.add {
            let bad = || {
                let shown = add.escape_debug();
                BuildError::recipe(format!("`{shown}` is not `SOURCE:/DESTINATION`"))
            };
            let split = add.split_once(':').filter(|(_, to)| to.starts_with('/'));
            let (from, to) = split.ok_or_else(bad)?;
            added.push((Path::new(from), Path::new(to)));
        }
        Ok(added)
    }

    /// What of the recipe changes the image, as bytes to hash: contents, not paths of the host.
    pub(crate) fn identity(&self) -> Vec<u8> {
        let mut recipe = self.clone();
        (recipe.oci, recipe.rootfs, recipe.lock) = (None, None, None);
        recipe.add.clear();
        // A recipe of plain text can always be written.
        serde_json::to_vec(&recipe).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_file_is_read_and_its_paths_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let text = "name = 'x'\nnpm = 'a@1.0.0'\nadd = ['f:/app/f']\nlock = 'l'\nneeds = ['network']\n[env]\nA = '1'\n";
        std::fs::write(&path, text).unwrap();
        let recipe = Recipe::read(&path).unwrap();
        assert_eq!(recipe.main().unwrap(), Main::Npm("a@1.0.0"));
        assert_eq!(recipe.lock, Some(dir.path().join("l")));
        let from = dir.path().join("f");
        assert_eq!(recipe.added().unwrap(), [(from.as_path(), Path::new("/app/f"))]);
        std::fs::write(&path, "nmp = 'a'").unwrap();
        assert!(matches!(Recipe::read(&path), Err(BuildError::ReadRecipe { .. })));
    }

    #[test]
    fn a_recipe_names_one_source_and_what_to_run() {
        let named = |recipe: &Recipe| recipe.main().is_ok();
        let command = vec!["/x".to_owned()];
        let npm = Recipe { npm: Some("a".into()), ..Recipe::default() };
        assert!(named(&npm));
        assert!(!named(&Recipe { pypi: Some("b".into()), ..npm }));
        assert!(!named(&Recipe::default()));
        let rootfs = Recipe { rootfs: Some("x".into()), ..Recipe::default() };
        assert!(!named(&rootfs));
        assert!(named(&Recipe { command: command.clone(), ..rootfs }));
        assert!(named(&Recipe { command, ..Recipe::default() }));
    }

    #[test]
    fn a_destination_is_an_absolute_path() {
        for add in ["x", "x:y", "", ":"] {
            assert!(
                Recipe { add: vec![add.into()], ..Recipe::default() }.added().is_err(),
                "{add}"
            );
        }
    }
}
