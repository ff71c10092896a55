#!/usr/bin/env bash
# Tries to break each promise of SECURITY.md from inside a guest. OSVM names the osvm to check; by
# default it is this checkout's release build. Some checks look at other processes and need root.
set -euo pipefail
# A relative OSVM is relative to where the caller is.
if [ -n "${OSVM:-}" ]; then OSVM="$(realpath -- "$OSVM")" && export OSVM; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo xtask check security
