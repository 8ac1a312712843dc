#!/usr/bin/env bash
# Makes the environment, checks style and types, runs the tests: about 16 minutes on 2 fast cores, 4 with --fast.
# Usage: bash tests/run.sh [--fast | --soak] [pytest arguments], e.g. -k checkpoint, or a path below tests/
#   --fast   leaves out what starts DeepSpeed ranks, a vLLM server or a cluster (the mark engine)
#   --soak   runs the long tests too
#   WORKERS in the environment: how many pytest processes (default 2; 0: all in one, as a debugger wants it)
set -euo pipefail
# shellcheck source=launcher/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../launcher/common.sh"

# What the tests of several hosts, of MPI, of scripts and of pages call, and the Debian packages that bring it.
declare -A PACKAGE_OF=(
    [chromium]=chromium [ip]=iproute2 [mpirun]=openmpi-bin [pdsh]=pdsh [ssh]=openssh-client [sshd]=openssh-server [unshare]=util-linux
)

install_programs() { # by apt where root may; else says what is missing: the tests that need it are then skipped
    local program packages=()
    for program in "${!PACKAGE_OF[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || packages+=("${PACKAGE_OF[$program]}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        printf 'tests: not installed here, so some tests are skipped: %s\n' "${packages[*]}"
        printf '       remedy: have an administrator run: apt-get install %s\n' "${packages[*]}"
        return
    fi
    printf 'tests: installing %s\n' "${packages[*]}"
    # RUNLEVEL=1: a package that brings a service, as openssh-server does, must not start it.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    local install=(apt-get install -y -qq --no-install-recommends "${packages[@]}")
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; } ||
        printf 'tests: apt-get could not install them: the tests that need them are skipped\n'
}

FAST="" SOAK="" GIVEN=()
for argument in "$@"; do
    case "$argument" in
        --fast) FAST=1 ;;
        --soak) SOAK=--soak ;;
        *) GIVEN+=("$argument") ;;
    esac
done

bash "$NOPSD_ROOT/launcher/setup_env.sh"
use_environment
export DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1 # the tests run on CPU cores and fetch nothing, on every machine
unset PYTHONDONTWRITEBYTECODE # which images set: each of some 300 processes would compile the package and its tests anew
cd "$NOPSD_ROOT"
[ -n "$FAST" ] || install_programs
bash tests/setup_peers.sh

printf 'tests: ruff\n'
ruff format --check .
ruff check .
printf 'tests: mypy nopsd\n'
mypy nopsd
printf 'tests: pytest\n'
# Two workers on two cores: what starts ranks or servers mostly waits for them, and for programs to load. A file stays
# on one worker, and so do the files that share a server or a set of engines (tests/workers.py).
exec pytest -p tests.workers -n "${WORKERS:-2}" --no-loadscope-reorder ${FAST:+--fast} $SOAK ${GIVEN[@]+"${GIVEN[@]}"}
