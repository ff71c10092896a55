//! Names under which clients see tools.
//!
//! Clients and model providers are stricter than MCP: letters, digits, `_` and `-`, and some cut
//! what is long. So `SERVER__TOOL` it is, in at most [`MAX_NAME`] characters; where that would
//! lose or mix up something, the name ends in a hash of the two.

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Longest name, in characters: some clients cut at 60 and put their own prefix in front.
pub(crate) const MAX_NAME: usize = 50;

/// Between server and tool.
const SEPARATOR: &str = "__";

/// Hexadecimal digits of the hash.
const HASH_DIGITS: usize = 8;

/// `SERVER__TOOL`; the same pair always has the same name.
pub(crate) fn prefixed(server: &str, tool: &str) -> String {
    let name = format!("{server}{SEPARATOR}{tool}");
    // Without these conditions two pairs could have the same name.
    let unambiguous =
        !server.contains(SEPARATOR) && !server.ends_with('_') && !tool.starts_with('_');
    if unambiguous && is_plain(&name) { name } else { hashed(&name, server, tool) }
}

/// The tool's own name, where clients can take it.
pub(crate) fn plain(server: &str, tool: &str) -> String {
    if is_plain(tool) { tool.to_owned() } else { hashed(tool, server, tool) }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|byte| allowed(byte.into()))
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn hashed(name: &str, server: &str, tool: &str) -> String {
    let kept = name.chars().map(|c| if allowed(c) { c } else { '_' });
    let mut hashed: String = kept.take(MAX_NAME - HASH_DIGITS - 1).collect();
    hashed.push('_');
    // No name contains a zero byte in JSON that was written by hand; one that does is hashed too.
    let digest = Sha256::new().chain_update(server).chain_update([0]).chain_update(tool).finalize();
    for byte in digest.iter().take(HASH_DIGITS / 2) {
        let _ = write!(hashed, "{byte:02x}");
    }
    hashed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ordinary_names_are_joined() {
        assert_eq!(prefixed("solana", "get_balance"), "solana__get_balance");
        assert_eq!(plain("solana", "get_balance"), "get_balance");
    }

    #[test]
    fn fifty_characters_are_kept_and_one_more_is_cut_and_hashed() {
        let tool = "t".repeat(MAX_NAME - 3);
        assert_eq!(prefixed("s", &tool), format!("s__{tool}"));
        let long = prefixed("s", &format!("{tool}t"));
        assert_eq!(long.len(), MAX_NAME);
        assert!(long.starts_with("s__ttt"), "{long}");
        // Users write names into the settings of their clients, so the hash must never change.
        assert_eq!(&long[MAX_NAME - 9..], "_8ca92abb");
    }

    #[test]
    fn characters_that_clients_refuse_are_replaced_and_the_name_hashed() {
        for tool in ["a.b", "a b", "ä", "", "a/b", "\0"] {
            for name in [prefixed("s", tool), plain("s", tool)] {
                assert!(name.chars().all(allowed) && name.len() <= MAX_NAME, "{name}");
                assert!(!name.is_empty());
            }
        }
        assert_ne!(prefixed("s", "a.b"), prefixed("s", "a/b"));
    }

    #[test]
    fn no_two_pairs_share_a_name() {
        let parts = ["a", "a_", "_a", "a__a", "a__", "__a", "_", "__", "a_a"];
        let names: HashSet<String> =
            parts.iter().flat_map(|s| parts.iter().map(|t| prefixed(s, t))).collect();
        assert_eq!(names.len(), parts.len() * parts.len());
    }
}
