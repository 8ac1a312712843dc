"""A checkpoint of w ranks into engines of another number of ranks, by DeepSpeed's universal checkpoint.

In: a whole checkpoint's folder. Out: fresh ZeRO-3 engines that hold it. Rank 0 converts it into
FOLDER/.universal/ (one file a parameter and state), every rank reads its part of each, and the conversion is
removed. Costs, of P trained parameters: up to 24·P bytes of disk beside the checkpoint, in rank 0's memory one
old rank's optimizer shard (12·P/w bytes), in every rank's the largest parameter.
Source: deepspeed 0.19.8, deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.errors import ArtefactError

FOLDER = ".universal"
HEARTBEAT_S = 20.0  # well below any process group's timeout


def load_universal(engine: Any, path: Path, ranks: Ranks) -> tuple[str | None, dict[str, Any] | None]:
    """What `engine.load_checkpoint` returns, from the checkpoint at `path` whatever its number of ranks. Collective."""
    work = path.parent / FOLDER
    converting = _background(lambda: _convert(path, work / path.name)) if ranks.is_main else None
    _wait(converting, ranks)
    broadcast_from_rank0(ranks, lambda: _finish(converting, path))
    try:
        with _universal(engine):
            whole = all(p.requires_grad for p in engine.module.parameters())  # LoRA's hold the adapters alone
            loaded: tuple[str | None, dict[str, Any] | None] = engine.load_checkpoint(
                str(work), tag=path.name, load_module_strict=whole
            )
        _own_step_counts(engine)
    finally:
        ranks.barrier()
        if ranks.is_main:
            remove_conversion(path.parent)
    return loaded


def remove_conversion(folder: Path) -> None:
    """What a start that was killed may have left."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _convert(path: Path, target: Path) -> None:
    from deepspeed.checkpoint.ds_to_universal import main

    remove_conversion(path.parent)
    target.mkdir(parents=True)
    main(
        Namespace(
            input_folder=str(path),
            output_folder=str(target),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=False,
        )
    )


class _Work(threading.Thread):
    """A call in the background; `failure` is what it raised."""

    failure: Exception | None = None

    def run(self) -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                super().run()
        except Exception as error:  # raised again by _finish, on every rank
            self.failure = error


def _background(call: Any) -> _Work:
    work = _Work(target=call, daemon=True)
    work.start()
    return work


def _wait(work: _Work | None, ranks: Ranks) -> None:
    """Until rank 0's work has ended. The others get a sign now and then: it may outlast the group's timeout."""
    waiting = True
    while waiting:
        if work is not None:
            work.join(HEARTBEAT_S)
        waiting = ranks.broadcast_json(work is not None and work.is_alive())


def _finish(work: _Work | None, path: Path) -> None:
    if work is not None and work.failure is not None:
        remove_conversion(path.parent)
        raise ArtefactError(
            f"{path} can't be converted for another number of ranks ({type(work.failure).__name__}: {work.failure}): "
            f"free space beside it (24 bytes a trained parameter), or go on with as many ranks as wrote it"
        ) from work.failure


@contextlib.contextmanager
def _universal(engine: Any) -> Iterator[None]:
    """DeepSpeed reads this of its configuration at each load; the engine exists before we know what it shall load."""
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


def _own_step_counts(engine: Any) -> None:
    """DeepSpeed gives all sub-groups one tensor as their AdamW step count, which each would then count up."""
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
