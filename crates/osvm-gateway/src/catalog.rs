//! The tools that clients see: which ones, and under which names.
//!
//! Made from the definitions in the images, so it is there before any guest is.

mod name;

use crate::words::Era;
use osvm_policy::ExecutionMode;
use osvm_protocol::tool::{Annotations, Tool};
use osvm_runtime::Runtime;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use thiserror::Error;
use tracing::warn;

/// Which tools to serve. Everything, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only those of these servers.
    pub servers: Option<Vec<String>>,
    /// Only these, each as `SERVER/TOOL` or by the name that clients see.
    pub tools: Option<Vec<String>>,
    /// Leave out the server's name where no other tool has that name.
    pub no_prefix: bool,
}

/// Why there is nothing to serve.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// An image with tools can't be used; the text names it.
    #[error("cannot read the tools of image `{image}`")]
    Image {
        /// The image.
        image: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What to do about it.
        hint: Option<&'static str>,
    },
    /// A server that was selected is not there.
    #[error("no server is called `{name}`")]
    UnknownServer {
        /// What was asked for.
        name: String,
        /// The server with the most similar name.
        nearest: Option<String>,
    },
    /// A tool that was selected is not there.
    #[error("no tool is called `{name}`")]
    UnknownTool {
        /// What was asked for.
        name: String,
        /// The tool with the most similar name.
        nearest: Option<String>,
    },
}

impl CatalogError {
    /// What the user can do next, when there is one clear thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image { hint, .. } => hint.map(str::to_owned),
            Self::UnknownServer { nearest, .. } | Self::UnknownTool { nearest, .. } => {
                nearest.as_ref().map(|name| format!("did you mean `{name}`?"))
            }
        }
    }
}

/// The tools that clients see.
#[derive(Debug, Default)]
pub struct Catalog {
    /// In the order of servers and tools by name, which never depends on who asks.
    tools: BTreeMap<String, Listed>,
}

/// One tool of the catalog.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// What clients call it.
    pub name: String,
    /// Where a call of it runs.
    pub mode: ExecutionMode,
    /// The tool as its image defines it.
    #[serde(skip)]
    pub tool: Tool<'static>,
}

impl Catalog {
    /// Reads the tools of every image that the config makes some call use.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] when an image can't be used, or what is selected is not there.
    pub fn read(runtime: &Runtime, selection: &Selection) -> Result<Self, CatalogError> {
        let config = runtime.config();
        let mut found = Vec::new();
        for name in config.images() {
            let image = runtime.store().load(&name).map_err(|error| CatalogError::Image {
                image: name.clone(),
                hint: error.hint(),
                source: Box::new(error),
            })?;
            found.extend(image.tools.iter().filter_map(|tool| {
                let resolved = config.resolve(&tool.server, &tool.name);
                (resolved.unikernel_image == name).then(|| (resolved.mode, tool.clone()))
            }));
        }
        Self::of(found, selection)
    }

    fn of(
        mut found: Vec<(ExecutionMode, Tool<'static>)>,
        selection: &Selection,
    ) -> Result<Self, CatalogError> {
        if let Some(servers) = &selection.servers {
            let known: BTreeSet<String> = found.iter().map(|(_, t)| t.server.to_string()).collect();
            if let Some(name) = servers.iter().find(|name| !known.contains(*name)).cloned() {
                let nearest = nearest(&name, known.iter().map(String::as_str));
                return Err(CatalogError::UnknownServer { name, nearest });
            }
            found.retain(|(_, tool)| servers.iter().any(|server| *server == tool.server));
        }
        let mut tools = named(found, selection.no_prefix);
        if let Some(wanted) = &selection.tools {
            let is = |name: &str, listed: &Listed| {
                let Tool { server, name: tool, .. } = &listed.tool;
                let pair = name.split_once('/');
                name == listed.name || pair == Some((server.as_ref(), tool.as_ref()))
            };
            let unknown = wanted.iter().find(|name| !tools.values().any(|tool| is(name, tool)));
            if let Some(name) = unknown.cloned() {
                let nearest = nearest(&name, tools.keys().map(String::as_str));
                return Err(CatalogError::UnknownTool { name, nearest });
            }
            tools.retain(|_, tool| wanted.iter().any(|name| is(name, tool)));
        }
        Ok(Self { tools })
    }

    /// The tools, in the order in which clients see them.
    pub fn tools(&self) -> impl ExactSizeIterator<Item = &Listed> {
        self.tools.values()
    }

    /// Whether clients see the same in both.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        let seen = |catalog: &Self| {
            let tools: Vec<_> =
                catalog.tools().map(|tool| tool.definition(Era::Stateless)).collect();
            serde_json::to_string(&tools).ok()
        };
        seen(self) == seen(other)
    }

    /// The tool that clients call `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Listed> {
        self.tools.get(name)
    }

    /// The name most like `name`, for whom mistook it.
    pub(crate) fn nearest(&self, name: &str) -> Option<String> {
        nearest(name, self.tools.keys().map(String::as_str))
    }
}

