"""What tests need beyond the pinned set: programs of the system, and peers in an environment of their own.

Where it is missing the test is skipped and told how to get it; in continuous integration (CI=true) it fails instead:
there, a skip would hide for good that nothing is compared any more.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # sshd lies there, and an ordinary user's PATH lacks them
# By importable name, the variable that names an interpreter which has it.
PEERS = {
    "trl": "NOPSD_TRL_PYTHON",
    "triton": "NOPSD_TRITON_PYTHON",
    "lm_eval": "NOPSD_LM_EVAL_PYTHON",
    "torchmetrics": "NOPSD_TORCHMETRICS_PYTHON",
    "inspect_ai": "NOPSD_INSPECT_PYTHON",
    "mlflow": "NOPSD_MLFLOW_PYTHON",
}
LOGGERS = ("inspect_ai", "mlflow")  # in an environment of their own


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
    """An interpreter that has `peer`, a key of PEERS: the named one, this one, or that of tests/setup_peers.sh."""
    if named := os.environ.get(PEERS[peer]):
        return named
    if importlib.util.find_spec(peer):
        return sys.executable
    made = Path(f"{sys.prefix}-{'loggers' if peer in LOGGERS else 'peers'}", "bin", "python")
    return str(made) if made.parents[1].joinpath("nopsd-environment").is_file() else None


def require_peer(peer: str) -> str:
    """An interpreter that has `peer`; where there is none the test ends, naming the script that makes one."""
    found = find_peer(peer)
    return found or missing(f"no interpreter with {peer}: run bash tests/setup_peers.sh, or set {PEERS[peer]}")


def run_peer(peer: str, script: Path, given: Any, folder: Path, **environment: str) -> Any:
    """What `script IN.pt OUT.pt` makes of `given` under an interpreter that has `peer`; files lie in `folder`.

    Scripts of the same interpreter and `environment` share a process: what they import takes ten seconds to load.
    """
    import torch

    torch.save(given, folder / "in.pt")
    process, log = _peer_process(require_peer(peer), tuple(sorted(environment.items())))
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([str(script), str(folder / "in.pt"), str(folder / "out.pt")]) + "\n")
    process.stdin.flush()
    said = process.stdout.readline()
    assert said == "done\n", Path(log).read_text()[-3000:]
    return torch.load(folder / "out.pt", weights_only=True)


@lru_cache(maxsize=1)  # one at a time: it holds a gigabyte
def _peer_process(python: str, environment: tuple[tuple[str, str], ...]) -> tuple[subprocess.Popen[str], str]:
    """A process of tests/peer.py, and the file of what its scripts print. It ends with its input: when ours does."""
    log = tempfile.NamedTemporaryFile("w", suffix=".log")
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("peer.py"))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", **dict(environment)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    atexit.register(log.close)
    return process, log.name
