//! Receipts as events of the Open Cybersecurity Schema Framework, for those who collect such.
//!
//! A call is an event of class API Activity (6003), version 1.5.0 of the schema, with the profile
//! `security_control` for what was decided. What the class has no place for is in `unmapped`.

use crate::line::Hash;
use crate::read::Receipt;
use osvm_runtime::Reach;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::UNIX_EPOCH;

/// Version of the schema.
pub const VERSION: &str = "1.5.0";

const CATEGORY: u32 = 6;
const CLASS: u32 = 6003;

/// `Other`: the verbs of the class are those of a database, and nobody knows what a tool does.
const ACTIVITY: u32 = 99;

/// One call as an event. `hash` is that of its line, by which the receipt can be found again.
pub fn event(receipt: &Receipt, hash: &Hash) -> Value {
    let succeeded = receipt.exit == "result";
    let denied = receipt.decision == "deny";
    let (severity_id, severity) = if denied { (3, "Medium") } else { (1, "Informational") };
    let (action_id, action, disposition_id, disposition) = match receipt.decision.as_str() {
        "allow" => (1, "Allowed", 1, "Allowed"),
        "deny" => (2, "Denied", 2, "Blocked"),
        _ => (0, "Unknown", 0, "Unknown"),
    };
    let operation = format!("{}/{}", receipt.server, receipt.tool);
    let mut event = json!({
        "category_uid": CATEGORY,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "activity_id": ACTIVITY,
        "activity_name": "Call",
        "type_uid": CLASS * 100 + ACTIVITY,
        "type_name": "API Activity: Other",
        "time": millis(&receipt.time),
        "severity_id": severity_id,
        "severity": severity,
        "status_id": if succeeded { 1 } else { 2 },
        "status": if succeeded { "Success" } else { "Failure" },
        "status_code": receipt.exit,
        "action_id": action_id,
        "action": action,
        "disposition_id": disposition_id,
        "disposition": disposition,
        "actor": { "app_name": receipt.client },
        "src_endpoint": { "svc_name": receipt.client },
        "api": {
            "operation": operation,
            "service": { "name": receipt.server },
            "request": { "uid": receipt.call },
            "response": { "code": i32::from(!succeeded), "message": receipt.exit },
        },
        "resources": [{ "name": operation, "type": "MCP tool" }],
        "metadata": {
            "version": VERSION,
            "uid": receipt.call,
            "sequence": receipt.seq,
            "log_name": "osvm receipts",
            "profiles": ["security_control"],
            "product": { "name": "osvm", "vendor_name": "osvm" },
        },
        "unmapped": unmapped(receipt, hash),
    });
    let optional = [
        ("status_detail", receipt.reason.as_ref().map(|reason| json!(reason))),
        ("policy", receipt.rule.as_ref().map(|rule| json!({ "name": rule }))),
        ("duration", receipt.isolation.total_ms.map(whole_millis)),
        ("observables", observables(&receipt.reaches)),
    ];
    if let Some(members) = event.as_object_mut() {
        let there = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        members.extend(there.map(|(name, value)| (name.to_owned(), value)));
    }
    event
}

/// What the class has no place for.
fn unmapped(receipt: &Receipt, hash: &Hash) -> Value {
    json!({
        "receipt_sha256": hash.to_string(),
        "arguments_sha256": receipt.arguments,
        "result_sha256": receipt.result,
        "origin": receipt.origin,
        "mode": receipt.isolation.mode,
        "backend": receipt.isolation.backend,
        "cid": receipt.isolation.cid,
        "image_digest": receipt.isolation.image_digest,
        "boot_ms": receipt.isolation.boot_ms,
        "call_ms": receipt.isolation.call_ms,
        "isolation_failure": receipt.isolation_failure,
        "fallback": receipt.isolation.fallback,
        "reaches": receipt.reaches,
        "reaches_left_out": receipt.reaches_left_out,
    })
}

/// `timestamp_t`: ms since 1970.
fn millis(time: &str) -> Value {
    let time = humantime::parse_rfc3339(time).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    json!(since.and_then(|since| u64::try_from(since.as_millis()).ok()))
}

/// `duration` is a whole number of ms.
fn whole_millis(millis: f64) -> Value {
    let micros = std::time::Duration::try_from_secs_f64(millis / 1000.0).unwrap_or_default();
    json!(u64::try_from(micros.as_millis()).unwrap_or(u64::MAX))
}

