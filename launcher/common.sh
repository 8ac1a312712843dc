# shellcheck shell=bash
# Sourced by the other scripts: where things are, and which device there is.
# Sets NOPSD_ROOT, VENV and DEVICE (cpu|gpu). NOPSD_VENV and NOPSD_DEVICE in the environment override the findings.

NOPSD_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="${NOPSD_VENV:-$NOPSD_ROOT/.venv}"

fail() { # message, remedy
    printf 'nopsd: %s\n       remedy: %s\n' "$1" "$2" >&2
    exit 1
}

find_device() {
    case "${NOPSD_DEVICE:-}" in
        cpu | gpu) printf '%s' "$NOPSD_DEVICE" ;;
        "") if nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then printf gpu; else printf cpu; fi ;;
        *) return 1 ;;
    esac
}

DEVICE="$(find_device)" || fail "NOPSD_DEVICE=$NOPSD_DEVICE is no device" "unset it, or set it to cpu or gpu"

use_environment() { # after setup_env.sh: its programs first, one thread a process, DeepSpeed on the right device
    export PATH="$VENV/bin:$PATH"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
    export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
    if [ "$DEVICE" = cpu ]; then export DS_ACCELERATOR=cpu; fi
}
