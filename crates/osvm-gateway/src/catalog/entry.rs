//! One tool, prompt or resource, as clients see it and as its server knows it.

use crate::raw::{self, Object};
use crate::trust::{Doubt, Held};
use crate::words::Era;
use osvm_protocol::tool::{Annotations, Tool};
use osvm_runtime::RunMode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

/// A definition in the spelling of each era.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) modern: Box<RawValue>,
    /// Where it differs.
    pub(crate) legacy: Option<Box<RawValue>>,
}

impl Shown {
    pub(crate) fn to(&self, era: Era) -> &RawValue {
        match (era, &self.legacy) {
            (Era::Handshake, Some(legacy)) => legacy,
            _ => &self.modern,
        }
    }
}

/// Who runs a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A unikernel that has it built in.
    Image,
    /// A configured server.
    Server,
}

/// One tool of the catalog.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What clients call it.
    pub name: String,
    /// The server it belongs to.
    pub server: String,
    /// What the server calls it.
    pub tool: String,
    /// Where a call of it runs.
    pub place: RunMode,
    /// Whether it can only answer with the network granted, if that is known.
    pub needs_network: Option<bool>,
    pub(crate) kind: Kind,
    pub(crate) annotations: Option<Annotations>,
    /// Why it is held back, if it is.
    pub(crate) doubt: Option<Doubt>,
    pub(crate) shown: Shown,
}

impl Listed {
    /// Whether it says of itself that it changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.read_only_hint)
    }

    /// The first line of what it says of itself, which may be empty.
    pub fn summary(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Definition<'a> {
            #[serde(default, borrow)]
            description: std::borrow::Cow<'a, str>,
        }
        let text = self.shown.to(Era::Stateless).get();
        let definition = serde_json::from_str::<Definition<'_>>(text);
        let description = definition.map(|it| it.description.into_owned()).unwrap_or_default();
        description.lines().next().unwrap_or_default().to_owned()
    }

    /// The word for where a call of it runs; `denied` where it may not run at all.
    pub fn mode(&self) -> &'static str {
        match (self.kind, self.place) {
            // A program is in no unikernel.
            (Kind::Server, RunMode::Unikernel) => "denied",
            (Kind::Image | Kind::Server, place) => place.as_str(),
        }
    }
}

/// A prompt, a resource or a template of resources.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its name or URI for clients.
    pub(crate) key: String,
    /// Whose it is.
    pub(crate) server: String,
    /// What its server calls it.
    pub(crate) own: String,
    pub(crate) shown: Shown,
}

/// A tool that has no name for clients yet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) server: String,
    pub(super) tool: String,
    place: RunMode,
    needs_network: Option<bool>,
    annotations: Option<Annotations>,
    doubt: Option<Doubt>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Image(Box<Tool<'static>>),
    Server(Box<RawValue>),
}

/// What the name was made of, and what can't be read from the rest.
#[derive(Debug, Serialize)]
struct Origin<'a> {
    server: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_network: Option<bool>,
}

/// A tool of an image as `tools/list` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
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

impl Found {
    pub(super) fn of_image(tool: &Tool<'static>, place: RunMode) -> Self {
        Self {
            server: tool.server.to_string(),
            tool: tool.name.to_string(),
            place,
            needs_network: Some(tool.needs_network),
            annotations: Some(tool.annotations),
            doubt: None,
            source: Source::Image(Box::new(tool.clone())),
        }
    }

    /// A tool as its server defines it; `None` when the definition has no name.
    pub(super) fn of_server(
        server: &str,
        definition: &RawValue,
        place: impl FnOnce(&str) -> RunMode,
        held: &Held,
    ) -> Option<Self> {
        let named = Object::read(definition);
        let Some(tool) = named.as_ref().and_then(|tool| tool.text("name")) else {
            warn!(server, "a tool without a name is left out");
            return None;
        };
        let annotations = named.as_ref().and_then(|tool| annotations(tool.get("annotations")?));
        Some(Self {
            server: server.to_owned(),
            place: place(&tool),
            doubt: held.doubt(&tool),
            tool: tool.into_owned(),
            needs_network: None,
            annotations,
            source: Source::Server(definition.to_owned()),
        })
    }

    pub(super) fn listed(self, name: String) -> Listed {
        let Self { server, tool, place, needs_network, annotations, doubt, source } = self;
        let origin = Origin { server: &server, name: &tool, needs_network };
        let (kind, shown) = match &source {
            Source::Image(tool) => (Kind::Image, of_image(tool, &name, origin)),
            Source::Server(raw) => (Kind::Server, of_server(raw, &name, &origin)),
        };
        Listed { name, server, tool, place, needs_network, kind, annotations, doubt, shown }
    }
}

fn of_image(tool: &Tool<'_>, name: &str, origin: Origin<'_>) -> Shown {
    let schema = &*tool.output_schema;
    let mut definition = Definition {
        name,
        description: &tool.description,
        input_schema: &tool.input_schema,
        output_schema: Some(schema).filter(|schema| may_show(schema, Era::Stateless)),
        annotations: &tool.annotations,
        meta: DefinitionMeta { tool: origin },
    };
    let modern = raw::to_raw(&definition);
    let legacy =
        (!may_show(schema, Era::Handshake) && definition.output_schema.is_some()).then(|| {
            definition.output_schema = None;
            raw::to_raw(&definition)
        });
    Shown { modern, legacy }
}

/// Where clients see another name than the server's, `_meta` says whose the tool is.
fn of_server(definition: &RawValue, name: &str, origin: &Origin<'_>) -> Shown {
    let mut tool = Object::read(definition).unwrap_or_default();
    let modern = if name == origin.name {
        definition.to_owned()
    } else {
        tool.set("name", raw::to_raw(name));
        tool.set_within("_meta", "osvm/tool", raw::to_raw(origin));
        tool.to_raw()
    };
    let takes = |schema: &RawValue| may_show(schema, Era::Handshake);
    let legacy = tool.get("outputSchema").is_some_and(|schema| !takes(schema)).then(|| {
        tool.remove("outputSchema");
        tool.to_raw()
    });
    Shown { modern, legacy }
}

impl Entry {
    /// A prompt or resource whose `member` names it, shown as `key`. Where clients see another
    /// name than the server's, `_meta` says under `label` whose it is.
    pub(super) fn new(
        definition: &RawValue,
        member: &'static str,
        label: &'static str,
        server: &str,
        key: String,
        own: String,
    ) -> Self {
        let modern = if key == own {
            definition.to_owned()
        } else {
            let mut object = Object::read(definition).unwrap_or_default();
            object.set(member, raw::to_raw(&key));
            let origin = Origin { server, name: &own, needs_network: None };
            object.set_within("_meta", label, raw::to_raw(&origin));
            object.to_raw()
        };
        Self { key, server: server.to_owned(), own, shown: Shown { modern, legacy: None } }
    }
}

fn annotations(raw: &RawValue) -> Option<Annotations> {
    serde_json::from_str(raw.get()).ok()
}

/// Whether clients of `era` accept this schema of a result. They refuse the whole list otherwise.
pub(super) fn may_show(schema: &RawValue, era: Era) -> bool {
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
    }
    let Ok(schema) = serde_json::from_str::<Schema<'_>>(schema.get()) else { return false };
    let of_objects = || schema.r#type.is_some_and(|name| name.get() == r#""object""#);
    era == Era::Stateless || of_objects()
}
