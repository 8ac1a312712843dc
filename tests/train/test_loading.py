"""What a checkpoint's file may hold: if this fails, whoever hands on a run folder has code of theirs run on resume."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from nopsd.errors import ArtefactError
from nopsd.train.loading import data_only


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_not_run_and_is_named(tmp_path: Path) -> None:
    file, made = tmp_path / "mp_rank_00_model_states.pt", tmp_path / "made"
    torch.save({"module": torch.zeros(2), "more": Hostile(made)}, file)
    with data_only(), pytest.raises(ArtefactError, match=r"model_states\.pt holds more than data.*mkdir"):
        torch.load(file, map_location="cpu", weights_only=False)
    assert not made.exists()
    torch.load(file, weights_only=False)  # the control
    assert made.is_dir()


def test_what_deepspeed_writes_is_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    state = {
        "loss_scaler": LossScaler(scale=2.0),
        "zero_stage": ZeroStageEnum.weights,
        "fp32_flat_groups": [torch.arange(3.0)],
        "param_shapes": [{"weight": torch.Size([2, 3])}],
        "client": {"step": 3, "names": ("a",)},
    }
    torch.save(state, tmp_path / "optim.pt")
    with data_only():
        read = torch.load(tmp_path / "optim.pt", weights_only=False)
    assert read["loss_scaler"].cur_scale == 2.0 and read["zero_stage"] is ZeroStageEnum.weights
    assert read["param_shapes"] == state["param_shapes"] and read["client"] == state["client"]
    assert torch.equal(read["fp32_flat_groups"][0], torch.arange(3.0))


def test_other_readers_are_left_as_they_were(tmp_path: Path) -> None:
    before = torch.load
    with pytest.raises(ZeroDivisionError), data_only():
        raise ZeroDivisionError
    assert torch.load is before and pickle.loads(pickle.dumps(1)) == 1
