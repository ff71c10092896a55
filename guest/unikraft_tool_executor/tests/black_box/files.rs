//! Tools that ask the host for files, with a host that the test plays.

use crate::support::{Served, call_with, facts};
use osvm_protocol::code::INVALID_PARAMS;
use serde_json::{Value, json};

fn call(
    host: impl FnMut(&str, &Value) -> Served,
    tool: &str,
    arguments: Value,
) -> Result<Value, (i64, String)> {
    let outcome = call_with(&facts(), host, "system", tool, &arguments);
    outcome.map_err(|(code, message, _)| (code, message))
}

/// Calls a tool whose host answers one request, which must be the expected one.
#[track_caller]
fn file(tool: &str, arguments: Value, expected: Value, answer: Value) -> Value {
    let mut asked = 0;
    let host = |method: &str, params: &Value| {
        asked += 1;
        assert_eq!((method, params), ("host/file", &expected));
        Ok(answer.clone())
    };
    let result = call(host, tool, arguments).unwrap();
    assert_eq!(asked, 1);
    result
}

#[test]
fn a_file_is_read_as_text_or_as_bytes() {
    let text = file(
        "read_file",
        json!({"path": "/data/a"}),
        json!({"op": "read", "path": "/data/a"}),
        json!({"data": "hi\n", "size": 3, "eof": true}),
    );
    assert_eq!(text, json!({"text": "hi\n", "data_base64": null, "size_bytes": 3, "eof": true}));
    let bytes = file(
        "read_file",
        json!({"path": "/data/a", "offset": 5, "length": 1}),
        json!({"op": "read", "path": "/data/a", "offset": 5, "length": 1}),
        json!({"data_base64": "/w==", "size": 9, "eof": false}),
    );
    assert_eq!(bytes, json!({"text": null, "data_base64": "/w==", "size_bytes": 9, "eof": false}));
}

#[test]
fn a_directory_is_listed() {
    let listed = file(
        "list_directory",
        json!({"path": "/data", "offset": 2}),
        json!({"op": "list", "path": "/data", "offset": 2}),
        json!({"entries": [{"name": "a", "type": "file", "size": 3}], "more": true}),
    );
    let entry = json!({"name": "a", "type": "file", "size_bytes": 3});
    assert_eq!(listed, json!({"entries": [entry], "more": true}));
}

/// Keeps what it is told to write, as the broker does.
fn disk(file: &mut Vec<u8>) -> impl FnMut(&str, &Value) -> Served {
    move |method, params| {
        assert_eq!((method, &params["op"]), ("host/file", &json!("write")));
        let data = match params["data"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => {
                use base64::Engine;
                let text = params["data_base64"].as_str().unwrap();
                base64::engine::general_purpose::STANDARD.decode(text).unwrap()
            }
        };
        assert!(data.len() <= 1 << 20);
        match params["offset"].as_u64() {
            Some(offset) => file.truncate(usize::try_from(offset).unwrap()),
            None => file.clear(),
        }
        file.extend_from_slice(&data);
        Ok(json!({"written": data.len(), "size": file.len()}))
    }
}

#[test]
fn contents_of_any_length_are_written_whole() {
    for len in [0, 1, 1 << 20, (1 << 20) + 1, 3_000_001] {
        let text = "ä".repeat(len / 2) + &"x".repeat(len % 2);
        let mut kept = b"before".to_vec();
        let result = call(disk(&mut kept), "write_file", json!({"path": "/a", "content": text}));
        assert_eq!(result, Ok(json!({"written_bytes": len, "size_bytes": len})));
        assert_eq!(kept, text.as_bytes());

        use base64::Engine;
        let bytes = vec![0xff; len];
        let packed = base64::engine::general_purpose::STANDARD.encode(&bytes);
        let arguments = json!({"path": "/a", "content_base64": packed, "offset": 6});
        let mut kept = b"before".to_vec();
        let result = call(disk(&mut kept), "write_file", arguments);
        assert_eq!(result, Ok(json!({"written_bytes": len, "size_bytes": len + 6})));
        assert_eq!(kept, [b"before".as_slice(), &bytes].concat());
    }
}

#[test]
fn a_refusal_of_the_host_is_passed_on_in_its_words() {
    let refused = || Err((1002, "`/etc/passwd`: no mount covers it".to_owned()));
    for (tool, arguments) in [
        ("read_file", json!({"path": "/etc/passwd"})),
        ("list_directory", json!({"path": "/etc/passwd"})),
        ("write_file", json!({"path": "/etc/passwd", "content": ""})),
    ] {
        assert_eq!(call(|_, _| refused(), tool, arguments), refused());
    }
}

#[test]
fn contents_are_given_in_one_way() {
    let host = |_: &str, _: &Value| panic!("the host is asked");
    for arguments in
        [json!({"path": "/a"}), json!({"path": "/a", "content": "", "content_base64": ""})]
    {
        assert_eq!(call(host, "write_file", arguments).unwrap_err().0, INVALID_PARAMS);
    }
}
