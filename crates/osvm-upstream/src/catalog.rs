//! Asking a server what it offers, page by page.
//!
//! # Invariants
//!
//! - Bounded: pages, entries and bytes of all lists together. A cursor that comes twice is an
//!   error, not a loop.
//! - Definitions stay the text they are. Over HTTP a tool whose `x-mcp-header` can't be followed
//!   is left out, as the specification wants.

use crate::channel::Call;
use crate::edit::{Members, quoted};
use crate::handshake::{own_call, own_meta};
use crate::headers;
use crate::mailbox::Lost;
use crate::offer::{LeftOut, Offer};
use crate::outgoing::Reply;
use crate::session::Session;
use crate::stop::Stop;
use crate::words::Era;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Instant;

/// Pages of one list.
const MAX_PAGES: usize = 1000;

/// Entries of one list.
const MAX_ENTRIES: usize = 10_000;

/// Bytes of one list.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Why a list could not be had.
#[derive(Debug)]
pub(crate) enum NoList {
    Lost(&'static str, Lost),
    Wrong(String),
}

/// Asks for everything.
pub(crate) fn ask(
    session: &Session,
    http: bool,
    deadline: Instant,
    cancel: &Stop,
) -> Result<Offer, NoList> {
    let greeting = &session.greeting;
    let declared = greeting.capabilities.as_deref().and_then(Members::read);
    let has = |name| declared.as_ref().is_none_or(|declared| declared.get(name).is_some());
    let list = |capability, method, member| {
        let asker = Asker { session, method, member, deadline, cancel };
        if has(capability) { asker.all() } else { Ok(Vec::new()) }
    };
    let mut tools = list("tools", "tools/list", "tools")?;
    let prompts = list("prompts", "prompts/list", "prompts")?;
    let resources = list("resources", "resources/list", "resources")?;
    let templates = list("resources", "resources/templates/list", "resourceTemplates")?;
    let mut left_out = Vec::new();
    if http && greeting.era == Era::Modern {
        tools.retain(|tool| match headers::check(tool) {
            Ok(()) => true,
            Err(why) => {
                let tool = headers::name(tool);
                tracing::warn!(tool, why, "a tool is left out");
                left_out.push(LeftOut { tool, why });
                false
            }
        });
    }
    Ok(Offer {
        era: greeting.era,
        version: greeting.version.clone(),
        dual: greeting.dual,
        capabilities: greeting.capabilities.clone(),
        server_info: greeting.server_info.clone(),
        instructions: greeting.instructions.clone(),
        tools,
        prompts,
        resources,
        resource_templates: templates,
        left_out,
    })
}

#[derive(Clone, Copy)]
struct Asker<'a> {
    session: &'a Session,
    method: &'static str,
    member: &'static str,
    deadline: Instant,
    cancel: &'a Stop,
}

impl Asker<'_> {
    fn all(self) -> Result<Vec<Box<RawValue>>, NoList> {
        let mut entries: Vec<Box<RawValue>> = Vec::new();
        let (mut bytes, mut cursors) = (0_usize, HashSet::new());
        let mut params = None;
        for _ in 0..MAX_PAGES {
            let result = match self.page(params.as_deref())? {
                Reply::Result(result) => result,
                Reply::Error(error) if unknown_method(&error) => return Ok(entries),
                Reply::Error(error) => {
                    let error: String = error.get().chars().take(300).collect();
                    return Err(self.wrong(&format!("is answered with the error {error}")));
                }
            };
            let Some(page) = Members::read(&result) else {
                return Err(self.wrong("is answered with no object"));
            };
            let found = page.get(self.member).map(|list| serde_json::from_str(list.get()));
            let Some(Ok(found)) = found else {
                return Err(self.wrong("is answered without a list"));
            };
            let found: Vec<Box<RawValue>> = found;
            bytes = found.iter().fold(bytes, |sum, entry| sum.saturating_add(entry.get().len()));
            entries.extend(found);
            if MAX_ENTRIES < entries.len() || MAX_BYTES < bytes {
                return Err(self.wrong("is answered with more than osvm takes"));
            }
            let Some(cursor) = page.get("nextCursor").and_then(text) else { return Ok(entries) };
            let next = format!(r#"{{"cursor":{}}}"#, quoted(&cursor));
            if !cursors.insert(cursor.into_owned()) {
                return Err(self.wrong("is answered with the same page again"));
            }
            params = RawValue::from_string(next).ok();
        }
        Err(self.wrong("has too many pages"))
    }

    fn page(self, params: Option<&RawValue>) -> Result<Reply, NoList> {
        let greeting = &self.session.greeting;
        let meta = own_meta(greeting.era, &greeting.version);
        let call: Call<'_> = own_call(self.method, params, meta);
        let reply = self.session.channel.call(&call, self.deadline, self.cancel);
        reply.map_err(|lost| NoList::Lost(self.method, lost))
    }

    fn wrong(self, what: &str) -> NoList {
        NoList::Wrong(format!("`{}` {what}", self.method))
    }
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    // A `null` cursor is none.
    let text: Option<Cow<'_, str>> = serde_json::from_str(raw.get()).ok()?;
    text
}

fn unknown_method(error: &RawValue) -> bool {
    code(error) == Some(-32_601)
}

/// The code of a JSON-RPC error.
pub(crate) fn code(error: &RawValue) -> Option<i64> {
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    serde_json::from_str(error.get()).ok().map(|Error { code }| code)
}
