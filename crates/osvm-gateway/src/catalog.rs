//! What clients see: which tools, prompts and resources, and under which names.
//!
//! Made from the definitions in the images and from what servers offered last, so it is there
//! before any guest or server is. What a server wrote stays as it wrote it, but for names,
//! `_meta`, and what clients of an era can't take.

mod entry;
mod find;
pub(crate) mod name;
mod page;
mod resources;

pub use entry::Listed;
pub(crate) use entry::{Entry, Kind, Shown};
pub(crate) use page::{List, Page};

use crate::fleet::Fleet;
use crate::trust::Keeper;
use entry::Found;
use osvm_protocol::tool::Tool;
use osvm_runtime::{RunMode, Runtime};
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

impl Selection {
    pub(crate) fn has(&self, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.iter().any(|name| name == server))
    }
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

/// What the servers behind can do besides tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
    pub(crate) subscribe: bool,
    pub(crate) completions: bool,
    pub(crate) logging: bool,
}

/// What clients see.
#[derive(Debug, Default)]
pub struct Catalog {
    /// In the order of their names, which never depends on who asks.
    tools: BTreeMap<String, Listed>,
    /// Those that are held back: neither listed nor called.
    held: BTreeMap<String, Listed>,
    prompts: BTreeMap<String, Entry>,
    /// In the order of servers by name, and of each server's own list.
    resources: Vec<Entry>,
    templates: Vec<Entry>,
    /// Servers that have resources, whether they list any or not.
    with_resources: Vec<String>,
    pub(crate) features: Features,
    pub(crate) instructions: Vec<(String, String)>,
}

/// What differs between two catalogs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
}

impl Difference {
    pub(crate) fn any(self) -> bool {
        self.tools || self.prompts || self.resources
    }
}

impl Catalog {
    /// Reads the tools of every image that the config makes some call use, and what the
    /// configured servers offered last.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] when an image can't be used, or what is selected is not there. What a
    /// server offers that has never been asked may be anything, so then no tool is unknown.
    pub(crate) fn read(
        runtime: &Runtime,
        fleet: &Fleet,
        keeper: &Keeper,
        selection: &Selection,
    ) -> Result<Self, CatalogError> {
        let mut found = match of_images(runtime, fleet) {
            Ok(found) => found,
            // Whoever has servers of their own need not have images.
            Err(error) if !fleet.is_empty() => {
                warn!("tools of images are left out: {error}");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let offers: Vec<_> = fleet
            .members()
            .filter(|member| selection.has(member.name()))
            .map(|member| (member, member.offer()))
            .collect();
        for (member, offer) in &offers {
            let Some(offer) = offer else { continue };
            let held = keeper.held(member.name(), offer);
            for raw in &offer.tools {
                let place = |tool: &str| member.place(runtime.config(), tool);
                found.extend(Found::of_server(member.name(), raw, place, &held));
            }
        }
        let mut known: BTreeSet<&str> = fleet.members().map(|member| member.name()).collect();
        let built_in: BTreeSet<String> = found.iter().map(|tool| tool.server.clone()).collect();
        known.extend(built_in.iter().map(String::as_str));
        check_servers(&known, selection)?;
        found.retain(|tool| selection.has(&tool.server));
        let complete = offers.iter().all(|(_, offer)| offer.is_some());
        // All have names before some are held back, so that no other tool takes one of theirs.
        let (held, tools) =
            select(found, selection, complete)?.into_iter().partition(|(_, t)| t.doubt.is_some());
        let mut catalog = Self { tools, held, ..Self::default() };
        for (member, offer) in &offers {
            match offer {
                Some(offer) => catalog.add_features(member.name(), offer),
                None if member.may_be_asked() => catalog.expect_anything(),
                None => {}
            }
        }
        let offers =
            offers.iter().filter_map(|(member, offer)| Some((member.name(), offer.as_deref()?)));
        catalog.prompts = resources::prompts(offers.clone(), selection);
        (catalog.resources, catalog.templates) = resources::resources(offers);
        Ok(catalog)
    }

    /// The tools, in the order in which clients see them.
    pub fn tools(&self) -> impl ExactSizeIterator<Item = &Listed> {
        self.tools.values()
    }

    /// Whether tools are held back.
    pub(crate) fn holds_back(&self) -> bool {
        !self.held.is_empty()
    }

    /// Those of a server that are.
    pub(crate) fn held_of(&self, server: &str) -> Vec<String> {
        let of = self.held.values().filter(|tool| tool.server == server);
        of.map(|tool| tool.tool.clone()).collect()
    }

    /// What clients see differently in `other`.
    pub(crate) fn difference(&self, other: &Self) -> Difference {
        fn shown<'a>(entries: impl Iterator<Item = &'a Shown>) -> Vec<&'a str> {
            entries.map(|shown| shown.modern.get()).collect()
        }
        let tools = |c: &Self| {
            c.tools.values().map(|tool| tool.shown.modern.get().to_owned()).collect::<Vec<_>>()
        };
        let prompts = |c: &Self| {
            shown(c.prompts.values().map(|entry| &entry.shown))
                == shown(other.prompts.values().map(|entry| &entry.shown))
        };
        let entries = |a: &[Entry], b: &[Entry]| {
            shown(a.iter().map(|entry| &entry.shown)) == shown(b.iter().map(|entry| &entry.shown))
        };
        Difference {
            tools: tools(self) != tools(other),
            prompts: !prompts(self),
            resources: !entries(&self.resources, &other.resources)
                || !entries(&self.templates, &other.templates),
        }
    }
}

