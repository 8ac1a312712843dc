"""Checkpoints: whole or not there; damaged ones are skipped by name; resuming gives the unbroken run's losses."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError, UserError
from nopsd.files import sha256_file
from nopsd.train import checkpoint, resuming
from nopsd.train.checkpoint import commit, tag_of

ALONE = Ranks(0, 1, torch.device("cpu"))


def make(folder: Path, step: int, ranks: int = 1, identity: dict[str, Any] | None = None) -> Path:
    path = folder / checkpoint.tag_of(step)
    path.mkdir(parents=True)
    (path / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"weights")
    (path / "random_rank_00000.safetensors").write_bytes(b"random")
    files = {p.name: sha256_file(p) for p in path.iterdir()}
    commit(
        path,
        {
            "step": step,
            "skipped": 1,
            "ranks": ranks,
            "identity": identity or {"a": 1},
            "files": files,
            "score": None,
            "score_by": None,
        },
    )
    return path


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path):
    assert resuming.latest_valid(tmp_path, {"a": 1}, ALONE) is None
    for step in (2, 4):
        make(tmp_path, step)
    found = resuming.latest_valid(tmp_path, {"a": 1}, ALONE)
    assert found is not None and (found.step, found.skipped) == (4, 1)


def test_an_unfinished_one_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make(tmp_path, 2)
    (make(tmp_path, 4) / checkpoint.COMMITTED).unlink()
    found = resuming.latest_valid(tmp_path, {"a": 1}, ALONE)
    assert found is not None and found.step == 2 and "step_00000004" in caplog.text


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str):
    make(tmp_path, 2)
    victim = make(tmp_path, 4) / "random_rank_00000.safetensors"
    victim.write_bytes(b"rundom") if harm == "change" else victim.unlink()
    found = resuming.latest_valid(tmp_path, {"a": 1}, ALONE)
    assert found is not None and found.step == 2
    assert "step_00000004" in caplog.text and "random_rank_00000.safetensors" in caplog.text


def test_another_runs_checkpoint_is_refused_naming_the_difference(tmp_path: Path):
    make(tmp_path, 2, identity={"train.lr": 1.0})
    with pytest.raises(ArtefactError, match=r"train\.lr: 1\.0 there, 2\.0 asked"):
        resuming.latest_valid(tmp_path, {"train": {"lr": 2.0}}, ALONE)


def test_another_number_of_ranks_is_told_to_the_loader_and_its_files_are_all_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Broken if one rank would trust files that ranks which are no more have written."""
    make(tmp_path, 2, ranks=4)
    found = resuming.latest_valid(tmp_path, {"a": 1}, ALONE)
    assert found is not None and found.ranks == 4
    (tmp_path / "step_00000002" / "zero_pp_rank_3_mp_rank_00_optim_states.pt").write_bytes(b"not of this checkpoint")
    assert resuming.latest_valid(tmp_path, {"a": 1}, ALONE) is None and "zero_pp_rank_3" in caplog.text


def test_another_number_of_ranks_is_refused_where_deepspeed_cannot_cut_anew(tmp_path: Path):
    """Optimizer states on NVMe: broken if the run went on from fresh moments."""
    make(tmp_path, 2, ranks=4)
    found = resuming.latest_valid(tmp_path, {"a": 1}, ALONE)
    assert found is not None
    engine = SimpleNamespace(zero_nvme_offload_optimizer=lambda: True)
    with pytest.raises(ArtefactError, match=r"dist\.ranks=4"):
        resuming.load(engine, None, found, ALONE)


def test_each_rank_hashes_its_own_files_and_together_all(tmp_path: Path):
    names = [f"zero_pp_rank_{r}_mp_rank_00_{kind}_states.pt" for r in (0, 1, 10) for kind in ("model", "optim")]
    names += [f"{kind}_rank_{r:05d}.safetensors" for r in (0, 1, 10) for kind in ("ema", "random")] + ["other.json"]
    names += [f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in (0, 1, 10)]
    for name in names:
        (tmp_path / name).touch()
    own = {rank: {*checkpoint.hashes(tmp_path, rank)} for rank in (0, 1, 10)}
    assert sorted(n for files in own.values() for n in files) == sorted(names)
    assert all("_1_" in n or "00001" in n for n in own[1])


@pytest.mark.slow
def test_resuming_past_a_torn_and_a_damaged_checkpoint_gives_the_unbroken_runs_losses(engine_cases: dict[str, Any]):
    """Of the checkpoints at 2, 4 and 5, 5 lacks its mark and 4 has a bad byte on rank 1: both ranks go back to 2."""
    found = engine_cases["2xresume"]
    assert found["kept"] == ["step_00000002", "step_00000004", "step_00000005"] and found["from"] == 2
    assert len(found["unbroken"]) == 5 and len(found["resumed"]) == 3
    for before, after in zip(found["unbroken"][2:], found["resumed"]):
        for name in ("loss", "grad_norm", "ema_distance", "lr", "policy_version"):
            assert before[name] == after[name], name
    assert found["equal"]
    output = engine_cases["2xoutput"]
    assert "step_00000004" in output and "is damaged" in output and "step_00000005" in output
    assert "test: 1 there, 2 asked" in found["refused"]


@pytest.mark.slow
def test_only_the_newest_checkpoints_are_kept(engine_cases: dict[str, Any]):
    folder = engine_cases["folders"][2] / "ema_float32" / "checkpoints"
    assert sorted(p.name for p in folder.glob("step_*")) == ["step_00000002", "step_00000003"]
    assert not (folder / "latest").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Broken if the save begins all the same, or the message lacks the folder or the size."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(9, 9, 5 * 2**20))
    with pytest.raises(UserError, match=r"step_00000003.*5 MiB are free.*Make room for 64 MiB"):
        checkpoint._make_room(tmp_path / tag_of(3), 64 * 2**20)
    assert not (tmp_path / tag_of(3)).exists()
    checkpoint._make_room(tmp_path / tag_of(3), 4 * 2**20)
    assert (tmp_path / tag_of(3)).is_dir()
