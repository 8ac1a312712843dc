#!/usr/bin/env bash
# Makes the environments of the peers that tests compare with (requirements-peers.lock) and of the libraries that logs are
# written with (requirements-loggers.lock), or reuses them. Usage:
#   bash tests/setup_peers.sh        about 20 seconds and 1.3 GB; the tests find them by themselves (tests/programs.py)
# They lie beside the main environment, under its name with -peers and -loggers, and read its packages after their own.
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launcher/common.sh"

[ -x "$VENV/bin/python" ] || fail "there is no environment $VENV to build on" "bash launcher/setup_env.sh first"
site_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# make NAME MODULES: the environment $VENV-NAME of requirements-NAME.lock, in which MODULES can be imported
make() {
    local folder="$VENV-$1" lock="$NOPSD_ROOT/requirements-$1.lock" wanted
    wanted="$VENV $(sha256sum <"$lock" | cut -d' ' -f1)"
    if [ "$(cat "$folder/nopsd-environment" 2>/dev/null)" = "$wanted" ] && [ -x "$folder/bin/python" ]; then
        printf '%s: environment %s is right already\n' "$1" "$folder"
        return
    fi
    printf '%s: making %s\n' "$1" "$folder"
    "$VENV/bin/python" -m venv --clear --without-pip "$folder"
    site_of "$VENV/bin/python" >"$(site_of "$folder/bin/python")/main_environment.pth"
    "$VENV/bin/python" -m pip --python "$folder/bin/python" --disable-pip-version-check --no-input -q \
        install -q --progress-bar off --timeout 60 --retries 4 --no-deps -r "$lock" ||
        fail "pip could not install $lock" "correct what it reports above and run this again"
    (cd / && DS_ACCELERATOR=cpu "$folder/bin/python" -W ignore -c "import $2") ||
        fail "what $lock names does not load" "rm -r $folder and run this again"
    printf '%s' "$wanted" >"$folder/nopsd-environment"
    printf '%s: environment %s is ready\n' "$1" "$folder"
}

make peers "lm_eval.api.metrics, pytablewriter, torchmetrics, triton, trl"
make loggers "inspect_ai.log, mlflow.tracking"
