#!/usr/bin/env bash
# Makes the environment of the peers that tests compare with (requirements-peers.lock), or reuses it. Usage:
#   bash tests/setup_peers.sh        about 10 seconds and 1.1 GB; the tests find it by themselves (tests/programs.py)
# It lies beside the main environment, under its name with -peers, and reads that one's packages after its own.
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launcher/common.sh"

PEERS="$VENV-peers"
LOCK="$NOPSD_ROOT/requirements-peers.lock"
STAMP="$PEERS/nopsd-environment"
WANTED="$VENV $(sha256sum <"$LOCK" | cut -d' ' -f1)"

if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ] && [ -x "$PEERS/bin/python" ]; then
    printf 'peers: environment %s is right already\n' "$PEERS"
    exit
fi
[ -x "$VENV/bin/python" ] || fail "there is no environment $VENV to build on" "bash launcher/setup_env.sh first"

printf 'peers: making %s\n' "$PEERS"
"$VENV/bin/python" -m venv --clear --without-pip "$PEERS"
site_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
site_of "$VENV/bin/python" >"$(site_of "$PEERS/bin/python")/main_environment.pth"
"$VENV/bin/python" -m pip --python "$PEERS/bin/python" --disable-pip-version-check --no-input -q \
    install -q --progress-bar off --timeout 60 --retries 4 --no-deps -r "$LOCK" ||
    fail "pip could not install the peers" "correct what it reports above and run this again"
(cd / && DS_ACCELERATOR=cpu "$PEERS/bin/python" -W ignore -c 'import lm_eval.api.metrics, pytablewriter, torchmetrics, triton, trl') ||
    fail "the peers do not load" "rm -r $PEERS and run this again"
printf '%s' "$WANTED" >"$STAMP"
printf 'peers: environment %s is ready\n' "$PEERS"
