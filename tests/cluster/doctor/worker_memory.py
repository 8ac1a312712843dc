"""Real ZeRO-3 engines after one step: bytes of all tensors that live; started by tests/engine/worker_ranks.py."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch

from nopsd.config import load_config
from nopsd.engine.distributed import Ranks
from nopsd.train.algorithms.distill import load_engines
from nopsd.train.losses.fused_linear import DistillInputs


def live_bytes() -> int:
    """Bytes of all storages that a tensor known to the collector stands on, each once."""
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type == "cpu":
            for tensor in (found, found.grad if found.is_leaf else None, getattr(found, "ds_tensor", None)):
                if tensor is not None:
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    storages.pop(0, None)
    return sum(storages.values())


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    before = live_bytes()
    config = load_config(None, [*job["overrides"], f"dist.ranks={ranks.world}"])
    student, teacher, ema = load_engines(config, Path(job["model"]), ranks)
    hidden = student.module.lm.config.hidden_size
    ids = torch.arange(8)[None]
    inputs = DistillInputs(torch.randn(7, hidden), None, torch.full((7,), 1 / 7), ids[0, 1:])
    result = student(input_ids_BT=ids, rows_N=torch.arange(7), loss_inputs=inputs)
    del inputs
    student.backward(result.loss)
    student.step()
    del result
    found = live_bytes() - before
    Path(job["out"], f"{ranks.world}-{ranks.rank}.json").write_text(json.dumps(found))
    assert teacher is not None and ema is not None  # they live until here
