//! The first words on a link: which era, which revision, what the server is.
//!
//! ```text
//! server/discover ─┬─ result, or an error of the new era ─▶ modern
//!                  ├─ any other error ─▶ initialize on the same link
//!                  └─ silence, end    ─▶ initialize on a new one
//! ```

use crate::channel::{Call, Channel};
use crate::edit::{Members, Meta, quoted};
use crate::mailbox::Lost;
use crate::outgoing::{Deaf, Reply};
use crate::stop::Stop;
use crate::words::{Asks, Era, LEGACY, LEGACY_KNOWN, META_SERVER, MODERN, own_info};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Instant;

/// What a server said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) era: Era,
    pub(crate) version: String,
    /// It names revisions of both eras.
    pub(crate) dual: bool,
    pub(crate) capabilities: Option<Box<RawValue>>,
    pub(crate) server_info: Option<Box<RawValue>>,
    pub(crate) instructions: Option<Box<RawValue>>,
}

/// What `server/discover` led to.
#[derive(Debug)]
pub(crate) enum Probe {
    Modern(Greeting),
    /// Try `initialize` here.
    Legacy,
    /// Try `initialize` on a new link.
    Silent(Lost),
    /// No revision in common.
    Stranger(String),
    /// Do not try any further.
    Lost(Lost),
}

/// `_meta` of osvm's own requests.
pub(crate) fn own_meta(era: Era, version: &str) -> Meta<'_> {
    Meta { era, version, capabilities: None, info: None, level: None, progress: false }
}

/// A request of osvm's own.
pub(crate) fn own_call<'a>(
    method: &'a str,
    params: Option<&'a RawValue>,
    meta: Meta<'a>,
) -> Call<'a> {
    let (asks, relay) = (Asks::default(), &Deaf);
    Call { method, params, meta, owner: 0, asks, own: true, relay, headers: &[] }
}

/// Asks in the manner of the new era.
pub(crate) fn discover(channel: &dyn Channel, deadline: Instant, cancel: &Stop) -> Probe {
    let call = own_call("server/discover", None, own_meta(Era::Modern, MODERN));
    let ask = || channel.call(&call, deadline, cancel);
    let reply = match ask() {
        // It refused the revision that it says it takes: it may mean it the second time.
        Ok(Reply::Error(error)) if takes_modern(&error) => ask(),
        reply => reply,
    };
    match reply {
        Ok(Reply::Result(result)) => discovered(&result),
        Ok(Reply::Error(error)) => refused(&error),
        Err(lost @ (Lost::Deadline | Lost::Gone(_))) => Probe::Silent(lost),
        Err(Lost::Http(400..=499, _)) => Probe::Legacy,
        Err(lost) => Probe::Lost(lost),
    }
}

fn discovered(result: &RawValue) -> Probe {
    #[derive(Deserialize)]
    struct Discovered<'a> {
        #[serde(borrow, rename = "supportedVersions")]
        versions: Vec<Cow<'a, str>>,
        #[serde(borrow, default)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow, default)]
        instructions: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "serverInfo")]
        server_info: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    // Some old servers answer every method with something.
    let Ok(found) = serde_json::from_str::<Discovered<'_>>(result.get()) else {
        return Probe::Legacy;
    };
    let legacy = found.versions.iter().any(|version| LEGACY_KNOWN.contains(&version.as_ref()));
    if !found.versions.iter().any(|version| version == MODERN) {
        return if legacy { Probe::Legacy } else { stranger(&found.versions) };
    }
    let meta = found.meta.and_then(Members::read);
    let info = meta.and_then(|meta| meta.get(META_SERVER)).or(found.server_info);
    Probe::Modern(Greeting {
        era: Era::Modern,
        version: MODERN.to_owned(),
        dual: legacy,
        capabilities: found.capabilities.map(ToOwned::to_owned),
        server_info: info.map(ToOwned::to_owned),
        instructions: found.instructions.map(ToOwned::to_owned),
    })
}

/// An error in answer to `server/discover`.
#[derive(Deserialize)]
struct Refusal<'a> {
    code: i64,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Refusal<'_> {
    /// The revisions that it names.
    fn supported(&self) -> Vec<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct Supported<'a> {
            #[serde(borrow)]
            supported: Vec<Cow<'a, str>>,
        }
        let supported = self.data.and_then(|data| serde_json::from_str(data.get()).ok());
        supported.map_or(Vec::new(), |Supported { supported }| supported)
    }
}

