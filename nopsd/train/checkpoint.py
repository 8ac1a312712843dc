"""Checkpoints that are whole or not there: saving, finding and loading them over all ranks.

In: the engines and EMA of every rank. Out: FOLDER/step_NNNNNNNN/ (see checkpoint_files). DeepSpeed's own `latest`
is written before all ranks are done, so it is not used: a step counts once its COMMITTED.json is there and every
file is unharmed. `step` is the number of steps done, which is also the policy version of the weights. Data order,
rollout seeds and the learning rate are functions of the step, so they need no state here.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError, UserError
from nopsd.files import flatten
from nopsd.train import checkpoint_files as files
from nopsd.train.checkpoint_files import COMMITTED, Keep, own_files, tag_of
from nopsd.train.loading import data_only
from nopsd.train.rank_state import load_rank_state, reshard_rank_state, save_rank_state
from nopsd.train.universal import load_universal, remove_conversion

__all__ = [
    "COMMITTED",
    "Checkpoint",
    "Keep",
    "best_valid",
    "latest_valid",
    "load",
    "own_files",
    "save",
    "last_healthy",
    "tag_of",
]
FOLDER = "checkpoints"  # in the training's folder
BYTES_A_PARAMETER = 12  # float32 master and AdamW's two moments
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it is, how many steps it holds, how many ranks wrote it, its extras."""

    path: Path
    step: int
    skipped: int
    ranks: int
    extras: dict[str, Any] = field(default_factory=dict)


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
    """Write and commit the state of a run; then remove what `keep` doesn't name. Collective. Raises
    UserError on every rank, with older checkpoints as they were, if the disk is full or can't be written to.
    """
    path = folder / tag_of(progress.step)
    sizes = ranks.all_gather_json(bytes_to_write(engine, ema))
    broadcast_from_rank0(ranks, lambda: _make_room(path, sum(sizes)))
    problem = _write(engine, ema, path, progress, ranks)
    written = ranks.all_gather_json({"problem": problem, "files": {} if problem else files.hashes(path, ranks.rank)})
    problems = [each["problem"] for each in written if each["problem"]]
    mark = {
        "step": progress.step,
        "skipped": progress.skipped,
        "ranks": ranks.world,
        "identity": _plain(progress.identity),
        "score": progress.score,
        "score_by": keep.by,
        "files": {name: digest for each in written for name, digest in each["files"].items()},
    }
    broadcast_from_rank0(ranks, lambda: _commit(path, mark, problems, sum(sizes)))
    broadcast_from_rank0(ranks, lambda: files.prune(folder, progress.step, keep))


