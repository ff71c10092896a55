//! Nothing in the tree tells on which machine it was made.

use super::Source;
use std::path::Path;

/// The only registry a lock file may name.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// One line for each file that names a folder of this machine or a registry of its own.
pub(super) fn violations(files: &[Source], root: &Path) -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut folders = vec![root.to_string_lossy().into_owned()];
    for folder in ["CARGO_HOME", "RUSTUP_HOME"] {
        folders.extend(std::env::var(folder).ok());
    }
    folders.extend([".cargo", ".rustup"].map(|name| format!("{home}/{name}")));
    // A checkout in `/` would be found everywhere.
    folders.retain(|folder| 2 <= folder.matches('/').count());
    let mut lines = Vec::new();
    for file in files {
        for folder in folders.iter().filter(|folder| file.text.contains(*folder)) {
            lines.push(format!("`{}` names `{folder}`, which is only here", file.path));
        }
        lines.extend(registries(file));
    }
    lines
}

fn registries(file: &Source) -> Vec<String> {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let wrong: fn(&str) -> bool = match name {
        "Cargo.lock" => |line| line.starts_with("source = ") && !line.contains(REGISTRY),
        "Cargo.toml" => |line| line.contains("registry = ") || line.contains("registry-index"),
        "config.toml" | "config" => {
            |line| line.starts_with("[source") || line.starts_with("[registr")
        }
        _ => return Vec::new(),
    };
    let lines = file.text.lines().filter(|line| wrong(line));
    lines.map(|line| format!("`{}` names a registry: {line}", file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_not_named() {
        let file = source("a.md", "see /some/where/osvm/src");
        assert_eq!(violations(&[file], Path::new("/some/where/osvm")).len(), 1);
    }

    #[test]
    fn lock_files_name_the_public_registry_only() {
        let public = source("Cargo.lock", &format!("source = \"{REGISTRY}\"\n"));
        let other = source("Cargo.lock", "source = \"registry+https://example.org/index\"\n");
        assert!(registries(&public).is_empty());
        assert_eq!(registries(&other).len(), 1);
    }

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }
}
