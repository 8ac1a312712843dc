"""The GPUs of this host that this process may use, found without PyTorch: a command that only prints starts quickly.

In: CUDA_VISIBLE_DEVICES, DS_ACCELERATOR, `nvidia-smi`. Out: GPU numbers, in the
order in which ranks and servers take them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from nopsd.errors import ConfigError

VARIABLE = "CUDA_VISIBLE_DEVICES"
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
SEGMENTS = "expandable_segments:True"  # prompts of many lengths leave few fragments
NONE = ("", "-1", "NoDevFiles")  # what hides every GPU
TIMEOUT_S = 60


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[int]:
    """Numbers of the GPUs that CUDA_VISIBLE_DEVICES names, else of all; [] on a CPU.

    Raises:
        ConfigError: if it names a GPU that this host doesn't have, or a part of one (MIG).
    """
    if not meant_for_gpus(environment):
        return []
    listed = environment.get(VARIABLE)
    if listed in NONE:
        return []
    uuids = [uuid for _, uuid in query_gpus("index", "uuid")]
    if listed is None or not uuids:
        return list(range(len(uuids)))
    return [_number(name.strip(), uuids, listed) for name in listed.split(",")]


def meant_for_gpus(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this installation computes on GPUs where there are any; a login node may have none itself.

    False with DS_ACCELERATOR=cpu, and with PyTorch's CPU build, which sees no GPU whatever the host has.
    """
    if environment.get("DS_ACCELERATOR") == "cpu":
        return False
    try:
        return not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def set_allocator() -> None:
    """PyTorch's allocator as training wants it, where the user says nothing; before its first use of a GPU."""
    if meant_for_gpus() and "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault(ALLOCATOR, SEGMENTS)


def query_gpus(*fields: str) -> list[list[str]]:
    """These fields of each GPU of this host, as `nvidia-smi` names and prints them, without units; [] without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    return [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []


def _number(name: str, uuids: list[str], listed: str) -> int:
    if name.startswith("MIG-"):
        raise ConfigError(
            f"{VARIABLE}={listed} names a part of a GPU (MIG), and DeepSpeed's launcher takes whole ones: "
            "set it to whole GPUs"
        )
    found = [i for i, uuid in enumerate(uuids) if name == str(i) or (name.startswith("GPU-") and uuid.startswith(name))]
    if len(found) != 1:
        raise ConfigError(f"{VARIABLE}={listed}: this host has no GPU {name} (it has {len(uuids)}, from 0 on)")
    return found[0]
