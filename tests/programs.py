"""What tests need beyond the pinned set: programs of the system, and peers in an environment of their own.

Where it is missing the test is skipped and told how to get it; in continuous integration (CI=true) it fails instead:
there, a skip would hide for good that nothing is compared any more.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # sshd lies there, and an ordinary user's PATH lacks them
# What a peer is: the variable that names its interpreter, and what must be importable there.
PEERS = {
    "trl": "NOPSD_TRL_PYTHON",
    "triton": "NOPSD_TRITON_PYTHON",
    "lm_eval": "NOPSD_LM_EVAL_PYTHON",
    "torchmetrics": "NOPSD_TORCHMETRICS_PYTHON",
}


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it in continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}. With CI=true nothing may be skipped for that", pytrace=False)
    pytest.skip(what)


def find_program(program: str) -> str | None:
    """Its path; system folders are searched after PATH."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS]))


def require_program(program: str, package: str) -> str:
    """The program's path; where it's missing the test ends, naming the Debian `package` that brings it."""
    found = find_program(program)
    return found or missing(f"{program} is not installed (Debian, Ubuntu: apt-get install {package})")


def find_peer(peer: str) -> str | None:
    """The interpreter that has `peer`, a key of PEERS: the variable's, else that of tests/setup_peers.sh."""
    named = os.environ.get(PEERS[peer])
    return named if named and Path(named).is_file() else None


def require_peer(peer: str) -> str:
    """The interpreter that has `peer`; where there is none the test ends, naming the script that makes one."""
    found = find_peer(peer)
    return found or missing(f"no interpreter with {peer}: run tests/setup_peers.sh, or set {PEERS[peer]}")
