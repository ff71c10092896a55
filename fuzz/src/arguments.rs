//! Arguments against a tool's schema: any schema and any arguments end in a yes or a no.
//!
//! The input is two JSON texts with a zero byte between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use osvm_protocol::tool::{Annotations, Tool};
use serde_json::value::RawValue;
use std::borrow::Cow;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Some((schema, arguments)) = text.split_once('\0') else { return };
    let schema = serde_json::from_str::<&RawValue>(schema);
    let arguments = serde_json::from_str::<&RawValue>(arguments);
    let (Ok(schema), Ok(arguments)) = (schema, arguments) else { return };
    let tool = Tool {
        server: "system".into(),
        name: "echo".into(),
        description: "".into(),
        input_schema: Cow::Borrowed(schema),
        output_schema: Cow::Borrowed(schema),
        annotations: Annotations::default(),
        needs_network: false,
    };
    let _ = osvm_image::arguments::check(&tool, arguments);
});
