//! Who may use whom, as data.

use std::fmt::Write as _;

/// Who may depend on whom. Missing means no.
///
/// `ARCHITECTURE.md` shows this table, and tidy compares the two.
const ALLOWED: &[(&str, &[&str])] = &[
    // What both sides of a wire agree on.
    ("osvm-protocol", &[]),
    // What a call is made of.
    ("osvm-image", &["osvm-protocol"]),
    ("osvm-build", &["osvm-image"]),
    ("osvm-policy", &["osvm-protocol"]),
    ("osvm-servers", &["osvm-policy"]),
    // What a hypervisor is, then the hypervisors. They never see each other.
    ("osvm-vmm", &["osvm-protocol"]),
    ("osvm-vsock", &["osvm-protocol"]),
    ("osvm-kvm", &["osvm-protocol", "osvm-vmm", "osvm-vsock"]),
    ("osvm-qemu", &["osvm-protocol", "osvm-vmm", "osvm-vsock"]),
    ("osvm-firecracker", &["osvm-protocol", "osvm-vmm"]),
    // What runs calls. It never sees a hypervisor.
    ("osvm-runtime", &["osvm-image", "osvm-policy", "osvm-protocol", "osvm-vmm"]),
    // What guests reach of the outside.
    ("osvm-secrets", &[]),
    ("osvm-broker", &["osvm-policy", "osvm-protocol", "osvm-runtime"]),
    // Linux microVMs as the far end of an MCP link.
    (
        "osvm-microvm",
        &[
            "osvm-image",
            "osvm-policy",
            "osvm-protocol",
            "osvm-runtime",
            "osvm-upstream",
            "osvm-vmm",
        ],
    ),
    // The ways to ask for calls.
    ("osvm-upstream", &["osvm-protocol"]),
    ("osvm-receipts", &["osvm-protocol", "osvm-runtime"]),
    ("osvm-rules", &["osvm-policy", "osvm-protocol", "osvm-runtime"]),
    ("osvm-daemon", &["osvm-protocol", "osvm-runtime"]),
    // A server for tests, and clients that compare what they were told.
    ("osvm-fixture", &["osvm-upstream"]),
    ("osvm-gateway", &["osvm-policy", "osvm-protocol", "osvm-runtime", "osvm-upstream"]),
    // Acts by asking for calls; runs in a guest of its own.
    ("osvm-agent", &[]),
    ("osvm-supervisor", &["osvm-agent"]),
    // Inside the guest. Nothing here sees a host crate.
    ("osvm-init", &["osvm-protocol"]),
    ("osvm-kernel-core", &["osvm-protocol"]),
    ("unikraft_tool_executor", &["osvm-protocol"]),
    ("osvm-kernel", &["osvm-kernel-core", "osvm-protocol", "unikraft_tool_executor"]),
    ("hostile", &["osvm-kernel", "osvm-kernel-core", "osvm-protocol", "unikraft_tool_executor"]),
    ("prober", &["osvm-kernel", "osvm-protocol", "unikraft_tool_executor"]),
    // Tools around the project.
    (
        "osvm-fuzz",
        &[
            "osvm-agent",
            "osvm-broker",
            "osvm-gateway",
            "osvm-image",
            "osvm-kvm",
            "osvm-microvm",
            "osvm-policy",
            "osvm-protocol",
            "osvm-receipts",
            "osvm-runtime",
            "osvm-servers",
            "osvm-upstream",
            "osvm-vsock",
        ],
    ),
    (
        "osvm-figures",
        &[
            "osvm-broker",
            "osvm-daemon",
            "osvm-image",
            "osvm-kvm",
            "osvm-microvm",
            "osvm-policy",
            "osvm-protocol",
            "osvm-qemu",
            "osvm-receipts",
            "osvm-runtime",
            "osvm-upstream",
            "osvm-vmm",
        ],
    ),
    ("osvm-test-host-init", &[]),
    ("xtask", &["osvm-image"]),
];

/// What tests may use besides.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("osvm-daemon", &["osvm-image", "osvm-policy", "osvm-vmm"]),
    // Whether KVM is hardware KVM, which Linux guests need.
    ("osvm-firecracker", &["osvm-kvm"]),
    // What guests reach is tested with what really reaches it.
    ("osvm-microvm", &["osvm-broker", "osvm-firecracker", "osvm-kvm", "osvm-qemu"]),
    ("osvm-upstream", &["osvm-kvm"]),
];

/// The one crate that may name any host crate, because it puts the parts together.
const ROOT: &str = "osvm";

