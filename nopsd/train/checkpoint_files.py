"""A checkpoint's folder on disk: its commit mark, whether it is whole, and which ones are kept. No engines.

    FOLDER/step_00000025/                 a file a rank: DeepSpeed's shards, EMA shards, random states
    FOLDER/step_00000025/extras.json      what else the loop wants back (JSON), if anything
    FOLDER/step_00000025/COMMITTED.json   written last: step, ranks, identity, score, SHA-256 of all files

In: a folder of such checkpoints. Out: readable marks, newest first, and what is wrong with a rank's files.
Files are checked by content, so a torn, shortened, flipped or missing one is found before DeepSpeed reads it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.config import TrainConfig
from nopsd.errors import ArtefactError
from nopsd.files import read_json, sha256_file, sha256_json, write_atomic, write_json

COMMITTED = "COMMITTED.json"
EXTRAS = "extras.json"
FIELDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "skipped": (int,),
    "ranks": (int,),
    "identity": (dict,),
    "files": (dict,),
    "score": (int, float, type(None)),
    "score_by": (str, type(None)),
}
# The label-free numbers that best checkpoints may be kept by: of each the mean since the last checkpoint. None
# measures quality: the loss falls where the teacher follows the student fast, and the majority share rises in collapse,
# so `train.export: last` is the default.
LOWER_IS_BETTER = {"loss": True, "reverse_kl": True, "probe/majority_share": False, "probe/unparsed_share": True}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keep:
    """How many checkpoints stay: the `newest`, and the `best` by the score named `by` (`lower` is better, or not);
    besides, the one of step `last_good`, the last before a sign of collapse."""

    newest: int
    best: int = 0
    by: str | None = None
    lower: bool = True
    last_good: int | None = None


def tag_of(step: int) -> str:
    """The folder's name of the checkpoint after so many steps."""
    return f"step_{step:08d}"


def write_mark(path: Path, mark: Mapping[str, Any]) -> None:
    """Commit the checkpoint at `path`: until this returns it doesn't count."""
    write_json(path / COMMITTED, {**mark, "digest": sha256_json(dict(mark))})


def read_mark(path: Path) -> dict[str, Any]:
    """The commit mark of the checkpoint at `path`. ArtefactError if it is missing, garbled, or of another folder."""
    try:
        mark = read_json(path / COMMITTED)
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path / COMMITTED} is damaged ({error})") from error
    if not isinstance(mark, dict):
        raise ArtefactError(f"{path / COMMITTED} is damaged (not an object)")
    digest = mark.pop("digest", None)
    fits = all(isinstance(mark.get(key), types) for key, types in FIELDS.items())
    if not fits or digest != sha256_json(mark) or path.name != tag_of(mark["step"]):
        raise ArtefactError(f"{path / COMMITTED} is damaged (its content is not what was written)")
    return mark


def write_extras(path: Path, extras: Mapping[str, Any]) -> None:
    """Leave `extras` in the checkpoint at `path`, hashed like its other files; nothing if there are none."""
    if extras:
        write_atomic(path / EXTRAS, json.dumps(dict(extras)))  # token ids: not a line each


def read_extras(path: Path) -> dict[str, Any]:
    """What `write_extras` left in a checkpoint that is whole."""
    extras: dict[str, Any] = read_json(path / EXTRAS) if (path / EXTRAS).is_file() else {}
    return extras


def marks(folder: Path) -> list[dict[str, Any]]:
    """Readable commit marks, newest first. Checkpoints without one are named in a warning."""
    found, torn = [], []
    for path in sorted(folder.glob("step_*"), reverse=True):
        try:
            found.append(read_mark(path))
        except ArtefactError:
            torn.append(path.name)
    if torn:
        log.warning(
            "checkpoints never finished or with a damaged %s in %s are ignored: %s", COMMITTED, folder, ", ".join(torn)
        )
    return found


def best_first(found: Sequence[Mapping[str, Any]], keep: Keep) -> list[Mapping[str, Any]]:
    """Marks that have the score `keep.by`, the best first; of equals the newer."""
    scored = [m for m in found if m["score"] is not None and m["score_by"] == keep.by]
    return sorted(scored, key=lambda m: (m["score"] if keep.lower else -m["score"], -m["step"]))


def prune(folder: Path, step: int, keep: Keep) -> None:
    """Remove all checkpoints but those of `keep`, now that the one of `step` is committed.

    A folder of a later step can only be a damaged one that the resume passed over; counted among the
    newest, it would push out a whole one.
    """
    found = [m for m in marks(folder) if m["step"] <= step]
    kept = [*found[: keep.newest], *best_first(found, keep)[: keep.best]]
    names = {tag_of(m["step"]) for m in found if m in kept or m["step"] == keep.last_good}
    for path in folder.glob("step_*"):
        if path.name not in names:
            remove(path)


def remove(path: Path) -> None:
    """The mark first: a folder that is half removed when the process dies must not look whole."""
    (path / COMMITTED).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def own_files(path: Path, rank: int) -> list[Path]:
    """The files this rank wrote. DeepSpeed names its own zero_pp_rank_R_… and, with an NVMe optimizer,
    offloaded_tensors/rankRR/; rank 0 also takes what names no rank."""
    own = {*path.glob(f"*_rank_{rank:05d}.safetensors"), *path.glob(f"*zero_pp_rank_{rank}_*")}
    own |= {*path.glob(f"offloaded_tensors/rank{rank:02d}/**/*")}
    if rank == 0:
        own |= {p for p in path.glob("*") if "_rank_" not in p.name.replace("mp_rank_00", "") and p.name != COMMITTED}
    return sorted(p for p in own if p.is_file())


def hashes(path: Path, rank: int) -> dict[str, str]:
    """SHA-256 of this rank's files by their path in the folder."""
    return {p.relative_to(path).as_posix(): sha256_file(p) for p in own_files(path, rank)}


def sync_to_disk(path: Path, rank: int) -> None:
    """Have this rank's files on the disk itself, not in the host's cache, before anything older is removed."""
    for file in own_files(path, rank):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def damage(path: Path, rank: int, world: int, mark: Mapping[str, Any]) -> str:
    """What is wrong with the files this rank of `world` looks after (those of writers rank, rank+world, …), or ""."""
    files = mark["files"]
    if rank == 0:  # also sees to files of ranks that are no more
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            return f"{missing[0]} is missing"
    for writer in range(rank, mark["ranks"], world):
        try:
            found = hashes(path, writer)
        except OSError as error:
            return f"{error.filename} can't be read ({error.strerror})"
        for name, digest in found.items():
            if files.get(name) != digest:
                return f"{name} is damaged"
    return ""


def keep_of(config: TrainConfig, last_good: int | None = None) -> Keep:
    """Which checkpoints a run keeps, that of step `last_good` whatever its age."""
    return Keep(config.keep_checkpoints, config.keep_best, config.best_by, LOWER_IS_BETTER[config.best_by], last_good)


class Score:
    """Gathers the number named `by`, step by step. A resumed run starts at a checkpoint, so with none gathered."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.values: list[float] = []

    def add(self, row: Mapping[str, float]) -> None:
        """One step's row; a skipped step's NaN doesn't count."""
        value = row.get(self.by, math.nan)
        if math.isfinite(value):
            self.values.append(float(value))

    def take(self) -> float | None:
        """The mean of what was gathered, and begin anew."""
        values, self.values = self.values, []
        return math.fsum(values) / len(values) if values else None
