"""Going on from a checkpoint: finding the newest, best or last good one that is whole, and loading it on all ranks.

In: a folder of checkpoints (`checkpoint`) and fresh engines. Out: the engines, averages and random states as they
were. With another number of ranks DeepSpeed's universal checkpoint reshards the engines, and the average's shards are
resharded here: rank r of w holds the elements r·ceil(n/w) … of the flat parameter, as ZeRO-3 does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.errors import ArtefactError
from nopsd.files import flatten, read_json
from nopsd.train.checkpoint import EMA, EXTRAS, RANDOM, Keep, best_first, hashes, marks, tag_of
from nopsd.train.loading import data_only
from nopsd.train.universal import load_universal, remove_conversion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it is, how many steps it holds, how many ranks wrote it, its extras."""

    path: Path
    step: int
    skipped: int
    ranks: int
    extras: dict[str, Any] = field(default_factory=dict)


def latest_valid(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> Checkpoint | None:
    """The newest committed checkpoint that is whole. Collective.

    Damaged ones are skipped with a warning that names them.

    Args:
        folder: Of all checkpoints.
        identity: Of the run that they must be of.
        ranks: All that train; each gets the same answer.

    Returns:
        None if there is none.

    Raises:
        ArtefactError: The newest whole one was made by another configuration.
    """
    if ranks.is_main:
        remove_conversion(folder)
    return _first_whole(folder, identity, ranks, lambda found: found)


def best_valid(folder: Path, identity: Mapping[str, Any], keep: Keep, ranks: Ranks) -> Checkpoint:
    """The whole checkpoint with the best score. Collective.

    Args:
        folder: Of all checkpoints.
        identity: Of the run that they must be of.
        keep: Says by which metric, and whether more of it is better.
        ranks: All that train.

    Raises:
        ArtefactError: None has a score.
    """
    best = _first_whole(folder, identity, ranks, lambda found: best_first(found, keep))
    if best is None:
        raise ArtefactError(
            f"no whole checkpoint in {folder} has a score by {keep.by} (train.best_by): set train.export=last"
        )
    return best


def of_step(folder: Path, identity: Mapping[str, Any], step: int, ranks: Ranks) -> Checkpoint:
    """The whole checkpoint of a step. ArtefactError if there is none. Collective."""
    chosen = _first_whole(folder, identity, ranks, lambda found: [m for m in found if m["step"] == step])
    if chosen is None:
        raise ArtefactError(f"no whole checkpoint of step {step} in {folder}: name a step that was saved")
    return chosen


def last_healthy(folder: Path, identity: Mapping[str, Any], keep: Keep, ranks: Ranks) -> Checkpoint | None:
    """The whole checkpoint to fall back on: the best by its score if `keep` keeps any, else the newest one of step
    `keep.last_good` or before. Collective."""

    def order(found: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        best = best_first(found, keep) if keep.best else []
        return [*best, *(m for m in found if keep.last_good is not None and m["step"] <= keep.last_good)]

    return _first_whole(folder, identity, ranks, order)


def load(engine: Any, ema: Any, checkpoint: Checkpoint, ranks: Ranks) -> None:
    """The checkpoint into the engines, resharded if other ranks wrote it. Collective.

    Args:
        engine: The student's.
        ema: The teacher's average, if it has one.
        checkpoint: A whole one.
        ranks: All that train.

    Raises:
        ArtefactError: DeepSpeed didn't load just this one, or can't reshard it.
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


def _first_whole(
    folder: Path,
    identity: Mapping[str, Any],
    ranks: Ranks,
    order: Callable[[list[dict[str, Any]]], Sequence[Mapping[str, Any]]],
) -> Checkpoint | None:
    found = ranks.broadcast_json(list(order(marks(folder))) if ranks.is_main else None)
    for mark in found:
        path = folder / tag_of(mark["step"])
        problems = [p for p in ranks.all_gather_json(damage(path, ranks.rank, ranks.world, mark)) if p]
        if problems and ranks.is_main:
            log.warning("checkpoint %s is skipped: %s", path, "; ".join(problems))
        if problems:
            continue
        _refuse_other(path, mark, identity)
        extras = broadcast_from_rank0(ranks, partial(read_json, path / EXTRAS)) if EXTRAS in mark["files"] else {}
        return Checkpoint(path, mark["step"], mark["skipped"], mark["ranks"], extras)
    return None


def _refuse_other(path: Path, mark: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    made, wanted = mark["identity"], json.loads(json.dumps(flatten(identity)))
    differing = sorted(k for k in {*made, *wanted} if made.get(k) != wanted.get(k))
    if differing:
        shown = "; ".join(f"{k}: {made.get(k)} there, {wanted.get(k)} asked" for k in differing[:4])
        raise ArtefactError(f"{path} belongs to another run ({shown}): choose another run_dir, or delete {path.parent}")


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


def load_rank_state(path: Path, rank: int, ema: Any) -> None:
    """As this rank left it: the same number of ranks as then."""
    with safe_open(path / RANDOM.format(rank), "pt") as file:
        version, numbers, gauss = json.loads(file.metadata()["python"])
        random.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(file.get_tensor("torch_rng"))
        if "cuda_rng" in file.keys() and torch.cuda.is_available():
            torch.cuda.set_rng_state(file.get_tensor("cuda_rng"))
    if ema is not None:
        ema.load_state(load_file(path / EMA.format(rank)))


def reshard_rank_state(path: Path, rank: int, world: int, written_by: int, ema: Any) -> None:
    """This rank's share, of `world`, of what `written_by` ranks left.

    A rank's random stream can't be resharded: every rank gets a new one, derived from the checkpoint's first
    stream and its own number. Data order and rollout seeds don't depend on these, only dropout does.
    """
    with safe_open(path / RANDOM.format(0), "pt") as file:
        digest = hashlib.sha256(file.get_tensor("torch_rng").numpy().tobytes() + f"/{rank}/{world}".encode())
    seed = int.from_bytes(digest.digest()[:8], "big") >> 1
    random.seed(seed)
    torch.manual_seed(seed)  # CUDA's generator too
    if ema is not None:
        files = [path / EMA.format(r) for r in range(written_by)]
        ema.load_state({name: reshard(files, name, rank, shard) for name, shard in ema.master.items()})


def reshard(files: list[Path], name: str, rank: int, like: torch.Tensor) -> torch.Tensor:
    """A rank's elements of a parameter from the shards that other ranks wrote; read piece by piece.

    Args:
        files: The writers', in order of rank.
        name: The parameter's.
        rank: This one's number.
        like: This rank's flat shard now. Beyond the parameter's end it holds padding, which is zero here.
    """
    size = like.numel()
    low, high = rank * size, (rank + 1) * size
    shard = torch.zeros_like(like, device="cpu")
    for writer, path in enumerate(files):
        with safe_open(path, "pt") as file:
            part = file.get_slice(name)
            width = part.get_shape()[0]
            start, stop = max(low, writer * width), min(high, (writer + 1) * width)
            if start < stop:
                shard[start - low : stop - low] = part[start - writer * width : stop - writer * width]
    return shard
