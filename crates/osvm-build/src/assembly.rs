//! What a tree is made into while sources are added to it.

use crate::tree::Tree;
use osvm_image::linux::{Scripts, Source, SourceKind};
use std::collections::BTreeMap;

/// A tree, and what the manifest will say of it.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) tree: Tree,
    /// Program and arguments, as the source itself starts the server.
    pub(crate) command: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) memory_mb: u32,
    pub(crate) sources: Vec<Source>,
    /// Lock files by whose they are.
    pub(crate) locks: Vec<(SourceKind, Vec<u8>)>,
    /// Whether what compiles modules of Node.js is put in.
    pub(crate) compiler: bool,
    /// What of the sources ran, in a builder.
    pub(crate) scripts: Option<Scripts>,
}

impl Assembly {
    /// An empty one. Memory is what small servers are content with, in MiB.
    pub(crate) fn new(tree: Tree) -> Self {
        Self {
            tree,
            command: Vec::new(),
            env: [("HOME".to_owned(), "/home/osvm".to_owned()), path()].into(),
            cwd: "/".into(),
            memory_mb: 128,
            sources: Vec::new(),
            locks: Vec::new(),
            compiler: false,
            scripts: None,
        }
    }
}

fn path() -> (String, String) {
    ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
}
