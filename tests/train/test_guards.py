"""nopsd.train.guards on made-up rows: each guard fires on its own sign, when it should, and on nothing else."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest

from nopsd.config import Config, GuardConfig, to_plain, validate
from nopsd.train.guards import WATCHES, Guards

SOUND = {
    "response_length_mean": 100.0,
    "student_entropy": 0.3,
    "repeated_4grams": 0.05,
    "reverse_kl": 0.2,
    "probe/unparsed_share": 0.1,
    "base_kl": 0.01,
}
SICK = {
    "min_length_ratio": {"response_length_mean": 19.0},
    "max_length_ratio": {"response_length_mean": 501.0},
    "min_entropy": {"student_entropy": 5e-5},
    "max_entropy_ratio": {"student_entropy": 3.1},
    "max_repeated": {"repeated_4grams": 0.6},
    "max_unparsed": {"probe/unparsed_share": 0.95},
    "max_kl_ratio": {"reverse_kl": 2.1},
    "max_kl_base": {"base_kl": 0.6},
}
AT_THE_LIMIT = {
    "response_length_mean": 20.0,
    "student_entropy": 3.0,
    "repeated_4grams": 0.5,
    "reverse_kl": 2.0,
    "probe/unparsed_share": 0.9,
    "base_kl": 0.5,
}


def config(**changes: object) -> GuardConfig:
    return GuardConfig(**{"patience": 3, "baseline_steps": 2, "max_kl_base": 0.5, **changes})  # type: ignore[arg-type]


def watched(guards: Guards, *rows: dict[str, float], start: int = 0) -> list[dict[str, float]]:
    return [guards.observe(start + i, row) for i, row in enumerate(rows)]


def test_every_limit_of_the_configuration_has_a_guard_and_a_sign_here():
    """Broken if a key is added that nothing watches."""
    keys = set(to_plain(Config())["guard"]) - {"patience", "stop", "baseline_steps"}
    assert keys == set(WATCHES) == set(SICK)


@pytest.mark.parametrize("key", sorted(SICK))
def test_each_guard_stops_on_its_own_sign_after_patience_steps_and_no_other_fires(key: str):
    """Broken if a guard reads another number, compares the wrong way, or stops early or late."""
    guards, sick = Guards(config()), SOUND | SICK[key]
    watched(guards, SOUND, SOUND)
    for streak in (1, 2, 3):
        assert guards.stopped is None and guards.healthy is (streak == 1)
        row = guards.observe(1 + streak, sick)
        assert row == {f"guard/{other}": float(streak if other == key else 0) for other in WATCHES}
    assert guards.stopped is not None and guards.stopped.step == 5
    assert f"guard.{key}" in guards.stopped.reason and "3 " in guards.stopped.reason


def test_healthy_rows_and_rows_at_the_limit_never_fire():
    """Broken if a limit itself counts as passed, or healthy training is stopped."""
    guards = Guards(config())
    rows = watched(guards, SOUND, SOUND, *[AT_THE_LIMIT] * 9)
    assert guards.stopped is None and all(set(row.values()) == {0} for row in rows)


def test_a_healthy_step_in_between_begins_the_count_anew():
    """Broken if passings are counted in all and not in a row."""
    guards, sick = Guards(config()), SOUND | SICK["max_repeated"]
    watched(guards, *[SOUND, SOUND, sick, sick] * 5)
    assert guards.stopped is None


def test_a_row_without_the_number_neither_counts_nor_clears():
    """Probes come every so many steps, and a skipped step's numbers are NaN: broken if either ends a streak."""
    guards, between = Guards(config()), {k: v for k, v in SOUND.items() if not k.startswith("probe/")}
    sick = between | SICK["max_unparsed"]
    watched(guards, SOUND, sick, between, between, sick, dict.fromkeys(SOUND, math.nan))
    assert guards.stopped is None and guards.streaks["max_unparsed"] == 2
    watched(guards, sick, start=6)
    assert guards.stopped is not None and "3 probes in a row" in guards.stopped.reason


def test_relative_limits_wait_for_the_first_steps_and_have_floors():
    """Broken if step 0 is judged against itself, or a narrow task's entropy of 0.01 nats may not rise tenfold."""
    guards = Guards(config())
    tiny = {"response_length_mean": 0.0, "student_entropy": 0.01, "reverse_kl": 0.001}
    assert guards.limit("max_entropy_ratio") is None
    watched(guards, tiny)
    assert guards.limit("max_length_ratio") is None
    watched(guards, {**tiny, "student_entropy": 0.03})
    assert guards.limit("max_entropy_ratio") == pytest.approx(1.0)  # 10 times the floor, not 10 x 0.02
    assert guards.limit("max_kl_ratio") == pytest.approx(1.0) and guards.limit("max_length_ratio") == 5.0
    watched(guards, {"student_entropy": 9.0})  # later rows don't move it
    assert guards.limit("max_entropy_ratio") == pytest.approx(1.0)


