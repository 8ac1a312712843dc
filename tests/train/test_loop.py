"""The loop on real ZeRO-3 engines, 1 and 2 ranks, canned responses: alignment, averaged teacher, splits, skipped steps.

Its twin on a real server is test_train_real.py.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.config import Config, TrainConfig
from nopsd.data.prompts import TeacherPrompt
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.metrics import Clock
from nopsd.train.run import Step
from nopsd.train.sampling import SEEDS, check_rollouts, request_names
from tests.rounding import GRADIENT, LOSS, NOTHING, ZERO

pytestmark = pytest.mark.slow
SPLITS = ("1xmicro4", "2xmicro2", "2xmicro1", "1xmicro3")  # the last: micro-batches of unequal size


@pytest.mark.parametrize("split", SPLITS[1:])
def test_losses_do_not_depend_on_ranks_and_micro_batches(engine_cases: dict[str, Any], split: str):
    whole = [row["loss"] for row in engine_cases[SPLITS[0]]["rows"]]
    assert [row["loss"] for row in engine_cases[split]["rows"]] == pytest.approx(whole, abs=LOSS)
    assert min(whole) > 0.1 and len(set(whole)) == 3  # there was something to learn, and it moved


@pytest.mark.parametrize("split", SPLITS[1:])
def test_the_gradient_does_not_depend_on_ranks_and_micro_batches(engine_cases: dict[str, Any], split: str):
    """Compared tensor by tensor; dividing by local tokens, or by ranks once too often, moves it by a half."""
    whole, other = engine_cases[SPLITS[0]]["gradient"], engine_cases[split]["gradient"]
    assert whole.keys() == other.keys()
    for name, gradient in whole.items():
        assert float(gradient.norm()) > 0, name
        assert float((gradient - other[name]).norm()) < GRADIENT * float(gradient.norm()) + NOTHING, name
    for row, reference in zip(engine_cases[split]["rows"], engine_cases[SPLITS[0]]["rows"]):
        assert row["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-4)


def test_both_engines_are_sharded(engine_cases: dict[str, Any]):
    assert engine_cases["2xmicro2"]["sharded"]


def test_equal_prompts_and_a_frozen_teacher_give_no_loss_and_no_gradient(engine_cases: dict[str, Any]):
    aligned = engine_cases["2xalign"]["aligned"]
    assert abs(aligned["loss"]) < ZERO
    assert aligned["grad_norm"] < 1e-4 * engine_cases["2xalign"]["shifted"]["grad_norm"]
    assert aligned["top16_overlap"] == pytest.approx(1.0) and abs(aligned["entropy_gap"]) < ZERO


def test_a_teacher_one_token_off_is_far_away(engine_cases: dict[str, Any]):
    assert engine_cases["2xalign"]["shifted"]["loss"] > 0.1


@pytest.mark.parametrize(("case", "tolerance"), [("2xema", 1e-6), ("2xema_bf16", 2e-3)])
def test_the_teacher_engine_holds_the_closed_form(engine_cases: dict[str, Any], case: str, tolerance: float):
    """θ̄_3 of the teacher's gathered weights against the student's path; bfloat16 differs by its rounding alone."""
    found, rate = engine_cases[case], 0.1
    assert found["master"] == ["torch.float32"]
    path = found["path"]
    for name, teacher in found["teacher"].items():
        closed = (1 - rate) ** 3 * path[0][name].double()
        closed += sum(rate * (1 - rate) ** (3 - k) * path[k][name].double() for k in (1, 2, 3))
        assert (path[3][name] - path[0][name]).norm() > 0, name
        scale = float(closed.abs().max())
        assert float((teacher.double() - closed).abs().max()) <= tolerance * max(1.0, scale) * 2, name
    squares = [(path[3][n].double() - t.double()).pow(2).sum() for n, t in found["teacher"].items()]
    distance = math.sqrt(float(sum(squares)))
    assert found["rows"][-1]["ema_distance"] == pytest.approx(distance, rel=1e-3 if case == "2xema" else 0.05)


def test_the_teacher_computes_with_the_average_and_not_with_what_it_loaded(engine_cases: dict[str, Any]):
    """Weights written into shards that a gathered copy outlives would change nothing."""
    from transformers import AutoModelForCausalLM

    found = engine_cases["2xema"]
    model = AutoModelForCausalLM.from_pretrained(engine_cases["models"] / "tied", dtype=torch.float32).eval()
    ids = torch.tensor([found["probe"]])
    with torch.no_grad():
        base = model(ids).logits[0]
        for name, parameter in model.named_parameters():
            parameter.copy_(found["teacher"][name])
        averaged = model(ids).logits[0]
    assert (found["logits"] - averaged).abs().max() < 1e-4 < (found["logits"] - base).abs().max()


def test_a_non_finite_gradient_skips_the_step_on_every_rank_and_the_average_with_it(engine_cases: dict[str, Any]):
    found = engine_cases["2xnonfinite"]
    rows, path, master = found["rows"], found["path"], found["master"]
    assert [round(row["skipped_fraction"] * (i + 1)) for i, row in enumerate(rows)] == [0, 1, 1]
    assert math.isnan(rows[1]["grad_norm"]) and math.isfinite(rows[2]["grad_norm"])
    assert all(torch.equal(path[0][n], t) for n, t in path[1].items())
    assert all(torch.equal(master[0][n], t) for n, t in master[1].items())
    assert not all(torch.equal(path[1][n], t) for n, t in path[2].items())
    assert all(t.isfinite().all() for t in path[2].values())


def test_every_row_tells_what_the_log_promises(engine_cases: dict[str, Any]):
    row = engine_cases["2xmicro2"]["rows"][1]
    promised = (
        "loss reverse_kl forward_kl student_entropy teacher_entropy entropy_gap top16_overlap top16_student_mass "
        "response_length_mean response_length_max truncated_share demos_kept_mean demos_offered_mean grad_norm lr "
        "teacher_prompt_length ema_distance skipped_fraction time/rollout time/teacher time/student time/sync"
    )
    for name in promised.split():
        assert math.isfinite(row[name]), name
    assert row["policy_version"] == 1 and row["demos_kept_mean"] == 2 and row["demos_offered_mean"] == 3
    assert row["loss"] == pytest.approx(row["reverse_kl"], rel=1e-5)  # token_mean
    assert row["ema_distance"] > 0  # a frozen teacher: the way the student has gone


def rollout(uid: str = "a", sample: int = 0, response: int = 2, reason: str = "stop", version: int = 3) -> Rollout:
    return Rollout(uid, sample, [1], [response], "", reason, version)


def test_a_response_of_another_policy_version_is_refused():
    check_rollouts([rollout()], 3)
    with pytest.raises(StaleWeightsError, match="version 2, expected 3"):
        check_rollouts([rollout(), rollout(version=2)], 3)
    with pytest.raises(ServerError, match="aborted"):
        check_rollouts([rollout(reason="abort")], 3)


def test_a_question_that_comes_twice_in_a_step_is_sampled_with_two_seeds():
    assert request_names(["a", "b", "a"]) == ["a", "b", "a#2"]
    assert len({seed * SEEDS + step for seed in range(3) for step in range(500)}) == 1500


def test_samples_are_paired_with_their_own_prompts():
    prompts = {"a": TeacherPrompt([9], 1, 1), "b": TeacherPrompt([8], 1, 1)}
    rollouts = [rollout(u, s, response=s) for u in "ab" for s in range(2)]
    config = Config(train=TrainConfig(n=2))
    step = Step(0, ["a", "b"], rollouts, Clock())
    pairs = Distillation(teacher_prompts=prompts).examples(SimpleNamespace(config=config), step)  # type: ignore[arg-type]
    assert [(e.uid, e.teacher_prompt, e.response) for e in pairs] == [
        ("a", [9], [0]),
        ("a", [9], [1]),
        ("b", [8], [0]),
        ("b", [8], [1]),
    ]
