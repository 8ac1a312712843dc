#!/usr/bin/env bash
# Makes the environment, checks style and types, runs the tests. Under 40 minutes on 2 cores.
# Usage: bash tests/run.sh [--soak] [pytest arguments], e.g. -k checkpoint, or a path below tests/
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launcher/common.sh"

bash "$NOPSD_ROOT/launcher/setup_env.sh"
use_environment
export DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1 # the tests run on CPU cores and fetch nothing, on every machine
cd "$NOPSD_ROOT"

printf 'tests: ruff\n'
ruff format --check .
ruff check .
printf 'tests: mypy nopsd\n'
mypy nopsd
printf 'tests: pytest\n'
exec pytest "$@"