def test_answers_that_could_not_be_read_from_the_start_are_no_collapse():
    """Questions whose answers have no form to be read by: broken if every such run is stopped."""
    guards = Guards(config())
    rows = watched(guards, *[SOUND | {"probe/unparsed_share": 1.0}] * 6)
    assert guards.stopped is None and rows[-1]["guard/max_unparsed"] == 0


def test_a_limit_of_null_is_not_watched_and_not_logged():
    guards = Guards(config(max_repeated=None))
    row = watched(guards, SOUND, *[SOUND | SICK["max_repeated"]] * 5)[-1]
    assert guards.stopped is None and "guard/max_repeated" not in row


def test_stop_false_warns_and_goes_on(caplog: pytest.LogCaptureFixture):
    """Broken if it stops, falls silent, or withholds scores from checkpoints."""
    guards = Guards(config(stop=False))
    with caplog.at_level(logging.WARNING):
        watched(guards, SOUND, SOUND, *[SOUND | SICK["min_entropy"]] * 5)
    assert guards.stopped is None and guards.healthy and guards.streaks["min_entropy"] == 5
    assert len(caplog.records) == 1 and "guard.min_entropy" in caplog.text and "stop the run" not in caplog.text


def test_the_first_passing_warns_at_once_and_the_stop_once_more(caplog: pytest.LogCaptureFixture):
    """Broken if the warning comes with the stop alone, at every step, or from every rank."""
    sick = SOUND | SICK["max_repeated"]
    with caplog.at_level(logging.WARNING):
        guards = Guards(config())
        watched(guards, SOUND, SOUND, sick)
        assert len(caplog.records) == 1
        assert "step 2" in caplog.text and "0.6" in caplog.text and "guard.max_repeated" in caplog.text
        assert guards.summary() == {"guard": "max_repeated 1/3"}
        watched(guards, sick, sick, start=3)
        assert len(caplog.records) == 2 and "stopped after 5 steps" in caplog.text
        caplog.clear()
        other = Guards(config())
        for step, row in enumerate([SOUND, SOUND, sick, sick, sick]):
            other.observe(step, row, log_it=False)
        assert other.stopped == guards.stopped and not caplog.records


@pytest.mark.parametrize("at", range(1, 7))
def test_a_resumed_run_keeps_baselines_streaks_and_the_last_good_checkpoint(at: int):
    """Broken if a kill every few steps would keep a collapse from ever being noticed."""
    rows = [SOUND, {**SOUND, "response_length_mean": 60.0}, SOUND, SOUND, *[SOUND | SICK["max_kl_ratio"]] * 3]
    unbroken, resumed = Guards(config()), Guards(config())
    whole = watched(unbroken, *rows)
    watched(resumed, *rows[:at])
    saved = json.loads(json.dumps(resumed.state(at)))
    resumed = Guards(config(), saved)
    assert watched(resumed, *rows[at:], start=at) == whole[at:]
    assert resumed.stopped == unbroken.stopped is not None
    assert resumed.limit("max_length_ratio") == 5 * 80.0
    assert resumed.last_good_step == (at if at < 5 else None)


def test_the_last_good_step_is_the_last_checkpoint_before_the_first_sign():
    guards, sick = Guards(config()), SOUND | SICK["max_repeated"]
    steps = []
    for step, row in enumerate([SOUND, SOUND, SOUND, sick, sick]):
        guards.observe(step, row)
        steps.append(guards.state(step + 1)["last_good_step"])
    assert steps == [1, 2, 3, 3, 3] and not guards.healthy


def test_patience_below_one_is_refused():
    from nopsd.errors import ConfigError

    settings = Config(guard=GuardConfig(patience=0))
    with pytest.raises(ConfigError, match="guard.patience"):
        validate(settings)


def test_guards_are_conduct_and_no_part_of_what_a_checkpoint_or_stage_was_made_from():
    """Broken if other limits forbid to continue a run, or make a finished one stale."""
    from nopsd.stages.registry import STAGES
    from nopsd.train.algorithms.distill import Distillation
    from nopsd.train.trainer import identity_of

    def identity(config: Config) -> Any:
        inputs: Any = SimpleNamespace(
            config=config, selected=[], neurons=None, algorithm=Distillation(teacher_prompts={})
        )
        return identity_of(inputs)

    default, other = Config(), Config(guard=GuardConfig(patience=9, max_repeated=None))
    assert identity(default) == identity(other)
    assert not [key for stage in STAGES for key in stage.config_keys if key.split(".")[0] == "guard"]
