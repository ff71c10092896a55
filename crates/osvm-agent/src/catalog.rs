//! The tools that the gateway shows, and how calls of them are made: a client of MCP 2026-07-28.

use crate::peer::{Heard, Peer, PeerError, RpcError, Waiting};
use crate::ranking::Ranking;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Instant;
use thiserror::Error;

/// Pages of a list that are read.
const MOST_PAGES: usize = 100;
/// Tools that are kept.
const MOST_TOOLS: usize = 10_000;

/// Why the tools are not known.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The gateway refused.
    #[error("the gateway does not list its tools: {0}")]
    Refused(String),
    /// What it sent is no list of tools.
    #[error("the gateway sent what is no list of tools")]
    Rubbish(#[source] serde_json::Error),
    /// The stream to the host.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// One tool.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// What it is called by.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: Box<RawValue>,
    /// Hints of its maker.
    #[serde(default)]
    annotations: Annotations,
    #[serde(default, rename = "_meta")]
    meta: ToolMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    #[serde(default)]
    read_only_hint: Option<bool>,
    #[serde(default)]
    destructive_hint: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ToolMeta {
    #[serde(default, rename = "osvm/tool")]
    origin: Option<Origin>,
}

#[derive(Clone, Debug, Deserialize)]
struct Origin {
    #[serde(default)]
    server: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    mode: Option<String>,
}

impl Tool {
    /// Where a call of it runs, as far as the gateway says.
    pub fn mode(&self) -> Option<&str> {
        self.meta.origin.as_ref()?.mode.as_deref()
    }

    /// Whether it says of itself that it may destroy something.
    pub fn is_destructive(&self) -> bool {
        self.annotations.read_only_hint != Some(true)
            && self.annotations.destructive_hint == Some(true)
    }

    /// Server and tool, where the gateway says them.
    pub fn origin(&self) -> Option<(&str, &str)> {
        self.meta.origin.as_ref().map(|origin| (origin.server.as_str(), origin.name.as_str()))
    }
}

/// All tools.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    tools: Vec<Tool>,
    ranking: Ranking,
}

impl Catalog {
    /// Makes one of these tools.
    pub fn new(tools: Vec<Tool>) -> Self {
        let texts: Vec<String> = tools
            .iter()
            // The name counts twice: who uses its words means this tool.
            .map(|tool| format!("{0} {0} {1}", tool.name, tool.description))
            .collect();
        Self { ranking: Ranking::new(texts.iter().map(String::as_str)), tools }
    }

    /// Asks the gateway for all of them.
    pub(crate) fn read(peer: &Peer, deadline: Instant) -> Result<Self, CatalogError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            tools: Vec<Tool>,
            #[serde(default)]
            next_cursor: Option<String>,
        }
        let (mut tools, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let waiting = peer.ask("tools/list", |_| ListParams {
                meta: RequestMeta::new(None),
                cursor: cursor.as_deref(),
            })?;
            let page = match answer(&waiting, deadline, &mut |_| {})? {
                Ok(page) => page,
                Err(error) => return Err(CatalogError::Refused(error.message)),
            };
            let page: Page = serde_json::from_str(page.get()).map_err(CatalogError::Rubbish)?;
            tools.extend(page.tools);
            cursor = page.next_cursor;
            if cursor.is_none() || MOST_TOOLS < tools.len() {
                break;
            }
        }
        tools.truncate(MOST_TOOLS);
        Ok(Self::new(tools))
    }

    /// The tools, in the gateway's order.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// The tool with this name.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// The tool of this server.
    pub fn of_server(&self, server: &str, tool: &str) -> Option<&Tool> {
        self.tools.iter().find(|known| known.origin() == Some((server, tool)))
    }

    /// The tools that fit these words, best first, with how well they do.
    pub fn search(&self, words: &str) -> Vec<(&Tool, f64)> {
        let found = self.ranking.search(words);
        found
            .into_iter()
            .filter_map(|(index, score)| Some((self.tools.get(index)?, score)))
            .collect()
    }

    /// The name most like `wanted`.
    pub fn nearest(&self, wanted: &str) -> Option<&str> {
        /// Similarity (Jaro-Winkler, 0 to 1) below which a name is no help.
        const ALIKE: f64 = 0.8;
        let alike = |tool: &Tool| strsim::jaro_winkler(wanted, &tool.name);
        let best = self.tools.iter().map(|tool| (alike(tool), tool.name.as_str()));
        let best = best.max_by(|(one, _), (other, _)| one.total_cmp(other));
        best.filter(|(alike, _)| *alike >= ALIKE && wanted.len() < 256).map(|(_, name)| name)
    }
}

#[derive(Serialize)]
struct ListParams<'a> {
    #[serde(rename = "_meta")]
    meta: RequestMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
}

/// What every request of MCP 2026-07-28 carries.
#[derive(Serialize)]
struct RequestMeta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: &'static str,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Empty,
    #[serde(rename = "io.modelcontextprotocol/clientInfo")]
    info: Info,
    #[serde(rename = "progressToken", skip_serializing_if = "Option::is_none")]
    progress_token: Option<u64>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Info {
    name: &'static str,
    version: &'static str,
}

