"""A folder for one server's sockets and temporary files, which vLLM itself leaves behind when it is killed.

In: nothing. Out: a short path (a socket's name has 107 bytes at most) that is removed with the server; those of
commands that were killed are removed by the next start. A folder is in use while its `.lock` is held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from nopsd.errors import UserError

VARIABLE = "NOPSD_SCRATCH"  # the guardian removes this folder when all of the server has ended
PREFIX = "nopsd-"
LOCK = ".lock"
LONGEST = 107 - len("/nopsd-12345678/") - 40  # of the folder that it is made in: a socket's own name is a UUID
FRESH_S = 60.0  # a folder without a lock is being made


@dataclass(frozen=True)
class Scratch:
    """`lock`: a descriptor to be passed to the process that outlives us."""

    path: Path
    lock: int

    def environment(self) -> dict[str, str]:
        """For the server: its temporary files there, but for PyTorch's compiled kernels, which are kept."""
        kept = f"{tempfile.gettempdir()}/torchinductor_{os.environ.get('USER', os.getuid())}"
        inductor = os.environ.get("TORCHINDUCTOR_CACHE_DIR", kept)
        where = str(self.path)
        return {
            "TMPDIR": where,
            "VLLM_RPC_BASE_PATH": where,
            "TORCHINDUCTOR_CACHE_DIR": inductor,
            VARIABLE: where,
        }

    def remove(self) -> None:
        """May be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """This process needs it no longer."""
        os.close(self.lock)


def make_scratch() -> Scratch:
    """A new folder, once those that killed commands left are gone. UserError if no folder is fit for sockets."""
    base = base_folder()
    sweep(base)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return Scratch(path, lock)


def base_folder() -> Path:
    """Where temporary files go, if sockets can be there: else /tmp. UserError if that can't be written."""
    usual = tempfile.gettempdir()
    found = next((f for f in (usual, "/tmp") if len(os.fsencode(f)) <= LONGEST and os.access(f, os.W_OK)), None)
    if found is None:
        raise UserError(
            f"TMPDIR={usual} is too long for sockets ({LONGEST} bytes at most), and /tmp can't be written: set TMPDIR "
            "to a shorter folder"
        )
    return Path(found)


def sweep(base: Path) -> None:
    """Remove our folders that no process holds."""
    for folder in base.glob(f"{PREFIX}????????"):
        if not folder.is_dir() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
            continue
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            if time.time() - folder.stat().st_mtime > FRESH_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)
