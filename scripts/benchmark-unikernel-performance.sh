#!/usr/bin/env bash
# Measures a tool call (boot, latency, memory, sizes, CIDs) and shows each figure beside its target. A
# figure over the target of the handbook is a failed check. OSVM names the osvm to measure; by
# default it is this checkout's release build.
set -euo pipefail
# A relative OSVM is relative to where the caller is.
if [ -n "${OSVM:-}" ]; then OSVM="$(realpath -- "$OSVM")" && export OSVM; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo xtask check performance