/// Lines around the table in `ARCHITECTURE.md`.
const BEGIN: &str = "<!-- begin: who may use whom -->";
const END: &str = "<!-- end: who may use whom -->";

/// What a dependency is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Test,
}

impl Kind {
    /// Cargo's word for it; build scripts count as the crate itself.
    pub(super) fn from_cargo(kind: Option<&str>) -> Self {
        if kind == Some("dev") { Self::Test } else { Self::Normal }
    }
}

/// One crate of ours names another.
#[derive(Debug)]
pub(super) struct Edge<'a> {
    pub(super) from: &'a str,
    pub(super) kind: Kind,
    pub(super) to: String,
}

/// One line for each dependency the table does not allow.
pub(super) fn violations(edges: &[Edge<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    for Edge { from, kind, to } in edges {
        let in_table = |table: &[(&str, &[&str])]| {
            table.iter().any(|(name, deps)| name == from && deps.contains(&to.as_str()))
        };
        let itself = from == to;
        let allowed = *from == ROOT && is_host_crate(to)
            || in_table(ALLOWED)
            || *kind == Kind::Test && (itself || in_table(ALLOWED_IN_TESTS));
        if !allowed {
            lines.push(format!("`{from}` may not depend on `{to}`: see xtask/src/tidy/layers.rs"));
        }
    }
    lines
}

fn is_host_crate(name: &str) -> bool {
    let inside = [
        "osvm-init",
        "osvm-kernel",
        "osvm-kernel-core",
        "hostile",
        "prober",
        "unikraft_tool_executor",
    ];
    !inside.contains(&name) && name != "xtask"
}

/// One line if `ARCHITECTURE.md` shows another table.
pub(super) fn undocumented(architecture: &str) -> Vec<String> {
    let shown = architecture.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let expected = table();
    match shown {
        Some((shown, _)) if shown.trim() == expected.trim() => Vec::new(),
        Some(_) => vec![format!("the table differs from the data; it should read:\n\n{expected}")],
        None => vec![format!("put this between `{BEGIN}` and `{END}`:\n\n{expected}")],
    }
}

/// The table as `ARCHITECTURE.md` shows it.
fn table() -> String {
    let mut text = String::from("| crate | may use |\n|---|---|\n");
    for (name, deps) in ALLOWED {
        let deps: Vec<_> = deps.iter().map(|dep| format!("`{dep}`")).collect();
        let deps = if deps.is_empty() { "nothing of ours".to_owned() } else { deps.join(", ") };
        // Writing to a `String` can't fail.
        let _ = writeln!(text, "| `{name}` | {deps} |");
    }
    let _ = writeln!(text, "| `{ROOT}` | any host crate: it puts the parts together |");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_outside_the_table_is_named() {
        let edge = |from, to: &str| Edge { from, kind: Kind::Normal, to: to.to_owned() };
        let edges = [edge("osvm-runtime", "osvm-kvm"), edge("osvm-kvm", "osvm-vmm")];
        let expected = "`osvm-runtime` may not depend on `osvm-kvm`: see xtask/src/tidy/layers.rs";
        assert_eq!(violations(&edges), [expected]);
    }

    #[test]
    fn the_binary_may_use_host_crates_only() {
        let edge = |to: &str| Edge { from: ROOT, kind: Kind::Normal, to: to.to_owned() };
        assert_eq!(violations(&[edge("osvm-kvm"), edge("osvm-kernel")]).len(), 1);
    }

    #[test]
    fn a_table_that_says_something_else_is_refused() {
        let same = format!("text\n{BEGIN}\n\n{}\n{END}\n", table());
        assert!(undocumented(&same).is_empty());
        assert_eq!(undocumented(&same.replace("osvm-vsock", "osvm-vmm")).len(), 1);
        assert_eq!(undocumented("no table").len(), 1);
    }

    #[test]
    fn no_crate_allows_itself_a_circle() {
        let deps = |of: &str| {
            let row = ALLOWED.iter().find(|(name, _)| *name == of);
            row.map_or(&[] as &[&str], |(_, deps)| deps)
        };
        for (name, _) in ALLOWED {
            let mut reached: Vec<&str> = deps(name).to_vec();
            let mut next = 0;
            while next < reached.len() {
                reached.extend(deps(reached[next]));
                next += 1;
                assert!(next < 1000, "`{name}` is in a circle");
            }
            assert!(!reached.contains(name), "`{name}` may use itself");
        }
    }
}
