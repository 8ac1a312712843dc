"""Sums of a distillation step: the share of the loss on style tokens, by hand."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.config import Config, DistillConfig
from nopsd.errors import DataError
from nopsd.traces.schema import TOKEN_VALUES
from nopsd.train.algorithms.distill import Distillation, Target, needed_aux_prompts
from nopsd.train.losses.fused_linear import FusedResult
from nopsd.train.losses.tile import STATISTICS
from nopsd.train.metrics import StepSums
from nopsd.train.teachers import TeacherStates


def style_kl(style_ids: tuple[int, ...], entropies: tuple[float, ...] = (0.0,) * 4) -> dict[str, float]:
    """Four tokens of KL 1, 2, 3, 4; the last has weight 0 and must not count."""
    kl_N = torch.tensor([1.0, 2.0, 3.0, 4.0])
    sums = torch.zeros(len(STATISTICS), dtype=torch.float64)
    sums[STATISTICS.index("tokens")], sums[STATISTICS.index("reverse_kl")] = 3, 6.0
    batch: Any = SimpleNamespace(
        student=SimpleNamespace(names=("q",), ids_BT=None, rows_N=None, segments=None),
        weights_N=torch.tensor([1.0, 1.0, 1.0, 0.0]),
        targets_N=torch.tensor([7, 8, 7, 7]),
        served_N=torch.full((4,), torch.nan),
    )
    by_token_KN = torch.zeros(5, 4)
    by_token_KN[TOKEN_VALUES.index("student_entropy")] = torch.tensor(entropies)
    result = FusedResult(torch.tensor(6.0), sums, torch.zeros(4), kl_N, by_token_KN)
    algorithm = Distillation(teacher_prompts={}, style_ids=style_ids)
    algorithm.teacher = SimpleNamespace(weight=nullcontext)  # type: ignore[assignment]
    run: Any = SimpleNamespace(student=lambda **inputs: result)
    step = StepSums(algorithm.logged, "cpu")
    step.add(batch, algorithm.loss(run, batch, Target(TeacherStates(torch.empty(0)), {})))
    return step.by_name()


def test_reverse_kl_on_style_tokens_is_summed_over_tokens_that_count():
    found = style_kl((7,))
    assert found["style_kl"] / found["reverse_kl"] == pytest.approx(4 / 6)


def test_positions_of_high_entropy_are_counted_where_there_is_loss():
    """Entropies 0.1, 0.7, 0.9 and 2: two of the three tokens that count are above 0.672 nats."""
    assert style_kl((7,), (0.1, 0.7, 0.9, 2.0))["high_entropy"] == 2


def test_without_style_words_nothing_is_on_style_tokens():
    assert style_kl(())["style_kl"] == 0.0


def test_a_question_without_an_auxiliary_prompt_is_named_before_anything_is_loaded():
    config, given = Config(distill=DistillConfig(target="pmi")), {"ctx_only": {"a": [1], "c": [2]}, "random_ctx": {}}
    assert needed_aux_prompts(config, ["a"], given) == {"ctx_only": {"a": [1]}}
    assert needed_aux_prompts(Config(), ["a", "b"], {}) == {}
    with pytest.raises(DataError, match="question b has no ctx_only prompt"):
        needed_aux_prompts(config, ["a", "b"], given)
