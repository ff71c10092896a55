//! What options mean together: limits that depend on the mode, and contradictions.
//!
//! Checked for every tool and server of the file and for all that it does not name, so that
//! whatever [`crate::Config::resolve`] returns is within the limits of its guest.

use crate::error::{Problem, ProblemKind};
use crate::model::{ExecutionMode, Life, WorkspaceMode};
use crate::read::{Root, Server};
use crate::resolve::{Picked, Scope};
use crate::source::Location;
use std::collections::BTreeSet;

/// Memory of a unikernel, in MiB: its devices are below 4 GiB, and memory ends below them.
pub(crate) const UNIKERNEL_MEMORY: (u32, u32) = (16, 3072);
/// Memory of a Linux microVM, in MiB.
pub(crate) const MICROVM_MEMORY: (u32, u32) = (64, 65_536);

/// Everything that does not fit together.
pub(crate) fn check(root: &Root, locate: &impl Fn(usize) -> Location) -> Vec<Problem> {
    let mut checker = Checker { locate, seen: BTreeSet::new(), problems: Vec::new() };
    if let Some(pool) = &root.pool
        && pool.value.max_vms < pool.value.size
    {
        let reason =
            format!("has a `size` of {}, but allows {} VMs", pool.value.size, pool.value.max_vms);
        checker.problem(pool.at, "pool".into(), ProblemKind::Contradiction { reason });
    }
    for (name, server) in &root.servers {
        let scope = Scope { root, server: Some((name, server)), tool: None };
        checker.use_microvm(&scope, server);
        checker.workspace(&scope, server);
        checker.limits(&scope);
        for (tool, table) in &server.tools {
            checker.limits(&Scope { tool: Some((tool, table)), ..scope });
        }
    }
    checker.problems
}

struct Checker<'l, L> {
    locate: &'l L,
    /// Offsets of values that are known to be wrong: a server's value is used by many tools.
    seen: BTreeSet<usize>,
    problems: Vec<Problem>,
}

impl<L: Fn(usize) -> Location> Checker<'_, L> {
    fn problem(&mut self, at: usize, pointer: String, kind: ProblemKind) {
        if self.seen.insert(at) {
            self.problems.push(Problem { location: (self.locate)(at), pointer, kind });
        }
    }

    /// `use_microvm` and `execution_mode` of one server must not say different things.
    fn use_microvm(&mut self, scope: &Scope<'_>, server: &Server) {
        let (Some(switch), Some(mode)) = (&server.use_microvm, &server.table.execution_mode) else {
            return;
        };
        if switch.value != (mode.value == ExecutionMode::MicroVm) {
            let reason = format!(
                "is {}, but `execution_mode` at {} is `{}`",
                switch.value,
                (self.locate)(mode.at),
                mode.value
            );
            let pointer = scope.pointer(crate::resolve::Level::Server, "use_microvm");
            self.problem(switch.at, pointer, ProblemKind::Contradiction { reason });
        }
    }

    /// Changes of a server that lives on are of no call in particular, so nobody could judge them.
    fn workspace(&mut self, scope: &Scope<'_>, server: &Server) {
        let (Some(workspace), Some(life)) = (&server.workspace, &server.life) else { return };
        if workspace.value.mode == WorkspaceMode::Diff && life.value == Life::Persistent {
            let reason = format!(
                "has the mode `diff`, but `life` at {} is `persistent`: only what one call changes \
                 can wait to be applied",
                (self.locate)(life.at)
            );
            let pointer = scope.pointer(crate::resolve::Level::Server, "workspace");
            self.problem(workspace.at, pointer, ProblemKind::Contradiction { reason });
        }
    }

    fn limits(&mut self, scope: &Scope<'_>) {
        let mode = scope.mode().map_or(crate::resolve::built_in::MODE, |mode| *mode.value);
        let (memory, who) = match mode {
            ExecutionMode::Unikernel => (UNIKERNEL_MEMORY, "a unikernel"),
            ExecutionMode::MicroVm => (MICROVM_MEMORY, "a microVM"),
            // Nothing is given to a guest that does not exist.
            ExecutionMode::Direct => return,
        };
        let takes = format!("{who} takes {} to {} MiB", memory.0, memory.1);
        self.range(scope, scope.memory_mb(mode), memory, takes);
        if mode == ExecutionMode::Unikernel {
            let takes = "a unikernel runs its one call on 1 vCPU, only a microVM takes more";
            self.range(scope, scope.vcpus(mode), (1, 1), takes.into());
        }
    }

    fn range(
        &mut self,
        scope: &Scope<'_>,
        picked: Option<Picked<'_, u32>>,
        (least, most): (u32, u32),
        mut takes: String,
    ) {
        let Some(picked) = picked.filter(|p| !(least..=most).contains(p.value)) else { return };
        if let (Some((tool, _)), crate::resolve::Level::Server) = (scope.tool, picked.level) {
            let tool = crate::words::printable(tool);
            takes.push_str(&format!(", and tool `{tool}` inherits this"));
        }
        let pointer = scope.pointer(picked.level, picked.name);
        let value = picked.value.to_string();
        self.problem(picked.at, pointer, ProblemKind::OutOfRange { value, takes });
    }
}
