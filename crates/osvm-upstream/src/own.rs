//! How osvm itself speaks to a server, for whoever does so before there is a link.

use crate::edit;
use crate::handshake::{self, own_meta};
use crate::words::{Era, LEGACY, MODERN};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// The era of a server that greeted with this: a `DiscoverResult`, else an `InitializeResult`.
pub fn era(greeting: &RawValue) -> Era {
    handshake::greeted(greeting).map_or(Era::Legacy, |greeting| greeting.era)
}

/// Parameters of a request of osvm's own, as a server of that era wants them. What is no object is
/// left as it is.
pub fn params(params: Value, era: Era) -> Value {
    let version = match era {
        Era::Legacy => LEGACY,
        Era::Modern => MODERN,
    };
    let Ok(raw) = to_raw_value(&params) else { return params };
    let edited = edit::params(Some(&raw), &own_meta(era, version), 0);
    let text = edited.and_then(|edited| edited.text);
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_era_is_told_by_its_greeting_and_spoken_to_in_its_way() {
        let raw = |value: Value| to_raw_value(&value).unwrap();
        let modern = json!({"supportedVersions": [MODERN, LEGACY], "capabilities": {}});
        assert_eq!(era(&raw(modern)), Era::Modern);
        let legacy = json!({"protocolVersion": LEGACY, "capabilities": {}});
        assert_eq!(era(&raw(legacy)), Era::Legacy);
        assert_eq!(era(&raw(json!({"supportedVersions": [LEGACY]}))), Era::Legacy);
        let asked = params(json!({"name": "x"}), Era::Modern);
        assert_eq!(asked["name"], "x");
        assert_eq!(asked["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        assert_eq!(asked["_meta"]["io.modelcontextprotocol/clientInfo"]["name"], "osvm");
        assert_eq!(params(json!({"name": "x"}), Era::Legacy), json!({"name": "x"}));
        assert_eq!(params(json!([1]), Era::Modern), json!([1]));
    }
}
