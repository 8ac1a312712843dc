"""Reading of DeepSpeed's checkpoint files without running anything that is in them.

DeepSpeed reads them by `torch.load(weights_only=False)`, which runs any code that a pickle names: whoever passes on a
run folder could have his own run on resume. Here tensors and plain values are read, and of classes those few that
DeepSpeed itself writes.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from nopsd.errors import ArtefactError


@contextlib.contextmanager
def data_only() -> Iterator[None]:
    """Every `torch.load` of this process reads data alone. ArtefactError for a file that holds anything else."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    true_load = torch.load

    def load(file: Any, *args: Any, **options: Any) -> Any:
        try:
            return true_load(file, *args, **{**options, "weights_only": True})
        except pickle.UnpicklingError as error:
            raise ArtefactError(
                f"{getattr(file, 'name', file)} holds more than data, and what it holds would run ({_named(error)}): "
                "nopsd did not write it; take another checkpoint, or start afresh with --redo train"
            ) from error

    torch.load = load
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum]):
            yield
    finally:
        torch.load = true_load


def _named(error: Exception) -> str:
    found = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (found or [type(error).__name__])[0][:160]