def latest_valid(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> Checkpoint | None:
    """The newest committed checkpoint that is whole. All ranks call it and get the same answer.

    Damaged ones are skipped with a warning that names them.

    Args:
        folder: Of checkpoints.
        identity: What the run is made from, as plain values.
        ranks: All that train.

    Returns:
        None if there is none.

    Raises:
        ArtefactError: The newest whole one was made by another configuration.
    """
    if ranks.is_main:
        remove_conversion(folder)
    return _first_whole(folder, identity, ranks, lambda found: found)


def best_valid(folder: Path, identity: Mapping[str, Any], keep: Keep, ranks: Ranks) -> Checkpoint:
    """The whole checkpoint with the best score of `keep.by`. ArtefactError if none has one. Collective."""
    best = _first_whole(folder, identity, ranks, lambda found: files.best_first(found, keep))
    if best is None:
        raise ArtefactError(
            f"no whole checkpoint in {folder} has a score by {keep.by} (train.best_by): set train.export=last"
        )
    return best


def last_healthy(folder: Path, identity: Mapping[str, Any], keep: Keep, ranks: Ranks) -> Checkpoint | None:
    """The whole checkpoint to fall back on: the best by its score if `keep` keeps any, else the newest one of step
    `keep.last_good` or before. Collective."""

    def order(found: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        best = files.best_first(found, keep) if keep.best else []
        return [*best, *(m for m in found if keep.last_good is not None and m["step"] <= keep.last_good)]

    return _first_whole(folder, identity, ranks, order)


def load(engine: Any, ema: Any, checkpoint: Checkpoint, ranks: Ranks) -> None:
    """The checkpoint into the engines, resharded if other ranks wrote it. Collective.

    ArtefactError if DeepSpeed didn't load just this one, or can't reshard it.
    """
    same = checkpoint.ranks == ranks.world
    if same:
        with data_only():
            path, client = engine.load_checkpoint(
                str(checkpoint.path.parent), tag=checkpoint.path.name, load_module_strict=all_trained(engine)
            )
    elif engine.zero_nvme_offload_optimizer():
        raise ArtefactError(
            f"{checkpoint.path} was written by {checkpoint.ranks} ranks, and an optimizer on NVMe can't be resharded: "
            f"set dist.ranks={checkpoint.ranks}"
        )
    else:
        with data_only():
            path, client = load_universal(engine, checkpoint.path, ranks)
    if path is None or not client or client.get("step") != checkpoint.step:
        raise ArtefactError(f"DeepSpeed didn't load {checkpoint.path}: delete that folder and start again")
    if same:
        load_rank_state(checkpoint.path, ranks.rank, ema)
    else:
        reshard_rank_state(checkpoint.path, ranks.rank, ranks.world, checkpoint.ranks, ema)
    if ranks.is_main and not same:
        log.warning("%s, of %d ranks, was resharded for %d", checkpoint.path, checkpoint.ranks, ranks.world)


def all_trained(engine: Any) -> bool:
    """False under LoRA, whose checkpoints hold the adapters alone."""
    return all(p.requires_grad for p in engine.module.parameters())


def bytes_to_write(engine: Any, ema: Any) -> int:
    """About what this rank's part of a checkpoint takes."""
    trained = [getattr(p, "ds_tensor", p).numel() for p in engine.module.parameters() if p.requires_grad]
    averaged = [] if ema is None else [shard.numel() * shard.element_size() for shard in ema.state().values()]
    return int(BYTES_A_PARAMETER * sum(trained) + sum(averaged))


def _make_room(path: Path, size: int) -> None:
    """An empty folder, if its disk has room. What a killed run left of it goes first."""
    try:
        files.remove(path)
        path.mkdir(parents=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise _not_written(path, str(error), size) from error
    if free < size:
        files.remove(path)
        raise _not_written(path, f"{free / 2**20:.0f} MiB are free", size)


def _write(engine: Any, ema: Any, path: Path, progress: Progress, ranks: Ranks) -> str:
    """This rank's files, onto the disk. Returns what went wrong, if anything, once all ranks are through."""
    problems: list[str] = []
    writer = engine.checkpoint_engine
    true_save = writer.save

    def attempt(call: Callable[..., Any], *args: Any, **named: Any) -> None:
        try:
            call(*args, **named)
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
    if ranks.is_main:
        attempt(files.write_extras, path, progress.extras)
    ranks.barrier()  # rank 0 also hashes what names no rank
    attempt(files.sync_to_disk, path, ranks.rank)
    return "; ".join(problems)


def _commit(path: Path, mark: Mapping[str, Any], problems: Sequence[str], size: int) -> None:
    reason = "; ".join(problems)
    if not reason:
        try:
            files.write_mark(path, mark)
        except OSError as error:
            reason = str(error)
    if reason:
        files.remove(path)  # gives the space back
        raise _not_written(path, reason, size)


def _not_written(path: Path, reason: str, size: int) -> UserError:
    return UserError(
        f"checkpoint {path} can't be written ({reason}): is the disk full, or a quota reached? Make room for "
        f"{size / 2**20:.0f} MiB in {path.parent} (a smaller train.keep_checkpoints or train.keep_best helps) and "
        "start again: the run goes on from the checkpoint before"
    )


def _first_whole(
    folder: Path,
    identity: Mapping[str, Any],
    ranks: Ranks,
    order: Callable[[list[dict[str, Any]]], Sequence[Mapping[str, Any]]],
) -> Checkpoint | None:
    found = ranks.broadcast_json(list(order(files.marks(folder))) if ranks.is_main else None)
    for mark in found:
        path = folder / tag_of(mark["step"])
        problems = [p for p in ranks.all_gather_json(files.damage(path, ranks.rank, ranks.world, mark)) if p]
        if problems and ranks.is_main:
            log.warning("checkpoint %s is skipped: %s", path, "; ".join(problems))
        if problems:
            continue
        _refuse_other(path, mark, identity)
        extras = broadcast_from_rank0(ranks, partial(files.read_extras, path))
        return Checkpoint(path, mark["step"], mark["skipped"], mark["ranks"], extras)
    return None


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(flatten(identity)))
    return plain


def _refuse_other(path: Path, mark: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    made, wanted = mark["identity"], _plain(identity)
    differing = sorted(k for k in {*made, *wanted} if made.get(k) != wanted.get(k))
    if differing:
        shown = "; ".join(f"{k}: {made.get(k)} there, {wanted.get(k)} asked" for k in differing[:4])
        raise ArtefactError(f"{path} belongs to another run ({shown}): choose another run_dir, or delete {path.parent}")
