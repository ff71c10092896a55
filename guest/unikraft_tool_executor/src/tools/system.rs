//! Server `system`: the smallest way to check that a call really runs inside a guest.

pub(super) mod files;

use crate::tool::{PURE, Tool};
use alloc::borrow::Cow;
use osvm_protocol::PROTOCOL_VERSION;
use serde::Deserialize;

const SERVER: &str = "system";

pub(super) const ECHO: Tool = Tool {
    server: SERVER,
    name: "echo",
    description: "Returns the text it was given.",
    input: r#"{"type":"object","properties":{"text":{"type":"string","description":"what to return"}},"required":["text"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{"text":{"type":"string"}},"required":["text"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |_, arguments, reply| {
        // What every call costs is measured by this tool.
        let text = match arguments.fast() {
            Some(Echo { text }) => text,
            None => {
                let [text] = arguments.fields(["text"])?;
                text.text()?
            }
        };
        reply.object(|o| o.text("text", &text));
        Ok(())
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Echo<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

pub(super) const GUEST_INFO: Tool = Tool {
    server: SERVER,
    name: "guest_info",
    description: "Says what the guest itself sees: its memory, devices, command line, image, \
                  and the names (never the values) of its environment variables.",
    input: r#"{"type":"object","properties":{},"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "platform":{"type":"string","description":"what runs the tools: osvm-kernel or linux"},
        "protocol":{"type":"integer","description":"version of the wire protocol"},
        "name":{"type":"string","description":"name of the image"},
        "build":{"type":"string","description":"build id of the image"},
        "memory_bytes":{"type":"integer","minimum":0},
        "devices":{"type":"array","items":{"type":"object","properties":{
            "address":{"type":["string","null"],"description":"guest-physical, hexadecimal; null when the platform does not say"},
            "kind":{"type":"integer","description":"virtio device id; 19 is a socket device"}},
            "required":["address","kind"],"additionalProperties":false}},
        "command_line":{"type":"string"},
        "env":{"type":"array","items":{"type":"string"},"description":"names only"}},
        "required":["platform","protocol","name","build","memory_bytes","devices","command_line","env"],
        "additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |context, arguments, reply| {
        let [] = arguments.fields([])?;
        let facts = context.facts;
        reply.object(|o| {
            o.text("platform", facts.platform);
            o.number("protocol", PROTOCOL_VERSION.into());
            o.text("name", facts.name);
            o.text("build", facts.build);
            o.number("memory_bytes", facts.memory_bytes);
            o.array("devices", |devices| {
                for device in facts.devices {
                    devices.object(|o| {
                        match device.address {
                            0 => o.null("address"),
                            address => o.text("address", &alloc::format!("{address:#x}")),
                        }
                        o.number("kind", device.kind.into());
                    });
                }
            });
            o.text("command_line", facts.command_line);
            o.array("env", |names| facts.env.iter().for_each(|(name, _)| names.text(name)));
        });
        Ok(())
    },
};
