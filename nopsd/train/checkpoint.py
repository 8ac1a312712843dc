"""Checkpoints that are whole or not there: saving them over all ranks, and which ones are kept (`resuming` loads them).

    FOLDER/step_00000025/                 a file a rank: DeepSpeed's shards, EMA shards, random states
    FOLDER/step_00000025/extras.json      what else the loop wants back (JSON), if anything
    FOLDER/step_00000025/COMMITTED.json   written last: step, ranks, identity, score, SHA-256 of all files

DeepSpeed's own `latest` is written before all ranks are done, so it is not used: a step counts once its mark is there
and every file is unharmed. Files are checked by content, so a torn, shortened, flipped or missing one is found before
DeepSpeed reads it. `step` is the number of steps done, which is also the policy version of the weights. Data
order, rollout seeds and the learning rate are functions of the step, so they need no state here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import random
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nopsd.config import TrainConfig
from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.errors import ArtefactError, UserError
from nopsd.files import flatten, read_json, sha256_json, write_atomic, write_json

FOLDER = "checkpoints"  # in the training's folder
COMMITTED = "COMMITTED.json"
EXTRAS = "extras.json"
RANDOM = "random_rank_{:05d}.safetensors"  # torch's and CUDA's generators; Python's in the metadata
EMA = "ema_rank_{:05d}.safetensors"  # name -> flat shard
BYTES_A_PARAMETER = 12  # float32 master and AdamW's two moments
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
    besides, the one of step `last_good`, the last before a sign of collapse, and that of `step`, to be exported."""

    newest: int
    best: int = 0
    by: str | None = None
    lower: bool = True
    last_good: int | None = None
    step: int | None = None


def tag_of(step: int) -> str:
    """The folder's name of the checkpoint after so many steps."""
    return f"step_{step:08d}"


@dataclass(frozen=True)
class Progress:
    """How far a run has come: `step` steps done, `skipped` of them not taken; `identity`: what shapes its result.

    Of rank 0: `score` is what `Keep.by` names, and `extras`, JSON values, come back as `Checkpoint.extras`.
    """

    step: int
    skipped: int
    identity: Mapping[str, Any]
    score: float | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


def save(engine: Any, ema: Any, folder: Path, progress: Progress, keep: Keep, ranks: Ranks) -> None:
    """Write and commit the state of a run; then remove what `keep` doesn't name. Collective.

    Args:
        engine: The student's.
        ema: The teacher's average, if it has one.
        folder: Of all checkpoints.
        progress: How far the run is.
        keep: Which checkpoints stay.
        ranks: All that train.

    Raises:
        UserError: On every rank, with older checkpoints as they were: the disk is full or can't be written to.
    """
    path = folder / tag_of(progress.step)
    trained = [getattr(p, "ds_tensor", p).numel() for p in engine.module.parameters() if p.requires_grad]
    averaged = [] if ema is None else [shard.numel() * shard.element_size() for shard in ema.master.values()]
    size = sum(ranks.all_gather_json(BYTES_A_PARAMETER * sum(trained) + sum(averaged)))  # about
    broadcast_from_rank0(ranks, lambda: _make_room(path, size))
    problem, digests = _write(engine, ema, path, progress, ranks)
    written = ranks.all_gather_json({"problem": problem, "files": digests})
    problems = [each["problem"] for each in written if each["problem"]]
    mark = {
        "step": progress.step,
        "skipped": progress.skipped,
        "ranks": ranks.world,
        "identity": json.loads(json.dumps(flatten(progress.identity))),  # as it comes back
        "score": progress.score,
        "score_by": keep.by,
        "files": {name: digest for each in written for name, digest in each["files"].items()},
    }
    broadcast_from_rank0(ranks, lambda: commit(path, mark, problems, size))
    broadcast_from_rank0(ranks, lambda: prune(folder, progress.step, keep))