impl RequestMeta {
    fn new(progress_token: Option<u64>) -> Self {
        Self {
            version: "2026-07-28",
            capabilities: Empty {},
            info: Info { name: "osvm-agent", version: env!("CARGO_PKG_VERSION") },
            progress_token,
        }
    }
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) text: String,
    pub(crate) is_error: bool,
    pub(crate) isolation: Option<Box<RawValue>>,
}

/// Calls a tool by the gateway.
pub(crate) fn call(
    peer: &Peer,
    name: &str,
    arguments: &RawValue,
    deadline: Instant,
    progress: &mut dyn FnMut(String),
) -> Result<Called, PeerError> {
    #[derive(Serialize)]
    struct Params<'a> {
        #[serde(rename = "_meta")]
        meta: RequestMeta,
        name: &'a str,
        arguments: &'a RawValue,
    }
    let waiting =
        peer.ask("tools/call", |id| Params { meta: RequestMeta::new(Some(id)), name, arguments })?;
    Ok(match answer(&waiting, deadline, progress)? {
        Ok(result) => called(&result),
        Err(RpcError { message, .. }) => Called { text: message, is_error: true, isolation: None },
    })
}

fn answer(
    waiting: &Waiting,
    deadline: Instant,
    progress: &mut dyn FnMut(String),
) -> Result<Result<Box<RawValue>, RpcError>, PeerError> {
    loop {
        match waiting.next(deadline)? {
            Heard::Answer(answer) => return Ok(answer),
            Heard::Progress(message) => progress(message),
            Heard::Cancelled => return Err(PeerError::Cancelled),
            Heard::Piece(_) => {}
        }
    }
}

/// `result` of `tools/call`, as far as a model is told of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolResult {
    #[serde(default)]
    content: Vec<Content>,
    #[serde(default)]
    structured_content: Option<Box<RawValue>>,
    #[serde(default)]
    is_error: bool,
    #[serde(default, rename = "_meta")]
    meta: Meta,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    Text {
        text: String,
    },
    Image {
        #[serde(default, rename = "mimeType")]
        mime: String,
    },
    Audio {
        #[serde(default, rename = "mimeType")]
        mime: String,
    },
    Resource {
        resource: Resource,
    },
    ResourceLink {
        uri: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    uri: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(default, rename = "osvm/isolation")]
    envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    isolation: Option<Box<RawValue>>,
}

/// The text of a result, for a model.
fn called(result: &RawValue) -> Called {
    // A list would be read as the members in their order.
    let object = Some(result.get()).filter(|text| text.starts_with('{'));
    let Some(Ok(result)) = object.map(serde_json::from_str::<ToolResult>) else {
        let text = "the tool's result is not one of MCP".to_owned();
        return Called { text, is_error: true, isolation: None };
    };
    let pieces = result.content.into_iter().map(|content| match content {
        Content::Text { text } => text,
        Content::Image { mime } => format!("[an image, {mime}, which is not shown]"),
        Content::Audio { mime } => format!("[a sound, {mime}, which is not shown]"),
        Content::Resource { resource: Resource { text: Some(text), .. } } => text,
        Content::Resource { resource } => format!("[resource {}]", resource.uri),
        Content::ResourceLink { uri } => format!("[resource {uri}]"),
        Content::Other => "[content of a kind that is not known]".to_owned(),
    });
    let mut text = pieces.collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        text = result.structured_content.map(|value| value.get().to_owned()).unwrap_or_default();
    }
    let isolation = result.meta.envelope.and_then(|envelope| envelope.isolation);
    Called { text, is_error: result.is_error, isolation }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(json: &str) -> Tool {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_tool_tells_where_it_runs_and_whether_it_destroys() {
        let tool = tool(
            r#"{"name":"a__b","inputSchema":{},"annotations":{"destructiveHint":true},
                "_meta":{"osvm/tool":{"server":"a","name":"b","mode":"unikernel"}}}"#,
        );
        assert_eq!(tool.mode(), Some("unikernel"));
        assert_eq!(tool.origin(), Some(("a", "b")));
        assert!(tool.is_destructive());
    }

    #[test]
    fn a_name_that_was_mistaken_has_a_nearest_one() {
        let catalog =
            Catalog::new(vec![tool(r#"{"name":"solana__get_balance","inputSchema":{}}"#)]);
        assert_eq!(catalog.nearest("solana_get_balance"), Some("solana__get_balance"));
        assert_eq!(catalog.nearest("weather"), None);
    }

    #[test]
    fn a_result_is_told_in_words_whatever_is_in_it() {
        let of = |json: &str| called(&RawValue::from_string(json.into()).unwrap());
        let mixed = r#"{"content":[{"type":"text","text":"a"},{"type":"image","mimeType":"image/png",
            "data":"AA=="},{"type":"new"}],"isError":true,
            "_meta":{"osvm/isolation":{"isolation":{"cid":200}}}}"#;
        let mixed = of(mixed);
        assert_eq!(
            mixed.text,
            "a\n[an image, image/png, which is not shown]\n[content of a kind that is not known]"
        );
        assert!(mixed.is_error);
        assert_eq!(mixed.isolation.unwrap().get(), r#"{"cid":200}"#);
        assert_eq!(of(r#"{"structuredContent":{"a":1.0}}"#).text, r#"{"a":1.0}"#);
        assert!(of("[]").is_error);
    }
}
