//! What a guest asks for, read and bounded. Everything here comes from a stranger.

use crate::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, header};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Headers one request may have, and bytes in them.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Most redirects that are followed for one request.
pub(crate) const MAX_REDIRECTS: u8 = 5;

/// Headers of a guest that are left out: those that say how a message is carried or whom it is for,
/// which are osvm's to write, and those by which servers take a request for another one than the
/// rules saw.
const LEFT_OUT: [&str; 24] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// `host/http`.
#[derive(Debug, Deserialize)]
pub(crate) struct HttpParams<'a> {
    #[serde(borrow, default = "get")]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) url: Cow<'a, str>,
    #[serde(default)]
    headers: Pairs,
    #[serde(flatten, borrow)]
    body: BodyParams<'a>,
    /// Whether `host/http.write` brings more of the body.
    #[serde(default)]
    pub(crate) more: bool,
    #[serde(default)]
    pub(crate) timeout_ms: Option<u64>,
    #[serde(default)]
    max_redirects: Option<u8>,
}

/// `host/http.write`.
#[derive(Debug, Deserialize)]
pub(crate) struct WriteParams<'a> {
    pub(crate) stream: u64,
    #[serde(flatten, borrow)]
    body: BodyParams<'a>,
    #[serde(default)]
    pub(crate) more: bool,
}

/// `host/http.read` and `host/http.close`.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamParams {
    pub(crate) stream: u64,
}

/// A body as text, or as Base64.
#[derive(Debug, Deserialize)]
pub(crate) struct BodyParams<'a> {
    #[serde(borrow, default)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    body_base64: Option<Cow<'a, str>>,
}

/// Header fields, as an object or as a list of pairs.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, String)>);

fn get() -> Cow<'static, str> {
    "GET".into()
}

/// Reads the parameters of `method`.
pub(crate) fn read<'a, T: Deserialize<'a>>(
    method: &str,
    params: Option<&'a RawValue>,
) -> Result<T, Refusal> {
    let text = params.map_or("{}", RawValue::get);
    serde_json::from_str(text)
        .map_err(|error| Refusal::Params(format!("wrong parameters of `{method}`: {error}")))
}

impl HttpParams<'_> {
    /// The method, if it is one that can be allowed at all.
    pub(crate) fn checked_method(&self) -> Result<Method, Refusal> {
        match &*self.method {
            "GET" => Ok(Method::GET),
            "HEAD" => Ok(Method::HEAD),
            "POST" => Ok(Method::POST),
            "PUT" => Ok(Method::PUT),
            "PATCH" => Ok(Method::PATCH),
            "DELETE" => Ok(Method::DELETE),
            "OPTIONS" => Ok(Method::OPTIONS),
            _ => Err(Refusal::Params(
                "`method` is GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS".into(),
            )),
        }
    }

    /// The headers that are the guest's to choose.
    pub(crate) fn checked_headers(&self) -> Result<HeaderMap, Refusal> {
        let no = |why: &str| Refusal::Params(format!("`headers` {why}"));
        let size: usize = self.headers.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        if MAX_HEADERS < self.headers.0.len() || MAX_HEADER_BYTES < size {
            return Err(no("has at most 64 fields with 32 KiB in all"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers.0 {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| no("has a name that is none"))?;
            if LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let value = HeaderValue::from_str(value);
            headers.append(name, value.map_err(|_| no("has a value that is none"))?);
        }
        Ok(headers)
    }

    /// The body, or its beginning.
    pub(crate) fn body(&self) -> Result<Bytes, Refusal> {
        self.body.bytes()
    }

    /// How many redirects to follow.
    pub(crate) fn redirects(&self) -> u8 {
        self.max_redirects.unwrap_or(MAX_REDIRECTS).min(MAX_REDIRECTS)
    }
}

impl WriteParams<'_> {
    /// The next piece of the body.
    pub(crate) fn body(&self) -> Result<Bytes, Refusal> {
        self.body.bytes()
    }
}

