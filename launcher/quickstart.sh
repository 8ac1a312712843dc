#!/usr/bin/env bash
# From nothing to a trained, evaluated, exported model: makes the environment, then runs the main job on the
# embedded default. Under 15 minutes after the install on 2 CPU cores. A run that was cut off goes on where it was.
# Usage: bash launcher/quickstart.sh [key=value …], e.g. train.steps=50 run_dir=runs/mine
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bash "$NOPSD_ROOT/launcher/setup_env.sh"
use_environment
cd "$NOPSD_ROOT"
exec nopsd run --preset lab "$@"
