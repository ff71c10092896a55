//! Why an image could not be built.

use osvm_image::linux::LinuxError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why an image could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The recipe file can't be read as one.
    #[error("cannot read recipe `{}`", path.display())]
    ReadRecipe {
        /// The file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The recipe asks for something that makes no sense.
    #[error("the recipe is refused: {reason}")]
    BadRecipe {
        /// What is wrong with it.
        reason: String,
    },
    /// A program that does part of the work is not there.
    #[error("`{program}` not found: it is needed to {purpose}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// What for.
        purpose: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The host can't lock the package managers in.
    #[error("cannot lock package managers in")]
    NoJail(#[source] io::Error),
    /// A step ended with an error.
    #[error("cannot {what}: `{program}` {outcome}{}", tail(output))]
    Step {
        /// What the step was for.
        what: String,
        /// The program.
        program: String,
        /// How it ended.
        outcome: String,
        /// The last it said.
        output: String,
    },
    /// A file of the build can't be read or written.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Something that was fetched or given is not what it has to be.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// The thing.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A package wants to run code of its own when it is installed, and the recipe has none run.
    #[error("package `{package}` needs its install script, and the recipe has none run")]
    NeedsScript {
        /// The package.
        package: String,
    },
    /// A package's script did not end as it should.
    #[error("`{event}` of package `{package}` {outcome}{}", tail(output))]
    Script {
        /// The package.
        package: String,
        /// Which of its scripts.
        event: &'static str,
        /// How it ended.
        outcome: String,
        /// The last it said.
        output: String,
    },
    /// There is no microVM for scripts, or none any more.
    #[error("cannot run the packages' install scripts in a microVM")]
    Guest {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What the user can do next.
        hint: Option<String>,
    },
    /// A program in the image needs a library that nothing brings.
    #[error("`{program}` needs the library `{library}`, which no package of the image has")]
    NoLibrary {
        /// The program or library that needs it.
        program: String,
        /// The library.
        library: String,
    },
    /// The store refused the image.
    #[error("cannot store image `{name}`")]
    Store {
        /// The image.
        name: String,
        /// Why.
        source: LinuxError,
    },
}

impl BuildError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTool { package, .. } => {
                Some(format!("install it with `apt-get install {package}`"))
            }
            Self::NoJail(_) => Some(
                "images are built on Linux 5.13 or newer with Landlock switched on \
                 (`lsm=landlock,…` on the kernel's command line)"
                    .into(),
            ),
            Self::NeedsScript { package } => Some(format!(
                "leave out `--no-scripts`, and it runs in a microVM; or, if the package works \
                 without, say `--skip-script {package}`"
            )),
            Self::Script { package, .. } => {
                Some(format!("if the package works without, say `--skip-script {package}`"))
            }
            Self::Guest { hint, .. } => hint.clone(),
            Self::NoLibrary { .. } => {
                Some("name the Debian package that has it with `--deb`".into())
            }
            Self::Store { source, .. } => source.hint(),
            Self::ReadRecipe { .. } => Some("docs/images.md describes recipes".into()),
            Self::BadRecipe { .. } | Self::Step { .. } | Self::Io { .. } | Self::Refused { .. } => {
                None
            }
        }
    }

    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), reason: reason.into() }
    }

    pub(crate) fn recipe(reason: impl Into<String>) -> Self {
        Self::BadRecipe { reason: reason.into() }
    }
}

fn tail(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(":\n{output}") }
}
