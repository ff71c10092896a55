//! Prompts and resources of configured servers.
//!
//! Prompts are named like tools. Resources keep their URI; where two servers offer the same one,
//! both are shown as `osvm://SERVER/URI`, a form that is understood for every resource.

use super::entry::Entry;
use super::{Catalog, Features, Selection, clashing, front_name};
use crate::raw::{self, Object};
use osvm_upstream::Offer;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use tracing::warn;

/// In front of the name of a server, in URIs that osvm made.
pub(crate) const SCHEME: &str = "osvm://";

/// Longest instructions of one server that are passed on, in bytes.
const MAX_INSTRUCTIONS: usize = 4 * 1024;

/// Where capabilities are in the words of MCP.
fn has(capabilities: Option<&RawValue>, name: &str) -> bool {
    capabilities.and_then(Object::read).is_some_and(|all| {
        all.get(name).is_some_and(|value| !matches!(value.get(), "null" | "false"))
    })
}

impl Catalog {
    /// What a server can do besides tools.
    pub(super) fn add_features(&mut self, server: &str, offer: &Offer) {
        let capabilities = offer.capabilities.as_deref();
        let Features { prompts, resources, subscribe, completions, logging } = &mut self.features;
        *prompts |= has(capabilities, "prompts");
        *completions |= has(capabilities, "completions");
        *logging |= has(capabilities, "logging");
        if has(capabilities, "resources") {
            *resources = true;
            self.with_resources.push(server.to_owned());
            let all = capabilities.and_then(Object::read);
            let of_resources = all.as_ref().and_then(|all| Object::read(all.get("resources")?));
            *subscribe |= of_resources
                .is_some_and(|r| r.get("subscribe").is_some_and(|value| value.get() == "true"));
        }
        if let Some(text) = offer.instructions.as_deref().and_then(raw::text) {
            let end = text.floor_char_boundary(MAX_INSTRUCTIONS);
            let text = text.get(..end).unwrap_or_default().trim();
            if !text.is_empty() {
                self.instructions.push((server.to_owned(), text.to_owned()));
            }
        }
    }

    /// A server that was never asked may turn out to have any of these, and clients are told
    /// only once what there is.
    pub(super) fn expect_anything(&mut self) {
        self.features = Features {
            prompts: true,
            resources: true,
            completions: true,
            logging: true,
            ..self.features
        };
    }
}

/// All prompts, by the names that clients see.
pub(super) fn prompts<'a>(
    offers: impl Iterator<Item = (&'a str, &'a Offer)>,
    selection: &Selection,
) -> BTreeMap<String, Entry> {
    let all = named(offers, "name", |offer| &offer.prompts);
    let twice = clashing(all.iter().map(|(server, name, _)| (*server, name.as_str())));
    let mut prompts = BTreeMap::new();
    for (server, own, raw) in all {
        let key = front_name(server, &own, selection.no_prefix, &twice);
        if prompts.contains_key(&key) {
            warn!(key, server, "prompt left out: its name is taken");
            continue;
        }
        let entry = Entry::new(raw, "name", "osvm/prompt", server, key.clone(), own);
        prompts.insert(key, entry);
    }
    prompts
}

/// All resources, and all templates.
pub(super) fn resources<'a>(
    offers: impl Iterator<Item = (&'a str, &'a Offer)> + Clone,
) -> (Vec<Entry>, Vec<Entry>) {
    (
        by_uri(named(offers.clone(), "uri", |offer| &offer.resources), "uri"),
        by_uri(named(offers, "uriTemplate", |offer| &offer.resource_templates), "uriTemplate"),
    )
}

fn by_uri(all: Vec<(&str, String, &RawValue)>, member: &'static str) -> Vec<Entry> {
    let mut owners: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (server, uri, _) in &all {
        owners.entry(uri).or_default().insert(server);
    }
    let shared: HashSet<String> = owners
        .into_iter()
        .filter(|(_, servers)| servers.len() > 1)
        .map(|(uri, _)| uri.to_owned())
        .collect();
    let entry = |(server, own, raw): (&str, String, &RawValue)| {
        let key = if shared.contains(&own) { of_server(server, &own) } else { own.clone() };
        Entry::new(raw, member, "osvm/resource", server, key, own)
    };
    all.into_iter().map(entry).collect()
}

/// The URI that means `uri` of that server and no other.
pub(super) fn of_server(server: &str, uri: &str) -> String {
    format!("{SCHEME}{server}/{uri}")
}

/// The definitions that have a name, with it.
fn named<'a>(
    offers: impl Iterator<Item = (&'a str, &'a Offer)>,
    member: &'static str,
    list: impl Fn(&'a Offer) -> &'a Vec<Box<RawValue>>,
) -> Vec<(&'a str, String, &'a RawValue)> {
    let entries =
        offers.flat_map(|(server, offer)| list(offer).iter().map(move |raw| (server, raw)));
    entries
        .filter_map(|(server, raw)| {
            let name = Object::read(raw).and_then(|o| o.text(member).map(|t| t.into_owned()));
            if name.is_none() {
                warn!(server, member, "a definition without a name is left out");
            }
            Some((server, name?, &**raw))
        })
        .collect()
}
