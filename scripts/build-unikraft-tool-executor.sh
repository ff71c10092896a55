#!/usr/bin/env bash
# Checks the toolchain, builds the tool executor (a static musl program) and the bootable image, and
# installs both into ~/.osvm/unikernels with mode 755.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo xtask check install
