"""What a launching command passes to its ranks besides the configuration: an environment, secrets, its own address.

    RUN/launch/launch.json   mode 600: the ranks' environment, secrets included, and the coordinator's address and key
    RUN/launch/env           what DeepSpeed itself must export (DS_ENV_FILE): where launch.json is, and little else
    RUN/launch/hostfile      the training hosts, where the MPI launchers need them in a file of their own

DeepSpeed puts each line of DS_ENV_FILE on command lines (`export K=V; …` for pdsh, `-x K=V` for MPI), where `ps` and
its log show it; so the server's key is in the first file alone, which every host reads in the shared run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nopsd.cluster.child_environment import python_environment
from nopsd.errors import UserError
from nopsd.keys import PASS_VARIABLE, without_secrets, write_private

VARIABLE = "NOPSD_LAUNCH"
LAUNCHER_VARIABLE = "NOPSD_LAUNCHER"
# Families of variables that ranks on other hosts must see as they are here.
PASSED = re.compile(
    r"(NOPSD|DS|NCCL|GLOO|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|OMP|MKL|HF|TRANSFORMERS|TOKENIZERS|VLLM|CUDA|CUBLAS|FLASHINFER|UCX|FI)_\w+"
    r"|TOKENIZERS_PARALLELISM|XDG_CACHE_HOME"
)
NOT_PASSED = ("CUDA_VISIBLE_DEVICES", "DS_ENV_FILE", VARIABLE)  # each host's own
EXPORTED = ("DS_ACCELERATOR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "PATH")  # before Python starts
UNQUOTED = re.compile(r'["$`\\\n]')  # a shell would change these inside DeepSpeed's quotes


@dataclass(frozen=True)
class LaunchFile:
    """`address`, `port`, `key`: the coordinator's; port 0 where the launching command has none. `heartbeat_s`:
    seconds that a rank may be silent."""

    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""
    port: int = 0
    key: str = ""
    heartbeat_s: float = 20.0


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Those variables that ranks everywhere must have."""
    named = environment.get(PASS_VARIABLE, "").split(",")
    given = without_secrets(environment).items()
    return {k: v for k, v in given if (PASSED.fullmatch(k) or k in named) and k not in NOT_PASSED}


def write_launch_file(path: Path, content: LaunchFile) -> None:
    """Write it for the owner alone, whole or not at all."""
    write_private(path, json.dumps(asdict(content)))


def read_launch_file(path: Path) -> LaunchFile:
    """UserError where a host doesn't see it."""
    try:
        return LaunchFile(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}, which the launching command left, can't be read here ({error}): "
            "run_dir must be one folder on all hosts"
        ) from error


def write_env_file(path: Path, launch_file: Path, launcher: str, environment: Mapping[str, str]) -> None:
    """Write DS_ENV_FILE: KEY=VALUE lines without blanks or comments, which would crash DeepSpeed's runner.

    Args:
        path: Where to.
        launch_file: The file that the ranks read.
        launcher: Its name; ranks find their number by it.
        environment: Of which Python's variables and `EXPORTED` go along.

    Raises:
        UserError: A value that a shell on another host would change.
    """
    lines = {VARIABLE: str(launch_file), LAUNCHER_VARIABLE: launcher}
    lines |= {name: environment[name] for name in EXPORTED if name in environment}
    # DeepSpeed puts the working folder before PYTHONPATH, where a user's random.py would stand in for Python's own.
    lines |= {"PYTHONPATH": ""} | python_environment(environment)
    for name, value in lines.items():
        if UNQUOTED.search(value):
            raise UserError(f"{name}={value!r} can't be passed to other hosts: a shell there would change it")
    write_private(path, "".join(f"{name}={value}\n" for name, value in lines.items()))
