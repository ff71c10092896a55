//! Flags of `osvm image`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Images of Linux microVMs.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an image of an MCP server, without Docker; install scripts run in a microVM
    Build(Box<ImageBuild>),
    /// List the images
    #[command(visible_alias = "list")]
    Ls(ImageList),
    /// Show what an image runs and what it is made from
    Show(ImageShow),
    /// Read all of an image and compare it with its digests
    Verify(ImageVerify),
    /// Sign an image
    Sign(ImageSign),
    /// Remove images; what they shared stays until `gc`
    #[command(visible_alias = "remove")]
    Rm(ImageNames),
    /// Remove files that no image needs any more
    Gc(ImageList),
}

/// What to build an image from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  osvm image build everything --npm @modelcontextprotocol/server-everything@2026.8.31
  osvm image build git --pypi mcp-server-git==2026.10.19 --deb git
  osvm image build mine --from node --add ./server.js:/app/server.js --command 'node /app/server.js'
  osvm image build other --oci image.tar
  osvm image build --recipe everything.toml

Install scripts of npm packages run in a microVM that reaches the package registry and nothing else;
`osvm image show` lists them. What they write is as reproducible as they are, and no more.
docs/images.md describes recipes, builders and what is refused.")]
pub(crate) struct ImageBuild {
    /// The image's name
    #[arg(required_unless_present = "recipe")]
    pub(crate) name: Option<String>,
    /// Read a recipe (TOML); flags given besides it win
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// A package of npm
    #[arg(long, value_name = "PACKAGE@VERSION", group = "source")]
    pub(crate) npm: Option<String>,
    /// A package of PyPI
    #[arg(long, value_name = "PACKAGE==VERSION", group = "source")]
    pub(crate) pypi: Option<String>,
    /// A git repository with package.json or pyproject.toml, at a full commit id
    #[arg(long, value_name = "URL@COMMIT", group = "source")]
    pub(crate) git: Option<String>,
    /// An OCI image layout: a folder or a tar archive
    #[arg(long, value_name = "PATH", group = "source")]
    pub(crate) oci: Option<PathBuf>,
    /// A folder that is the root file system
    #[arg(long, value_name = "FOLDER", group = "source")]
    pub(crate) rootfs: Option<PathBuf>,
    /// What runs the command, when nothing above does
    #[arg(long, value_enum, value_name = "RUNTIME", group = "source")]
    pub(crate) from: Option<ImageRuntime>,
    /// Program and arguments, in place of the source's own
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// An argument after the command; may be repeated
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
    /// The program to start, of a Python package that has several
    #[arg(long, value_name = "NAME")]
    pub(crate) program: Option<String>,
    /// Copy a file or folder into the image; may be repeated
    #[arg(long, value_name = "SOURCE:DESTINATION")]
    pub(crate) add: Vec<String>,
    /// Have a Debian package in the image; may be repeated
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) deb: Vec<String>,
    /// A variable of the server's environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// The server's working directory
    #[arg(long, value_name = "PATH")]
    pub(crate) cwd: Option<String>,
    /// Memory of a virtual machine, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// What the server needs to be of use; may be repeated
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) needs: Vec<ImageNeed>,
    /// Release of Node.js [default: the one osvm knows]
    #[arg(long, value_name = "VERSION")]
    pub(crate) node: Option<String>,
    /// Release of Python, as 3.11 [default: that of the Debian archive]
    #[arg(long, value_name = "VERSION")]
    pub(crate) python: Option<String>,
    /// Make one module of all JavaScript modules: starts faster
    #[arg(long)]
    pub(crate) bundle: bool,
    /// Take this package of npm without its install script; may be repeated
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) skip_script: Vec<String>,
    /// Refuse packages of npm that need their install script, in place of running it in a microVM
    #[arg(long)]
    pub(crate) no_scripts: bool,
    /// Memory of the microVM for install scripts, in MiB; half of it is for files [default: 768, with
    /// a compiler 2048]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..=65_536))]
    pub(crate) builder_memory: Option<u32>,
    /// Seconds that all install scripts together may take [default: 1800]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) builder_timeout: Option<u32>,
    /// The lock file of an earlier build (`osvm image show --lock`)
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
    /// Sign the image with this key
    #[arg(long, value_name = "FILE")]
    pub(crate) sign: Option<PathBuf>,
    /// Print the manifest as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can run a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageRuntime {
    /// Node.js
    Node,
    /// Python
    Python,
    /// Debian packages, or programs that are added
    Debian,
}

/// What a server may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageNeed {
    /// It reaches other hosts
    Network,
    /// It works on the user's files
    Workspace,
    /// It keeps state between calls
    State,
}

/// All images.
#[derive(Debug, Args)]
pub(crate) struct ImageList {
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One image.
#[derive(Debug, Args)]
pub(crate) struct ImageShow {
    /// The image
    pub(crate) name: String,
    /// Print the manifest as JSON
    #[arg(long, group = "what")]
    pub(crate) json: bool,
    /// Print a bill of materials: CycloneDX 1.6 in JSON
    #[arg(long, group = "what")]
    pub(crate) sbom: bool,
    /// Print the list of all files with their digests
    #[arg(long, group = "what")]
    pub(crate) files: bool,
    /// Print the lock file, to build the same again
    #[arg(long, group = "what")]
    pub(crate) lock: bool,
}

/// Images to check.
#[derive(Debug, Args)]
pub(crate) struct ImageVerify {
    /// The images [default: all]
    pub(crate) names: Vec<String>,
    /// They have to be signed with this key
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// An image to sign.
#[derive(Debug, Args)]
pub(crate) struct ImageSign {
    /// The image
    pub(crate) name: String,
    /// An Ed25519 key, as `openssl genpkey -algorithm ed25519` makes it
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
}

/// Images by name.
#[derive(Debug, Args)]
pub(crate) struct ImageNames {
    /// The images
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}
