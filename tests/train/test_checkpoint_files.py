"""Which checkpoints stay, by which score, and what a checkpoint needs of the disk: no engines."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nopsd.config import TrainConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.train.checkpoint import LOWER_IS_BETTER, Keep, commit, keep_of, marks, mean_score, prune, tag_of
from nopsd.train.resuming import of_step


def make(folder: Path, scores: dict[int, float | None], by: str = "loss") -> None:
    for step, score in scores.items():
        (folder / tag_of(step)).mkdir(parents=True)
        (folder / tag_of(step) / "shard").write_bytes(b"x")
        commit(
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


def test_the_score_is_the_mean_of_the_steps_that_have_it():
    """Broken if a skipped step's NaN counts, or a step that has no such number."""
    assert mean_score([], "loss") is None and mean_score([{"loss": math.nan}], "loss") is None
    rows = [{"loss": value, "reverse_kl": 9.0} for value in (1.0, math.nan, 4.0)]
    assert mean_score([*rows, {}], "loss") == 2.5


def test_every_score_a_config_may_name_has_a_direction():
    """Broken if a new choice would be kept by its worst."""
    from nopsd.config import CHOICES

    assert set(CHOICES["train.best_by"]) == set(LOWER_IS_BETTER)
    kept = keep_of(TrainConfig(keep_best=2, best_by="probe/majority_share"))
    assert kept == Keep(2, 2, "probe/majority_share", lower=False)


def test_the_step_to_be_exported_is_kept_whatever_its_age(tmp_path: Path):
    """Broken if train.export=STEP finds its checkpoint gone when the training is over."""
    make(tmp_path, {2: None, 4: None, 6: None})
    prune(tmp_path, 6, keep_of(TrainConfig(keep_checkpoints=1, export="2")))
    assert steps(tmp_path) == [2, 6]
    assert keep_of(TrainConfig(export="last")).step is None


def test_a_named_step_is_found_and_a_missing_one_is_said(tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch):
    """Broken if another step's weights are exported under the name of the one that was asked for."""
    make(tmp_path, {2: None, 4: 0.1})
    monkeypatch.setattr("nopsd.train.resuming.damage", lambda *_: "")  # these hold no shards
    assert of_step(tmp_path, {}, 2, alone).step == 2
    with pytest.raises(ArtefactError, match="no whole checkpoint of step 3"):
        of_step(tmp_path, {}, 3, alone)