/// The tools in the images, but for those of servers that are hidden or configured otherwise.
fn of_images(runtime: &Runtime, fleet: &Fleet) -> Result<Vec<Found>, CatalogError> {
    let config = runtime.config();
    let mut found = Vec::new();
    for name in config.images() {
        let image = runtime.store().load(&name).map_err(|error| CatalogError::Image {
            image: name.clone(),
            hint: error.hint(),
            source: Box::new(error),
        })?;
        found.extend(image.tools.iter().filter(|tool| !fleet.replaces(&tool.server)).filter_map(
            |tool: &Tool<'static>| {
                let resolved = config.resolve(&tool.server, &tool.name);
                (resolved.unikernel_image == name)
                    .then(|| Found::of_image(tool, RunMode::from(resolved.mode)))
            },
        ));
    }
    Ok(found)
}

fn check_servers(known: &BTreeSet<&str>, selection: &Selection) -> Result<(), CatalogError> {
    let wanted = selection.servers.iter().flatten();
    match wanted.into_iter().find(|name| !known.contains(name.as_str())).cloned() {
        Some(name) => {
            let nearest = find::nearest(&name, known.iter().copied());
            Err(CatalogError::UnknownServer { name, nearest })
        }
        None => Ok(()),
    }
}

/// Names the tools and picks those that are wanted. With `complete`, one that is wanted and not
/// there is an error.
fn select(
    found: Vec<Found>,
    selection: &Selection,
    complete: bool,
) -> Result<BTreeMap<String, Listed>, CatalogError> {
    let mut tools = named(found, selection.no_prefix);
    let Some(wanted) = &selection.tools else { return Ok(tools) };
    let is = |name: &str, listed: &Listed| {
        let pair = name.split_once('/');
        name == listed.name || pair == Some((&listed.server, &listed.tool))
    };
    let unknown = wanted.iter().find(|name| !tools.values().any(|tool| is(name, tool)));
    if let Some(name) = unknown.filter(|_| complete).cloned() {
        let nearest = find::nearest(&name, tools.keys().map(String::as_str));
        return Err(CatalogError::UnknownTool { name, nearest });
    }
    tools.retain(|_, tool| wanted.iter().any(|name| is(name, tool)));
    Ok(tools)
}

fn named(found: Vec<Found>, no_prefix: bool) -> BTreeMap<String, Listed> {
    let pairs = || found.iter().map(|tool| (tool.server.as_str(), tool.tool.as_str()));
    let twice = clashing(pairs());
    let mut tools = BTreeMap::new();
    for tool in found {
        let name = front_name(&tool.server, &tool.tool, no_prefix, &twice);
        // A server that lists a tool twice gets here, and a forged hash: the first one stays.
        if tools.contains_key(&name) {
            warn!(name, server = %tool.server, tool = %tool.tool, "tool left out: its name is taken");
            continue;
        }
        tools.insert(name.clone(), tool.listed(name));
    }
    tools
}

/// The plain names that more than one of `pairs` would have.
fn clashing<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> HashSet<String> {
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    let mut servers = HashSet::new();
    for (server, name) in pairs {
        let plain = name::plain(server, name);
        // The same pair again is no clash, but a mistake of its server.
        if servers.insert((server, name)) && !once.insert(plain.clone()) {
            twice.insert(plain);
        }
    }
    twice
}

fn front_name(server: &str, name: &str, no_prefix: bool, twice: &HashSet<String>) -> String {
    let short = no_prefix.then(|| name::plain(server, name)).filter(|name| !twice.contains(name));
    short.unwrap_or_else(|| name::prefixed(server, name))
}

#[cfg(test)]
mod tests;
