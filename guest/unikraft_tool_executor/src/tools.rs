//! The list of all tools, and the two things made from it: the manifest and the dispatch table.

mod arguments;
mod osvm_mcp;
mod solana;
mod system;

use self::solana::network::{accounts, blocks, tokens, transactions};
use self::solana::{decode_token_account, decode_transaction, keys};
use self::system::files;
use crate::tool::{Run, Tool};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use osvm_protocol::code::METHOD_NOT_FOUND;
use osvm_protocol::message::RpcError;
use osvm_protocol::tool::Tool as Definition;
use serde_json::value::RawValue;

/// Every tool. The first are found fastest.
const ALL: [Tool; 31] = [
    system::ECHO,
    system::GUEST_INFO,
    files::READ_FILE,
    files::LIST_DIRECTORY,
    files::WRITE_FILE,
    decode_transaction::TOOL,
    decode_token_account::TOOL,
    keys::VERIFY_SIGNATURE,
    keys::VALIDATE_ADDRESS,
    keys::DERIVE_ADDRESS,
    osvm_mcp::VERIFY_WALLET_SIGNATURE,
    accounts::GET_BALANCE,
    transactions::GET_TRANSACTION,
    accounts::GET_ACCOUNT_INFO,
    accounts::GET_MULTIPLE_ACCOUNTS,
    accounts::GET_PROGRAM_ACCOUNTS,
    tokens::GET_TOKEN_ACCOUNTS,
    tokens::GET_TOKEN_SUPPLY,
    transactions::GET_SIGNATURES_FOR_ADDRESS,
    blocks::GET_SLOT,
    blocks::GET_BLOCK,
    blocks::GET_BLOCK_HEIGHT,
    blocks::GET_EPOCH_INFO,
    blocks::GET_LATEST_BLOCKHASH,
    accounts::GET_MINIMUM_BALANCE_FOR_RENT_EXEMPTION,
    transactions::SIMULATE_TRANSACTION,
    transactions::SEND_TRANSACTION,
    transactions::REQUEST_AIRDROP,
    osvm_mcp::SOLANA_RPC_CALL,
    osvm_mcp::GET_SOLANA_BALANCE,
    osvm_mcp::GET_TRANSACTION,
];

/// What is needed to run a tool. The definitions stay out of guest memory.
pub(crate) struct Entry {
    server: &'static str,
    name: &'static str,
    pub(crate) run: Run,
}

static ENTRIES: [Entry; ALL.len()] = entries();

const fn entries() -> [Entry; ALL.len()] {
    const NONE: Entry = Entry { server: "", name: "", run: system::ECHO.run };
    let mut entries = [NONE; ALL.len()];
    let mut at = 0;
    while at < ALL.len() {
        #[expect(clippy::indexing_slicing, reason = "both have this length, checked when built")]
        let (entry, tool) = (&mut entries[at], &ALL[at]);
        *entry = Entry { server: tool.server, name: tool.name, run: tool.run };
        at += 1;
    }
    entries
}

/// Finds the tool a request means. Without a server, the name must be unique.
pub(crate) fn find(server: Option<&str>, name: &str) -> Result<&'static Entry, RpcError> {
    let mut found = ENTRIES
        .iter()
        .filter(|entry| entry.name == name && server.is_none_or(|server| entry.server == server));
    match (found.next(), server) {
        (Some(entry), Some(_)) => Ok(entry),
        (Some(entry), None) if found.next().is_none() => Ok(entry),
        _ => Err(not_found(server, name)),
    }
}

/// Says which of the two is wrong, and what there is.
#[cold]
fn not_found(server: Option<&str>, name: &str) -> RpcError {
    let message = match server {
        Some(server) if ENTRIES.iter().any(|entry| entry.server == server) => {
            let tools = list(ENTRIES.iter().filter(|e| e.server == server).map(|e| e.name));
            format!("server `{server}` has no tool `{name}`: it has {tools}")
        }
        Some(server) => {
            let servers = list(ENTRIES.iter().map(|entry| entry.server));
            format!("no server `{server}` in this guest: it has {servers}")
        }
        None if ENTRIES.iter().any(|entry| entry.name == name) => {
            let servers = list(ENTRIES.iter().filter(|e| e.name == name).map(|e| e.server));
            format!(
                "tool `{name}` belongs to several servers, say which with `server_id`: {servers}"
            )
        }
        None => {
            let tools = list(ENTRIES.iter().map(|entry| entry.name));
            format!("no method or tool `{name}` in this guest: it has {tools}")
        }
    };
    RpcError::new(METHOD_NOT_FOUND, message)
}

/// The names once each, in backticks.
fn list(names: impl Iterator<Item = &'static str>) -> String {
    let mut once = Vec::new();
    for name in names.map(|name| format!("`{name}`")) {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once.join(", ")
}

/// The definitions of all tools: a JSON array of [`osvm_protocol::tool::Tool`].
///
/// Called on the host, when an image is built or its tools are listed.
pub fn manifest_json() -> String {
    // A schema that is no JSON cannot get past the tests of this module.
    let definitions: Vec<_> = ALL.iter().filter_map(definition).collect();
    serde_json::to_string(&definitions).unwrap_or_default()
}

fn definition(tool: &Tool) -> Option<Definition<'static>> {
    Some(Definition {
        server: tool.server.into(),
        name: tool.name.into(),
        description: tool.description.into(),
        input_schema: Cow::Owned(RawValue::from_string(compact(tool.input)).ok()?),
        output_schema: Cow::Owned(RawValue::from_string(compact(tool.output)).ok()?),
        annotations: tool.annotations,
        needs_network: tool.needs_network,
    })
}

/// Leaves out the space between the tokens of some JSON: it is for those who read the source.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|character| {
            let keep = in_string || !character.is_ascii_whitespace();
            if !escaped && *character == '"' {
                in_string = !in_string;
            }
            escaped = in_string && !escaped && *character == '\\';
            keep
        })
        .collect()
}

#[cfg(test)]
mod tests;
