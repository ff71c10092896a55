//! Files of the directories that the isolation config mounts, read and written through the host.
//!
//! What may be touched, the host decides; its refusals are passed on in its words.

use super::SERVER;
use crate::answer::Part;
use crate::json::Object;
use crate::tool::{Field, PURE, Tool, invalid};
use alloc::borrow::Cow;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Annotations;

/// Most bytes the host reads or writes at once.
const PIECE: usize = 1024 * 1024;

/// Writes files of the host, whose old contents are gone then.
const OVERWRITES: Annotations =
    Annotations { read_only_hint: false, destructive_hint: true, open_world_hint: false };

pub(in crate::tools) const READ_FILE: Tool = Tool {
    server: SERVER,
    name: "read_file",
    description: "Reads a file of a directory that the isolation config mounts for this tool: at \
        most 1 MiB at once, go on at `offset` until `eof`.",
    input: r#"{"type":"object","properties":{
        "path":{"type":"string","description":"absolute, as mounted"},
        "offset":{"type":"integer","minimum":0,"description":"in bytes; 0 when not given"},
        "length":{"type":"integer","minimum":0,"maximum":1048576,"description":"in bytes"}},
        "required":["path"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "text":{"type":["string","null"],"description":"null when these bytes are not UTF-8"},
        "data_base64":{"type":["string","null"],"description":"the bytes, when there is no text"},
        "size_bytes":{"type":"integer","minimum":0,"description":"of the whole file"},
        "eof":{"type":"boolean","description":"whether the file ends here"}},
        "required":["text","data_base64","size_bytes","eof"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |context, arguments, reply| {
        let [path, offset, length] = arguments.fields(["path", "offset", "length"])?;
        let (path, offset) = (path.text()?, offset.optional_number(0..=u64::MAX)?);
        let length = length.optional_number(0..=PIECE as u64)?;
        let answer = context.host.call("host/file", &|o| {
            request(o, "read", &path, offset);
            if let Some(length) = length {
                o.number("length", length);
            }
        })?;
        let answer = Part::new("host/file", &answer);
        let [text, data, size, eof] = answer.parts(["data", "data_base64", "size", "eof"])?;
        reply.object(|o| {
            o.optional_text("text", text.optional_text()?.as_deref());
            o.optional_text("data_base64", data.optional_text()?.as_deref());
            o.number("size_bytes", size.number()?);
            o.flag("eof", eof.flag()?);
            Ok(())
        })
    },
};

pub(in crate::tools) const LIST_DIRECTORY: Tool = Tool {
    server: SERVER,
    name: "list_directory",
    description: "Lists a directory that the isolation config mounts for this tool, or one in it: \
        at most 1000 entries at once, go on at `offset` while there are more.",
    input: r#"{"type":"object","properties":{
        "path":{"type":"string","description":"absolute, as mounted"},
        "offset":{"type":"integer","minimum":0,"description":"entries to skip; 0 when not given"}},
        "required":["path"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "entries":{"type":"array","items":{"type":"object","properties":{
            "name":{"type":"string"},
            "type":{"type":"string","description":"file, directory, symlink or other"},
            "size_bytes":{"type":"integer","minimum":0}},
            "required":["name","type","size_bytes"],"additionalProperties":false}},
        "more":{"type":"boolean"}},
        "required":["entries","more"],"additionalProperties":false}"#,
    annotations: PURE,
    needs_network: false,
    run: |context, arguments, reply| {
        let [path, offset] = arguments.fields(["path", "offset"])?;
        let (path, offset) = (path.text()?, offset.optional_number(0..=u64::MAX)?);
        let answer = context.host.call("host/file", &|o| request(o, "list", &path, offset))?;
        let answer = Part::new("host/file", &answer);
        let [entries, more] = answer.parts(["entries", "more"])?;
        reply.object(|o| {
            o.array("entries", |list| {
                entries.each(&mut |entry| {
                    let [name, kind, size] = entry.parts(["name", "type", "size"])?;
                    list.object(|o| {
                        o.text("name", &name.text()?);
                        o.text("type", &kind.text()?);
                        o.number("size_bytes", size.number()?);
                        Ok(())
                    })
                })
            })?;
            o.flag("more", more.flag()?);
            Ok(())
        })
    },
};

pub(in crate::tools) const WRITE_FILE: Tool = Tool {
    server: SERVER,
    name: "write_file",
    description: "Writes a file of a directory that the isolation config mounts for this tool with \
        `readonly: false`. Without `offset` the file holds the contents and nothing else afterwards.",
    input: r#"{"type":"object","properties":{
        "path":{"type":"string","description":"absolute, as mounted"},
        "content":{"type":"string"},
        "content_base64":{"type":"string","description":"instead of content, for what is no text"},
        "offset":{"type":"integer","minimum":0,"description":"in bytes: where to overwrite or, at the end, to append"}},
        "required":["path"],"additionalProperties":false}"#,
    output: r#"{"type":"object","properties":{
        "written_bytes":{"type":"integer","minimum":0},
        "size_bytes":{"type":"integer","minimum":0,"description":"of the whole file"}},
        "required":["written_bytes","size_bytes"],"additionalProperties":false}"#,
    annotations: OVERWRITES,
    needs_network: false,
    run: |context, arguments, reply| {
        let [path, content, base64, offset] =
            arguments.fields(["path", "content", "content_base64", "offset"])?;
        let (path, offset) = (path.text()?, offset.optional_number(0..=u64::MAX)?);
        let contents = Contents::read(content, base64)?;
        let (member, mut rest) = (contents.member, &*contents.text);
        let (mut next, mut written) = (offset, 0_u64);
        // Even nothing is written once: it makes the file empty.
        let size = loop {
            let (piece, more) = contents.cut(rest);
            let answer = context.host.call("host/file", &|o| {
                request(o, "write", &path, next);
                o.text(member, piece);
            })?;
            let answer = Part::new("host/file", &answer);
            let [done, now] = answer.parts(["written", "size"])?;
            written = written.saturating_add(done.number()?);
            if more.is_empty() {
                break now.number()?;
            }
            next = Some(offset.unwrap_or_default().saturating_add(written));
            rest = more;
        };
        reply.object(|o| {
            o.number("written_bytes", written);
            o.number("size_bytes", size);
        });
        Ok(())
    },
};

/// Writes what all requests begin with.
fn request(o: &mut Object<'_>, op: &str, path: &str, offset: Option<u64>) {
    o.text("op", op);
    o.text("path", path);
    if let Some(offset) = offset {
        o.number("offset", offset);
    }
}

/// What is to be written, as text or as base64.
struct Contents<'a> {
    /// The host's name for it.
    member: &'static str,
    text: Cow<'a, str>,
}

impl<'a> Contents<'a> {
    fn read(content: Field<'a>, base64: Field<'a>) -> Result<Self, RpcError> {
        match (content.is_nothing(), base64.is_nothing()) {
            (false, true) => Ok(Self { member: "data", text: content.text()? }),
            (true, false) => Ok(Self { member: "data_base64", text: base64.text()? }),
            _ => Err(invalid("content", &"one of `content` and `content_base64` is to be given")),
        }
    }

    /// As much as the host takes at once, and the rest. Four digits of base64 stay together, so
    /// that each piece is base64 by itself; they stand for three bytes, so a piece is never too
    /// long.
    fn cut<'t>(&self, text: &'t str) -> (&'t str, &'t str) {
        text.split_at_checked(text.floor_char_boundary(PIECE)).unwrap_or((text, ""))
    }
}