def _make_room(path: Path, size: int) -> None:
    """An empty folder, if its disk has room. What a killed run left of it goes first."""
    try:
        remove(path)
        path.mkdir(parents=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise _not_written(path, str(error), size) from error
    if free < size:
        remove(path)
        raise _not_written(path, f"{free / 2**20:.0f} MiB are free", size)


def _write(engine: Any, ema: Any, path: Path, progress: Progress, ranks: Ranks) -> tuple[str, dict[str, str]]:
    """This rank's files, onto the disk: what went wrong, if anything, once all ranks are through, and their hashes."""
    problems: list[str] = []
    writer = engine.checkpoint_engine
    true_save = writer.save

    def attempt(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        try:
            return call(*args, **named)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch raises RuntimeError on a full disk
            problems.append(f"rank {ranks.rank} on {socket.gethostname()}: {str(error).strip().splitlines()[0]}")

    # DeepSpeed waits for all ranks between its files: one that raised there would leave the others waiting.
    writer.save = partial(attempt, true_save)
    try:
        engine.save_checkpoint(  # under LoRA the base's weights are left out: they are in the model's own folder
            str(path.parent),
            tag=path.name,
            client_state={"step": progress.step},
            save_latest=False,
            exclude_frozen_parameters=True,
        )
    finally:
        writer.save = true_save
    attempt(save_rank_state, path, ranks.rank, ema)
    if ranks.is_main and progress.extras:
        attempt(write_atomic, path / EXTRAS, json.dumps(dict(progress.extras)))  # token ids: not a line each
    ranks.barrier()  # rank 0 also hashes what names no rank
    digests = attempt(hashes, path, ranks.rank, to_disk=True)
    return "; ".join(problems), digests or {}


def save_rank_state(path: Path, rank: int, ema: Any) -> None:
    """This rank's random states and EMA shards."""
    tensors = {"torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    save_file(tensors, path / RANDOM.format(rank), metadata={"python": json.dumps(random.getstate())})
    if ema is not None:
        shards = {name: shard.contiguous().cpu() for name, shard in ema.master.items()}
        save_file(shards, path / EMA.format(rank))


def commit(path: Path, mark: Mapping[str, Any], problems: Sequence[str] = (), size: int = 0) -> None:
    """Write the mark: until this returns the checkpoint doesn't count.

    Args:
        path: The checkpoint's folder.
        mark: What it says.
        problems: Of the ranks; with any the checkpoint is removed.
        size: Bytes that it needs, about.

    Raises:
        UserError: There were problems, or the mark can't be written.
    """
    reason = "; ".join(problems)
    if not reason:
        try:
            write_json(path / COMMITTED, {**mark, "digest": sha256_json(dict(mark))})
        except OSError as error:
            reason = str(error)
    if reason:
        remove(path)  # gives the space back
        raise _not_written(path, reason, size)


def _not_written(path: Path, reason: str, size: int) -> UserError:
    return UserError(
        f"checkpoint {path} can't be written ({reason}): is the disk full, or a quota reached? Make room for "
        f"{size / 2**20:.0f} MiB in {path.parent} (a smaller train.keep_checkpoints or train.keep_best helps) and "
        "start again: the run goes on from the checkpoint before"
    )


def hashes(path: Path, rank: int, to_disk: bool = False) -> dict[str, str]:
    """SHA-256 of the files that this rank wrote, by their path in the folder.

    DeepSpeed names its own zero_pp_rank_R_… and, with an NVMe optimizer, offloaded_tensors/rankRR/; rank 0 also takes
    what names no rank.

    `to_disk`: have them on the disk itself, not in the host's cache, before anything older is removed.
    """
    own = {*path.glob(f"*_rank_{rank:05d}.safetensors"), *path.glob(f"*zero_pp_rank_{rank}_*")}
    own |= {*path.glob(f"offloaded_tensors/rank{rank:02d}/**/*")}
    if rank == 0:
        own |= {p for p in path.glob("*") if "_rank_" not in p.name.replace("mp_rank_00", "") and p.name != COMMITTED}
    found = {}
    for name in sorted(p for p in own if p.is_file()):
        with open(name, "rb") as file:
            if to_disk:
                os.fsync(file.fileno())
            found[name.relative_to(path).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def marks(folder: Path) -> list[dict[str, Any]]:
    """Readable commit marks, newest first. Checkpoints without one, or with another's, are named in a warning."""
    found, torn = [], []
    for path in sorted(folder.glob("step_*"), reverse=True):
        try:
            mark = read_json(path / COMMITTED)
            digest = mark.pop("digest", None) if isinstance(mark, dict) else None
        except (ArtefactError, UnicodeDecodeError):
            mark = digest = None
        fits = digest is not None and all(isinstance(mark.get(key), types) for key, types in FIELDS.items())
        if fits and digest == sha256_json(mark) and path.name == tag_of(mark["step"]):
            found.append(mark)
        else:
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
    names = {tag_of(m["step"]) for m in found if m in kept or m["step"] in (keep.last_good, keep.step)}
    for path in folder.glob("step_*"):
        if path.name not in names:
            remove(path)


def remove(path: Path) -> None:
    """The mark first: a folder that is half removed when the process dies must not look whole."""
    (path / COMMITTED).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def keep_of(config: TrainConfig) -> Keep:
    """Which checkpoints a run keeps while no guard's limit has been passed."""
    by = config.best_by
    return Keep(config.keep_checkpoints, config.keep_best, by, LOWER_IS_BETTER[by], step=config.export_step)


def mean_score(rows: Sequence[Mapping[str, float]], by: str) -> float | None:
    """The mean of the number named `by` over steps; a skipped step's NaN doesn't count. None if there is none."""
    values = [float(value) for row in rows if math.isfinite(value := row.get(by, math.nan))]
    return math.fsum(values) / len(values) if values else None
