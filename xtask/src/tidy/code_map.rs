//! The code map in `ARCHITECTURE.md` names every folder with a package, and no folder that is gone.
//!
//! An entry of the map is a list item that begins with a path in backticks and ends in a slash.

/// One line for each folder that the map leaves out or makes up.
pub(super) fn violations(architecture: &str, folders: &[&str]) -> Vec<String> {
    let mapped: Vec<&str> = architecture.lines().filter_map(entry).collect();
    let left_out = folders.iter().filter(|folder| !mapped.contains(folder));
    let left_out = left_out.map(|folder| format!("`{folder}/` is not in the code map"));
    let gone = mapped.iter().filter(|path| looks_like_a_package(path) && !folders.contains(path));
    let gone = gone.map(|path| format!("the code map names `{path}/`, where no package is"));
    left_out.chain(gone).collect()
}

fn entry(line: &str) -> Option<&str> {
    line.strip_prefix("- `")?.split_once("/`").map(|(path, _)| path)
}

/// Folders without a package of their own (`docs`, `scripts`, …) may be in the map as well.
fn looks_like_a_package(path: &str) -> bool {
    path.starts_with("crates/") || path.starts_with("guest/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_left_out_and_a_folder_made_up_are_both_named() {
        let map = "- `crates/a/` does things.\n- `crates/gone/` did.\n- `docs/` are read.\n";
        let complaints = violations(map, &["crates/a", "xtask"]);
        let expected = [
            "`xtask/` is not in the code map",
            "the code map names `crates/gone/`, where no package is",
        ];
        assert_eq!(complaints, expected);
    }
}