fn takes_modern(error: &RawValue) -> bool {
    serde_json::from_str::<Refusal<'_>>(error.get()).is_ok_and(|refusal| {
        refusal.code == -32_022 && refusal.supported().iter().any(|version| version == MODERN)
    })
}

fn refused(error: &RawValue) -> Probe {
    let Ok(refusal) = serde_json::from_str::<Refusal<'_>>(error.get()) else {
        return Probe::Legacy;
    };
    let supported = refusal.supported();
    let legacy = supported.iter().any(|version| LEGACY_KNOWN.contains(&version.as_ref()));
    match refusal.code {
        -32_022 if legacy => Probe::Legacy,
        -32_022 => stranger(&supported),
        // It knows the new era, and wants more than a greeting.
        -32_021 | -32_020 => Probe::Modern(Greeting {
            era: Era::Modern,
            version: MODERN.to_owned(),
            dual: legacy,
            capabilities: None,
            server_info: None,
            instructions: None,
        }),
        _ => Probe::Legacy,
    }
}

fn stranger(versions: &[Cow<'_, str>]) -> Probe {
    let versions: String =
        versions.join(", ").chars().filter(|c| !c.is_control()).take(200).collect();
    Probe::Stranger(format!("it knows revisions {versions}, osvm {MODERN} to 2024-11-05"))
}

/// Why there was no handshake.
#[derive(Debug)]
pub(crate) enum NoHandshake {
    /// It answered, and not as MCP wants it.
    Wrong(String),
    Lost(Lost),
}

/// Shakes hands in the manner of the old era, as a client with `capabilities`.
pub(crate) fn initialize(
    channel: &dyn Channel,
    capabilities: &str,
    deadline: Instant,
    cancel: &Stop,
) -> Result<Greeting, NoHandshake> {
    let params = format!(
        r#"{{"protocolVersion":{},"capabilities":{capabilities},"clientInfo":{}}}"#,
        quoted(LEGACY),
        own_info()
    );
    let wrong = |why: String| NoHandshake::Wrong(why);
    let params = RawValue::from_string(params).map_err(|error| wrong(error.to_string()))?;
    let call = own_call("initialize", Some(&params), own_meta(Era::Legacy, LEGACY));
    let reply = channel.call(&call, deadline, cancel).map_err(NoHandshake::Lost)?;
    let greeting = match reply {
        Reply::Result(result) => initialized(&result).map_err(wrong)?,
        Reply::Error(error) => {
            let error: String = error.get().chars().take(300).collect();
            return Err(wrong(format!("it refused `initialize` with {error}")));
        }
    };
    channel.agreed(&greeting);
    channel.notify("notifications/initialized", None);
    Ok(greeting)
}

/// Reads what a server said that was greeted before: a `DiscoverResult` of the new era, else an
/// `InitializeResult`.
pub(crate) fn greeted(result: &RawValue) -> Result<Greeting, String> {
    match discovered(result) {
        Probe::Modern(greeting) => Ok(greeting),
        Probe::Legacy | Probe::Silent(_) | Probe::Stranger(_) | Probe::Lost(_) => {
            initialized(result)
        }
    }
}

/// Reads an `InitializeResult`.
pub(crate) fn initialized(result: &RawValue) -> Result<Greeting, String> {
    #[derive(Deserialize)]
    struct Initialized<'a> {
        #[serde(borrow, rename = "protocolVersion")]
        version: Cow<'a, str>,
        #[serde(borrow, default)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "serverInfo")]
        server_info: Option<&'a RawValue>,
        #[serde(borrow, default)]
        instructions: Option<&'a RawValue>,
    }
    let found: Initialized<'_> = serde_json::from_str(result.get())
        .map_err(|error| format!("its answer to `initialize` can't be read: {error}"))?;
    if !LEGACY_KNOWN.contains(&found.version.as_ref()) {
        let version: String = found.version.chars().take(40).collect();
        return Err(format!("it wants revision {version:?}, which osvm does not know"));
    }
    Ok(Greeting {
        era: Era::Legacy,
        version: found.version.into_owned(),
        dual: false,
        capabilities: found.capabilities.map(ToOwned::to_owned),
        server_info: found.server_info.map(ToOwned::to_owned),
        instructions: found.instructions.map(ToOwned::to_owned),
    })
}