impl BodyParams<'_> {
    fn bytes(&self) -> Result<Bytes, Refusal> {
        bytes("body", self.body.as_deref(), self.body_base64.as_deref()).map(Bytes::from)
    }
}

/// The bytes of a member that is text, or Base64 in another.
pub(crate) fn bytes(
    name: &str,
    text: Option<&str>,
    base64: Option<&str>,
) -> Result<Vec<u8>, Refusal> {
    match (text, base64) {
        (None, None) => Ok(Vec::new()),
        (Some(text), None) => Ok(text.into()),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|_| Refusal::Params(format!("`{name}_base64` is not Base64 with padding"))),
        (Some(_), Some(_)) => {
            Err(Refusal::Params(format!("has `{name}` and `{name}_base64`, of which one is meant")))
        }
    }
}

/// Base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Leaves out what was meant for one host only: all but what says which form of an answer is wanted.
pub(crate) fn for_another_host(headers: &mut HeaderMap) {
    let keep = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::CONTENT_LANGUAGE,
        header::CONTENT_TYPE,
        header::RANGE,
        header::USER_AGENT,
    ];
    let names: Vec<_> = headers.keys().filter(|name| !keep.contains(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts, or a list of pairs of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }

            fn visit_unit<E>(self) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> HttpParams<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn headers_are_an_object_or_a_list_of_pairs() {
        for headers in [r#"{"A": "1", "b": "2"}"#, r#"[["A", "1"], ["b", "2"]]"#] {
            let text = format!(r#"{{"url": "u", "headers": {headers}}}"#);
            let headers = http(&text).checked_headers().unwrap();
            assert_eq!((headers.len(), headers["a"].as_bytes()), (2, &b"1"[..]));
        }
    }

    #[test]
    fn headers_that_are_not_the_guests_to_choose_are_left_out() {
        for name in LEFT_OUT {
            let text = format!(r#"{{"url": "u", "headers": {{"{}": "x"}}}}"#, name.to_uppercase());
            assert!(http(&text).checked_headers().unwrap().is_empty(), "{name}");
        }
    }

    #[test]
    fn headers_that_are_none_or_too_many_are_refused() {
        for headers in
            [r#"{"a b": ""}"#, r#"{"a": "x\r\ny: z"}"#, r#"{"": ""}"#, r#"{"a": "\u0000"}"#]
        {
            let text = format!(r#"{{"url": "u", "headers": {headers}}}"#);
            assert!(http(&text).checked_headers().is_err(), "{headers}");
        }
        let text =
            format!(r#"{{"url": "u", "headers": [{}["a","b"]]}}"#, r#"["a","b"],"#.repeat(64));
        assert!(http(&text).checked_headers().is_err());
        let text =
            format!(r#"{{"url": "u", "headers": {{"a": "{}"}}}}"#, "x".repeat(MAX_HEADER_BYTES));
        assert!(http(&text).checked_headers().is_err());
    }

    #[test]
    fn methods_that_no_rule_can_allow_are_refused() {
        for method in ["CONNECT", "TRACE", "get", "", "GET /", "PROPFIND"] {
            let text = format!(r#"{{"url": "u", "method": "{method}"}}"#);
            assert!(http(&text).checked_method().is_err(), "{method}");
        }
        assert_eq!(http(r#"{"url": "u"}"#).checked_method().unwrap(), Method::GET);
    }

    #[test]
    fn a_body_is_text_or_base64() {
        assert_eq!(&http(r#"{"url": "u", "body": "hi\n"}"#).body().unwrap()[..], b"hi\n");
        assert_eq!(&http(r#"{"url": "u", "body_base64": "AP8="}"#).body().unwrap()[..], [0, 255]);
        assert!(http(r#"{"url": "u", "body_base64": "AP8"}"#).body().is_err());
        assert!(http(r#"{"url": "u", "body": "", "body_base64": ""}"#).body().is_err());
    }

    #[test]
    fn another_host_gets_no_credentials() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-api-key", "accept"] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        for_another_host(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    }
}