fn named(found: Vec<(ExecutionMode, Tool<'static>)>, no_prefix: bool) -> BTreeMap<String, Listed> {
    let plain = |tool: &Tool<'_>| name::plain(&tool.server, &tool.name);
    let mut once = HashSet::new();
    let mut twice = HashSet::new();
    for (_, tool) in &found {
        if !once.insert(plain(tool)) {
            twice.insert(plain(tool));
        }
    }
    let mut tools = BTreeMap::new();
    for (mode, tool) in found {
        let short = Some(plain(&tool)).filter(|name| no_prefix && !twice.contains(name));
        let name = short.unwrap_or_else(|| name::prefixed(&tool.server, &tool.name));
        // Only a forged hash gets here: the first one keeps the name.
        if tools.contains_key(&name) {
            warn!(name, server = %tool.server, tool = %tool.name, "tool left out: its name is taken");
            continue;
        }
        tools.insert(name.clone(), Listed { name, mode, tool });
    }
    tools
}

/// The known name most like `wanted`, if one is like it at all.
fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Similarity (Jaro-Winkler, 0 to 1) below which a name is no help.
    const ALIKE: f64 = 0.75;
    /// Comparing takes time in proportion to the length, and no name is longer.
    const LONGEST: usize = 4 * name::MAX_NAME;
    if wanted.len() > LONGEST {
        return None;
    }
    let like = known.map(|name| (strsim::jaro_winkler(wanted, name), name));
    let nearest = like.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, name)| name.to_owned())
}

/// A tool as `tools/list` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Definition<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_schema: Option<&'a RawValue>,
    annotations: &'a Annotations,
    #[serde(rename = "_meta")]
    meta: DefinitionMeta<'a>,
}

#[derive(Debug, Serialize)]
struct DefinitionMeta<'a> {
    #[serde(rename = "osvm/tool")]
    tool: Origin<'a>,
}

/// What the name was made of, and what can't be read from the rest.
#[derive(Debug, Serialize)]
struct Origin<'a> {
    server: &'a str,
    name: &'a str,
    needs_network: bool,
}

impl Listed {
    /// The tool as `tools/list` shows it.
    pub(crate) fn definition(&self, era: Era) -> Definition<'_> {
        let Tool { server, name, description, input_schema, output_schema, .. } = &self.tool;
        let needs_network = self.tool.needs_network;
        Definition {
            name: &self.name,
            description,
            input_schema,
            output_schema: Some(&**output_schema).filter(|schema| may_show(schema, era)),
            annotations: &self.tool.annotations,
            meta: DefinitionMeta { tool: Origin { server, name, needs_network } },
        }
    }
}

/// Whether clients of `era` accept this schema of a result. They refuse the whole list otherwise.
fn may_show(schema: &RawValue, era: Era) -> bool {
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
    }
    let Ok(schema) = serde_json::from_str::<Schema<'_>>(schema.get()) else { return false };
    let of_objects = || schema.r#type.is_some_and(|name| name.get() == r#""object""#);
    era == Era::Stateless || of_objects()
}

#[cfg(test)]
mod tests;