/// The hosts and files that were reached, each once.
fn observables(reaches: &[Reach]) -> Option<Value> {
    const HOSTNAME: u32 = 1;
    const ADDRESS: u32 = 2;
    const FILE: u32 = 45;
    let mut seen: Vec<(&str, u32, &str)> = reaches
        .iter()
        .filter_map(|reach| match reach {
            Reach::Http { host, .. } => {
                let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
                let kind = if is_address { ADDRESS } else { HOSTNAME };
                Some(("unmapped.reaches.http.host", kind, host.as_str()))
            }
            Reach::File { path, .. } => Some(("unmapped.reaches.file.path", FILE, path.as_str())),
            Reach::Other { .. } => None,
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let observable = |(name, type_id, value)| {
        let kind = match type_id {
            HOSTNAME => "Hostname",
            ADDRESS => "IP Address",
            _ => "File Path",
        };
        json!({ "name": name, "type_id": type_id, "type": kind, "value": value })
    };
    (!seen.is_empty()).then(|| seen.into_iter().map(observable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: &str = r#"{"seq":7,"time":"2026-01-02T03:04:05.678Z","call":"C","client":"cli",
        "server":"solana","tool":"get_balance","arguments":"sha256:aa","result":null,
        "decision":"deny","rule":"no-mainnet","origin":"line 3","exit":"denied","reason":"no",
        "isolation":{"mode":"unikernel","total_ms":1.9},
        "isolation_failure":null,"reaches":[
            {"http":{"method":"POST","host":"h","port":443,"path":"/","status":200,
                     "sent_bytes":1,"received_bytes":2,"refused":null}},
            {"http":{"method":"POST","host":"h","port":443,"path":"/","status":null,
                     "sent_bytes":1,"received_bytes":2,"refused":"x"}}],"reaches_left_out":0}"#;

    #[test]
    fn a_denied_call_is_a_blocked_api_activity() {
        let receipt: Receipt = serde_json::from_str(RECEIPT).unwrap();
        let event = event(&receipt, &Hash::NONE);
        for (pointer, expected) in [
            ("/class_uid", json!(6003)),
            ("/category_uid", json!(6)),
            ("/type_uid", json!(600_399)),
            ("/time", json!(1_767_323_045_678_u64)),
            ("/status_id", json!(2)),
            ("/action_id", json!(2)),
            ("/disposition_id", json!(2)),
            ("/policy/name", json!("no-mainnet")),
            ("/duration", json!(1)),
            ("/api/operation", json!("solana/get_balance")),
            ("/actor/app_name", json!("cli")),
            ("/metadata/sequence", json!(7)),
        ] {
            assert_eq!(event.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert_eq!(event["observables"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn every_event_has_what_its_class_requires_and_only_words_of_the_schema() {
        for (decision, exit) in [("allow", "result"), ("deny", "denied"), ("none", "arguments")] {
            let mut receipt: Receipt = serde_json::from_str(RECEIPT).unwrap();
            (receipt.decision, receipt.exit) = (decision.into(), exit.into());
            let event = event(&receipt, &Hash::NONE);
            // Required by API Activity and what it extends; `metadata` and `api` by their objects.
            for pointer in [
                "/activity_id",
                "/actor",
                "/api/operation",
                "/category_uid",
                "/class_uid",
                "/metadata/product",
                "/metadata/version",
                "/severity_id",
                "/src_endpoint",
                "/time",
                "/type_uid",
            ] {
                assert!(event.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer}");
            }
            // The class, what every event has, and what the profile adds.
            let known = [
                "action",
                "action_id",
                "activity_id",
                "activity_name",
                "actor",
                "api",
                "category_name",
                "category_uid",
                "class_name",
                "class_uid",
                "disposition",
                "disposition_id",
                "duration",
                "metadata",
                "observables",
                "policy",
                "resources",
                "severity",
                "severity_id",
                "src_endpoint",
                "status",
                "status_code",
                "status_detail",
                "status_id",
                "time",
                "type_name",
                "type_uid",
                "unmapped",
            ];
            for name in event.as_object().unwrap().keys() {
                assert!(known.contains(&name.as_str()), "`{name}` is no attribute of the class");
            }
        }
    }

    #[test]
    fn an_address_is_no_host_name() {
        let receipt = RECEIPT.replace(r#""host":"h""#, r#""host":"127.0.0.1""#);
        let event = event(&serde_json::from_str(&receipt).unwrap(), &Hash::NONE);
        let observable = &event["observables"][0];
        assert_eq!(
            (&observable["type_id"], &observable["type"]),
            (&json!(2), &json!("IP Address"))
        );
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        let mut receipt: Receipt = serde_json::from_str(RECEIPT).unwrap();
        (receipt.exit, receipt.decision) = ("result".into(), "allow".into());
        (receipt.reason, receipt.rule, receipt.reaches) = (None, None, Vec::new());
        let event = event(&receipt, &Hash::NONE);
        assert_eq!((&event["status_id"], &event["action_id"]), (&json!(1), &json!(1)));
        for absent in ["status_detail", "policy", "observables"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
    }
}
