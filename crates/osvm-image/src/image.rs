//! An image that was checked and can be booted, and the tools it carries.

use crate::Digest;
use osvm_protocol::note::ImageNote;
use osvm_protocol::tool::Tool;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// A bootable image whose bytes are the ones that were installed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name in the store.
    pub name: String,
    /// The file that was read.
    pub path: PathBuf,
    /// SHA-256 of the bytes in `file`.
    pub digest: Digest,
    /// Length of the image, in bytes.
    pub size: u64,
    /// What the image says about itself.
    pub note: ImageNote<'static>,
    /// The tools in the image.
    pub tools: Tools,
    /// The image in a sealed memory file: what was checked is what is booted.
    pub file: Arc<File>,
}

/// The executor as a Linux program, for calls without a VM.
#[derive(Clone, Debug)]
pub struct Executor {
    /// The file that was read.
    pub path: PathBuf,
    /// SHA-256 of the bytes in `file`.
    pub digest: Digest,
    /// Its tool definitions, where the program carries them.
    pub tools: Option<Tools>,
    /// The program in a sealed memory file, to be run as `/proc/self/fd/N`.
    pub file: Arc<File>,
}

/// The tools of one image.
#[derive(Clone, Debug, Default)]
pub struct Tools(Vec<Tool<'static>>);

/// The image has no such tool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LookupError {
    /// No tool of the image belongs to this server.
    #[error("unknown server `{server}`")]
    UnknownServer {
        /// What was asked for.
        server: String,
        /// The server with the most similar name.
        nearest: Option<String>,
    },
    /// The server is there, the tool is not.
    #[error("server `{server}` has no tool `{tool}`")]
    UnknownTool {
        /// The server.
        server: String,
        /// What was asked for.
        tool: String,
        /// The tool of that server with the most similar name.
        nearest: Option<String>,
    },
}

impl LookupError {
    /// The nearest name, as advice.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownServer { nearest, .. } | Self::UnknownTool { nearest, .. } => {
                nearest.as_ref().map(|name| format!("did you mean `{name}`?"))
            }
        }
    }
}

impl Tools {
    pub(crate) fn new(tools: Vec<Tool<'_>>) -> Self {
        Self(tools.into_iter().map(owned).collect())
    }

    /// All tools, in the image's order.
    pub fn iter(&self) -> impl Iterator<Item = &Tool<'static>> {
        self.0.iter()
    }

    /// Finds one tool of one server.
    ///
    /// # Errors
    ///
    /// [`LookupError`] with the nearest name.
    pub fn get(&self, server: &str, tool: &str) -> Result<&Tool<'static>, LookupError> {
        let of_server = || self.0.iter().filter(|candidate| candidate.server == server);
        if let Some(found) = of_server().find(|candidate| candidate.name == tool) {
            return Ok(found);
        }
        if of_server().next().is_none() {
            let nearest = nearest(server, self.0.iter().map(|tool| &*tool.server));
            return Err(LookupError::UnknownServer { server: server.into(), nearest });
        }
        let nearest = nearest(tool, of_server().map(|tool| &*tool.name));
        Err(LookupError::UnknownTool { server: server.into(), tool: tool.into(), nearest })
    }
}

/// The known name most like `wanted`, if one is like it at all.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Similarity (Jaro-Winkler, 0 to 1) below which a name is no help.
    const ALIKE: f64 = 0.75;
    /// Comparing takes time in proportion to the length, and no tool's name is longer.
    const LONGEST: usize = 256;
    if wanted.len() > LONGEST {
        return None;
    }
    known
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name.to_owned())
}

fn owned(tool: Tool<'_>) -> Tool<'static> {
    let Tool { server, name, description, input_schema, output_schema, annotations, needs_network } =
        tool;
    Tool {
        server: server.into_owned().into(),
        name: name.into_owned().into(),
        description: description.into_owned().into(),
        input_schema: std::borrow::Cow::Owned(input_schema.into_owned()),
        output_schema: std::borrow::Cow::Owned(output_schema.into_owned()),
        annotations,
        needs_network,
    }
}
