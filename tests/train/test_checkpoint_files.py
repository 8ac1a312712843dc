"""Which checkpoints stay, what the score is, and what a checkpoint needs of the disk: no engines."""

from __future__ import annotations

import math
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nopsd.config import Config, TrainConfig, validate
from nopsd.errors import ConfigError, UserError
from nopsd.train import checkpoint
from nopsd.train.checkpoint_files import LOWER_IS_BETTER, Keep, Score, keep_of, marks, prune, tag_of, write_mark
from nopsd.train.rank_state import reshard


def make(folder: Path, scores: dict[int, float | None], by: str = "loss") -> None:
    for step, score in scores.items():
        (folder / tag_of(step)).mkdir(parents=True)
        (folder / tag_of(step) / "shard").write_bytes(b"x")
        write_mark(
            folder / tag_of(step),
            {
                "step": step,
                "skipped": 0,
                "ranks": 1,
                "identity": {},
                "files": {},
                "score": score,
                "score_by": by,
            },
        )


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step_")) for p in folder.glob("step_*"))


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(1), [5]),
        (Keep(2), [4, 5]),
        (Keep(9), [1, 2, 3, 4, 5]),
        (Keep(1, 1, "loss"), [4, 5]),
        (Keep(1, 2, "loss"), [2, 4, 5]),
        (Keep(1, 9, "loss"), [1, 2, 4, 5]),
        (Keep(1, 1, "loss", lower=False), [1, 5]),
        (Keep(1, 1, "reverse_kl"), [5]),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path: Path, keep: Keep, left: list[int]):
    """Step 3 has no score; 2 and 4 tie, and the newer wins. Broken if a best one is pruned."""
    make(tmp_path, {1: 3.0, 2: 1.0, 3: None, 4: 1.0, 5: 2.0})
    prune(tmp_path, 5, keep)
    assert steps(tmp_path) == left


def test_a_damaged_later_checkpoint_never_pushes_out_the_one_just_written(tmp_path: Path):
    """After a resume from 2, past a damaged 6, to 4: broken if keeping one keeps 6 and removes 4."""
    make(tmp_path, {2: None, 4: None, 6: None})
    prune(tmp_path, 4, Keep(1))
    assert steps(tmp_path) == [4]


def test_half_written_and_garbled_ones_go_once_a_whole_one_is_there(tmp_path: Path):
    """Broken if kills fill the disk with folders that nothing can read."""
    make(tmp_path, {2: None, 4: None})
    (tmp_path / tag_of(1)).mkdir()
    (tmp_path / tag_of(2) / "COMMITTED.json").write_text("[")
    prune(tmp_path, 4, Keep(2))
    assert steps(tmp_path) == [4] and [m["step"] for m in marks(tmp_path)] == [4]


def test_the_score_is_the_mean_since_the_last_checkpoint():
    """Broken if steps before the last checkpoint, or a skipped step's NaN, count."""
    score = Score("loss")
    assert score.take() is None
    for value in (1.0, math.nan, 4.0):
        score.add({"loss": value, "reverse_kl": 9.0})
    score.add({})
    assert score.take() == 2.5 and score.take() is None


def test_every_score_a_config_may_name_has_a_direction():
    """Broken if a new choice would be kept by its worst."""
    from nopsd.config import CHOICES

    assert set(CHOICES["train.best_by"]) == set(LOWER_IS_BETTER)
    kept = keep_of(TrainConfig(keep_best=2, best_by="probe/majority_share"))
    assert kept == Keep(2, 2, "probe/majority_share", lower=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export": "best"}, "keep_best=1"),
        ({"keep_best": 1, "best_by": "probe/majority_share", "probe_every": 0}, "probe_every"),
        ({"keep_best": 1, "best_by": "probe/majority_share", "probe_every": 50}, "checkpoint_every"),
        ({"best_by": "accuracy"}, "best_by"),
    ],
)
def test_settings_that_keep_no_best_are_refused_at_the_start(changes: dict[str, object], message: str):
    """Broken if a run learns at its end that there is no best checkpoint; accuracy needs labels, so it is no choice."""
    config = Config(train=TrainConfig(**changes))
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Broken if the save begins all the same, or the message lacks the folder or the size."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(9, 9, 5 * 2**20))
    with pytest.raises(UserError, match=r"step_00000003.*5 MiB are free.*Make room for 64 MiB"):
        checkpoint._make_room(tmp_path / tag_of(3), 64 * 2**20)
    assert not (tmp_path / tag_of(3)).exists()
    checkpoint._make_room(tmp_path / tag_of(3), 4 * 2**20)
    assert (tmp_path / tag_of(3)).is_dir()


@pytest.mark.parametrize(("old", "new"), [(2, 1), (2, 4), (3, 2), (1, 3), (4, 7)])
def test_shards_are_cut_anew_at_the_right_elements(tmp_path: Path, old: int, new: int):
    """Of 10 elements, with padding that is noise: broken if padding leaks in or an element is lost or shifted."""
    whole = torch.arange(1.0, 11.0)
    width = -(-10 // old)
    padded = torch.cat([whole, torch.full((old * width - 10,), 99.0)])
    files = [tmp_path / f"{r}.safetensors" for r in range(old)]
    for r, file in enumerate(files):
        save_file({"w": padded[r * width : (r + 1) * width].clone()}, file)
    parts = [reshard(files, "w", r, torch.empty(-(-10 // new))) for r in range(new)]
    assert torch.equal(torch.cat(parts)[:10], whole)
