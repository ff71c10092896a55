#!/usr/bin/env bash
# Checks that tool calls run in unikernels here: backend, images, isolation config, the executor,
# calls, CIDs. OSVM names the osvm to check; by default it is this checkout's release build.
set -euo pipefail
# A relative OSVM is relative to where the caller is.
if [ -n "${OSVM:-}" ]; then OSVM="$(realpath -- "$OSVM")" && export OSVM; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo xtask check execution
