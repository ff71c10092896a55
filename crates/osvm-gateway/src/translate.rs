//! Results of servers, in the spelling of the client's era.
//!
//! Only what an era has no place for, or can't be without, is changed: all else is passed on as
//! the server wrote it.

use crate::message::is_object;
use crate::raw::Object;
use crate::words::Era;
use rmcp::model::ErrorCode;
use serde_json::value::RawValue;

/// Members of results that came with 2026-07-28.
const OF_STATELESS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// Where a server names itself in each result since then.
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// A result of `method`; `None` when it is no object, which no result of MCP is.
pub(crate) fn result<'a>(raw: &'a RawValue, method: &str, era: Era) -> Option<Object<'a>> {
    let mut result = Object::read(raw)?;
    match era {
        Era::Handshake => {
            for member in OF_STATELESS {
                result.remove(member);
            }
            result.remove_within("_meta", SERVER_INFO);
            // Before 2026-07-28, only objects could be structured content.
            if result.get("structuredContent").is_some_and(|content| !is_object(content)) {
                result.remove("structuredContent");
            }
        }
        Era::Stateless => {
            let fresh = |result: &mut Object<'_>, member: &'static str, value: &'static str| {
                if result.get(member).is_none() {
                    result.set(member, literal(value));
                }
            };
            fresh(&mut result, "resultType", r#""complete""#);
            let complete = |result: &Object<'_>| {
                result.get("resultType").is_some_and(|kind| kind.get() == r#""complete""#)
            };
            if method == "resources/read" && complete(&result) {
                fresh(&mut result, "ttlMs", "0");
                fresh(&mut result, "cacheScope", r#""private""#);
            }
        }
    }
    Some(result)
}

/// A server's error object for a client of that era. Of a resource that is not there each era has
/// its own code.
pub(crate) fn error<'a>(raw: &'a RawValue, method: &str, era: Era) -> Option<Object<'a>> {
    let mut error = Object::read(raw)?;
    let not_found = error.get("code").is_some_and(|code| code.get() == "-32002");
    if method == "resources/read" && era == Era::Stateless && not_found {
        error.set("code", literal("-32602"));
    }
    Some(error)
}

/// The code of a server's error, where a stateless client is told of it by the status of HTTP
/// too: what is wrong is the request itself.
pub(crate) fn about_the_request(error: &RawValue) -> Option<ErrorCode> {
    let code = Object::read(error)?.get("code")?.get().parse().ok().map(ErrorCode)?;
    [
        ErrorCode::HEADER_MISMATCH,
        ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY,
        ErrorCode::UNSUPPORTED_PROTOCOL_VERSION,
    ]
    .contains(&code)
    .then_some(code)
}

/// Text of ours that is JSON.
fn literal(text: &'static str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    #[track_caller]
    fn check(method: &str, era: Era, from: &str, to: &str) {
        assert_eq!(result(&raw(from), method, era).unwrap().to_raw().get(), to);
    }

    #[test]
    fn a_client_of_before_sees_nothing_of_2026() {
        let from = r#"{"resultType":"complete","x":1.0,"ttlMs":1,"cacheScope":"public"}"#;
        check("resources/read", Era::Handshake, from, r#"{"x":1.0}"#);
        check("tools/call", Era::Handshake, r#"{"structuredContent":[1]}"#, "{}");
        let named = r#"{"x":1,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#;
        check("tools/call", Era::Handshake, named, r#"{"x":1}"#);
        let more = r#"{"_meta":{"a":1.0,"io.modelcontextprotocol/serverInfo":{}},"x":1}"#;
        check("tools/call", Era::Handshake, more, r#"{"_meta":{"a":1.0},"x":1}"#);
        let other = r#"{"_meta":{},"x":1}"#;
        check("tools/call", Era::Handshake, other, other);
        let object = r#"{"structuredContent":{"a":1e0}}"#;
        check("tools/call", Era::Handshake, object, object);
    }

    #[test]
    fn a_stateless_client_sees_what_it_can_not_do_without() {
        check("prompts/get", Era::Stateless, "{}", r#"{"resultType":"complete"}"#);
        let read = r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#;
        check("resources/read", Era::Stateless, "{}", read);
        let needs = r#"{"resultType":"input_required","requestState":"s"}"#;
        check("resources/read", Era::Stateless, needs, needs);
        let list = r#"{"structuredContent":[1],"resultType":"complete"}"#;
        check("tools/call", Era::Stateless, r#"{"structuredContent":[1]}"#, list);
    }

    #[test]
    fn a_resource_that_is_not_there_has_the_code_of_the_era() {
        let from = raw(r#"{"code":-32002,"message":"m","data":{"uri":"u"}}"#);
        let to = |era| error(&from, "resources/read", era).unwrap().to_raw();
        assert_eq!(to(Era::Handshake).get(), from.get());
        assert_eq!(to(Era::Stateless).get(), r#"{"code":-32602,"message":"m","data":{"uri":"u"}}"#);
    }

    #[test]
    fn only_errors_about_the_request_itself_change_the_status() {
        for (code, is) in [("-32021", true), ("-32602", false), ("-32601", false), ("7", false)] {
            let error = raw(&format!(r#"{{"code":{code},"message":""}}"#));
            assert_eq!(about_the_request(&error).is_some(), is, "{code}");
        }
        assert!(about_the_request(&raw("[]")).is_none());
    }
}
