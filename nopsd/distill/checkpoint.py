"""Checkpoints that are whole or not there (SPEC §6.2).

    FOLDER/step_00000025/           DeepSpeed's shards, EMA shards and random states, a file a rank
    FOLDER/step_00000025/COMMITTED.json   written last: step, ranks, identity, SHA-256 of every file

DeepSpeed's own `latest` is written before all ranks are done, so it is not used: a step counts once its
COMMITTED.json is there and every rank finds its own files unharmed. `step` is the number of steps done,
which is also the policy version of the weights.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.runs import flatten, read_json, sha256_file, write_json

COMMITTED = "COMMITTED.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it is and how many steps it holds."""

    path: Path
    step: int
    skipped: int


def tag_of(step: int) -> str:
    return f"step_{step:08d}"


def save(
    engine: Any, ema: Any, folder: Path, step: int, skipped: int, identity: Mapping[str, Any], keep: int, ranks: Ranks
) -> None:
    """Write and commit the state after `step` steps; then remove all but the `keep` newest. All ranks call it."""
    path = folder / tag_of(step)
    if ranks.is_main:
        shutil.rmtree(path, ignore_errors=True)  # half-written by a run that was killed
    ranks.barrier()
    path.mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=path.name, client_state={"step": step}, save_latest=False)
    save_rank_state(path, ranks.rank, ema)
    ranks.barrier()
    listings = ranks.all_gather_json(_hashes(path, ranks.rank))
    if ranks.is_main:
        files = {name: digest for listing in listings for name, digest in listing.items()}
        write_json(path / COMMITTED, {
            "step": step, "skipped": skipped, "ranks": ranks.world, "identity": flatten(identity), "files": files,
        })
        for old in committed(folder)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()


def latest_valid(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> Checkpoint | None:
    """The newest committed checkpoint that every rank finds whole; None if there is none.

    Damaged ones are skipped with a warning that names them. Raises ArtefactError if the newest was made
    by another configuration or another number of ranks. All ranks call it and get the same answer.
    """
    found = ranks.broadcast_json([_commit(p) for p in committed(folder)] if ranks.is_main else None)
    for commit in found:
        path = folder / tag_of(commit["step"])
        problems = [p for p in ranks.all_gather_json(_damage(path, ranks.rank, commit["files"])) if p]
        if problems and ranks.is_main:
            log.warning("checkpoint %s is skipped: %s", path, "; ".join(problems))
        if problems:
            continue
        _refuse_other(path, commit, identity, ranks.world)
        return Checkpoint(path, commit["step"], commit["skipped"])
    return None


def load(engine: Any, ema: Any, checkpoint: Checkpoint, ranks: Ranks) -> None:
    """The checkpoint into fresh engines. ArtefactError if DeepSpeed didn't load just this one."""
    path, client = engine.load_checkpoint(str(checkpoint.path.parent), tag=checkpoint.path.name)
    if path is None or not client or client.get("step") != checkpoint.step:
        raise ArtefactError(f"DeepSpeed didn't load {checkpoint.path}: delete that folder and start again")
    load_rank_state(checkpoint.path, ranks.rank, ema)


def committed(folder: Path) -> list[Path]:
    """Checkpoint folders with a commit mark, newest first. Those without one are named in a warning."""
    steps = sorted(folder.glob("step_*"), reverse=True)
    torn = [p.name for p in steps if not (p / COMMITTED).is_file()]
    if torn:
        log.warning("checkpoints never finished in %s are ignored: %s", folder, ", ".join(torn))
    return [p for p in steps if (p / COMMITTED).is_file()]


def save_rank_state(path: Path, rank: int, ema: Any) -> None:
    """This rank's random states and EMA shards."""
    tensors = {"torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    save_file(tensors, path / f"random_rank_{rank:05d}.safetensors", metadata={"python": json.dumps(random.getstate())})
    if ema is not None:
        shards = {name: shard.contiguous().cpu() for name, shard in ema.state().items()}
        save_file(shards, path / f"ema_rank_{rank:05d}.safetensors")


def load_rank_state(path: Path, rank: int, ema: Any) -> None:
    with safe_open(path / f"random_rank_{rank:05d}.safetensors", "pt") as file:
        version, numbers, gauss = json.loads(file.metadata()["python"])
        random.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(file.get_tensor("torch_rng"))
        if "cuda_rng" in file.keys() and torch.cuda.is_available():
            torch.cuda.set_rng_state(file.get_tensor("cuda_rng"))
    if ema is not None:
        ema.load_state(load_file(path / f"ema_rank_{rank:05d}.safetensors"))


def own_files(path: Path, rank: int) -> list[Path]:
    """The files this rank wrote. DeepSpeed names its own zero_pp_rank_R_…; rank 0 also takes what names no rank."""
    own = {*path.glob(f"*_rank_{rank:05d}.safetensors"), *path.glob(f"*zero_pp_rank_{rank}_*")}
    if rank == 0:
        own |= {p for p in path.glob("*") if "_rank_" not in p.name.replace("mp_rank_00", "") and p.name != COMMITTED}
    return sorted(p for p in own if p.is_file())


def _hashes(path: Path, rank: int) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in own_files(path, rank)}


def _damage(path: Path, rank: int, files: Mapping[str, str]) -> str:
    """What is wrong with this rank's files, or nothing. Rank 0 looks for those of ranks that are no more, too."""
    if rank == 0:
        missing = [name for name in files if not (path / name).is_file()]
        if missing:
            return f"{missing[0]} is missing"
    for name, digest in _hashes(path, rank).items():
        if files.get(name) != digest:
            return f"{name} is damaged"
    return ""


def _commit(path: Path) -> dict[str, Any]:
    return read_json(path / COMMITTED)


def _refuse_other(path: Path, commit: Mapping[str, Any], identity: Mapping[str, Any], world: int) -> None:
    if commit["ranks"] != world:
        raise ArtefactError(
            f"{path} was written by {commit['ranks']} ranks and this run has {world}: "
            f"set dist.ranks={commit['ranks']}, or delete {path.parent} to start afresh"
        )
    wanted = json.loads(json.dumps(flatten(identity)))
    differing = sorted(k for k in {*commit["identity"], *wanted} if commit["identity"].get(k) != wanted.get(k))
    if differing:
        shown = "; ".join(f"{k}: {commit['identity'].get(k)} there, {wanted.get(k)} asked" for k in differing[:4])
        raise ArtefactError(f"{path} belongs to another run ({shown}): choose another run_dir, or delete {path.parent}")
