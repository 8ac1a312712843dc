"""Checkpoints against damage, a full disk, another number of ranks; the best kept and exported. Real ZeRO-3 engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nopsd.engine.distributed import Ranks
from nopsd.train import resuming
from nopsd.train.checkpoint import COMMITTED, tag_of

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
ALONE = Ranks(0, 1, torch.device("cpu"))


def test_the_best_checkpoint_outlives_newer_ones_and_its_weights_are_exported(lost: Any):
    """Scores 3, 1, 2 with one newest and one best kept: broken if the step exported is the last, or a mix."""
    out, found = lost[0], lost[1][2]["best"]
    steps = [name for name in found["kept"] if name.startswith("step_")]
    assert steps == [tag_of(2), tag_of(3)] and found["step"] == 2
    assert found["newest"] == 3  # a resume goes on from the newest, not from the best
    exported = load_file(out / "best" / "export" / "model.safetensors")
    for name, tensor in exported.items():
        assert torch.equal(tensor, found["path"][1][name]), name
    assert any(not torch.equal(t, found["path"][2][n]) for n, t in exported.items())
    mark = json.loads((out / "best" / "checkpoints" / tag_of(2) / COMMITTED).read_text())
    assert (mark["score"], mark["score_by"]) == (1.0, "loss")


def test_a_full_disk_ends_every_rank_with_the_remedy_and_leaves_the_older_checkpoint(lost: Any):
    """Rank 1 alone can't write: broken if rank 0 hangs or goes on, or the half-written folder stays or counts."""
    found = lost[1][2]["disk_full"]
    for error in found["errors"]:
        assert tag_of(2) in error and "rank 1" in error and "Make room for" in error and "start again" in error
    steps = [[n for n in found[when] if n.startswith("step_")] for when in ("left", "after")]
    assert steps == [[tag_of(1)], [tag_of(1), tag_of(2)]] and found["found"] == 1
    assert len(found["rows"]) == 1  # with room again it goes on


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "shorten":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) * 2 // 3] ^= 1 << 3
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "shorten", "empty", "remove"])
def test_harm_to_any_file_is_found_and_the_one_before_is_taken(
    lost: Any, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
):
    """Every file of a 2-rank checkpoint in turn, and its mark: broken if DeepSpeed would be given a damaged one."""
    source = lost[0] / "two" / "checkpoints"
    shutil.copytree(source, tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / tag_of(4)
    names = sorted(p.name for p in newest.iterdir())
    assert len(names) == 10, names  # model, optimizer, EMA and random states of 2 ranks, the extras, and the mark
    for name in names:
        caplog.clear()
        harm(newest / name, how)
        found = resuming.latest_valid(tmp_path / "checkpoints", {"test": 1}, ALONE)
        assert found is not None and found.step == 2, name
        assert tag_of(4) in caplog.text and (name in caplog.text), caplog.text
        shutil.copyfile(source / tag_of(4) / name, newest / name)
    whole = resuming.latest_valid(tmp_path / "checkpoints", {"test": 1}, ALONE)
    assert whole is not None and (whole.step, whole.ranks) == (4, 2)


def test_no_flipped_bit_of_the_mark_goes_unseen(lost: Any, tmp_path: Path):
    """A digit of `skipped` or `ranks` that flips still gives JSON: broken if the mark doesn't vouch for itself."""
    path = tmp_path / tag_of(4)
    shutil.copytree(lost[0] / "two" / "checkpoints" / tag_of(4), path)
    true = (path / COMMITTED).read_bytes()
    for place in range(0, len(true), 7):
        data = bytearray(true)
        data[place] ^= 1
        (path / COMMITTED).write_bytes(data)
        assert resuming.latest_valid(tmp_path, {"test": 1}, ALONE) is None, place


def test_a_run_whose_checkpoints_are_all_damaged_starts_afresh_rather_than_crash(lost: Any, tmp_path: Path):
    """Broken if the first damaged one ends the search."""
    shutil.copytree(lost[0] / "two" / "checkpoints", tmp_path / "c")
    for path in (tmp_path / "c").glob("step_*"):
        (path / COMMITTED).write_bytes(b"\xff\xfe{not json")
    assert resuming.latest_valid(tmp_path / "c", {"test": 1}, ALONE) is None


@pytest.fixture(autouse=True)
def _warnings_are_heard(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    caplog.set_level("WARNING")
    return lambda: None
