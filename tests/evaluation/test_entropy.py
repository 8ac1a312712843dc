"""nopsd.evaluation.entropy: three estimators against float64 loops, and the paired gap."""

import math

import numpy as np
import pytest
import torch

from nopsd.errors import DataError
from nopsd.evaluation.entropy import ESTIMATORS, entropy_gap, question_means, token_entropies


@pytest.mark.parametrize("vocabulary", [50, 12])
def test_estimators_against_loops(vocabulary):
    """Breaks if an estimator sums over other tokens, or reads another position's logits at a chunk's edge."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator)
    weight, bias = torch.randn(vocabulary, 5, generator=generator), torch.randn(vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (7,), generator=generator)
    found = token_entropies(hidden, targets, weight, bias, lambda z: z, chunk=3)
    for t in range(7):
        z = [
            float(sum(h * w for h, w in zip(hidden[t].tolist(), row)) + b)
            for row, b in zip(weight.tolist(), bias.tolist())
        ]
        total = sum(map(math.exp, z))
        p = sorted((math.exp(v) / total for v in z), reverse=True)
        nll = -math.log(math.exp(z[targets[t]]) / total)
        wanted = (-sum(q * math.log(q) for q in p), -sum(q * math.log(q) for q in p[:20]), nll)
        assert found[:, t].tolist() == pytest.approx(wanted, abs=1e-4)
    assert ESTIMATORS == ("shannon", "topk20", "nll")


def test_the_gap_is_paired_by_question():
    """Breaks if prompts with more rollouts weigh more, or sides are not those of the same prompts."""
    student = question_means(["a", "a", "b", "c"], [0.1, 0.3, 0.5, float("nan")])
    teacher = question_means(["a", "b", "d"], [0.1, 0.7, 9.0])
    gap = entropy_gap(student, teacher, resamples=200, seed=1)
    assert (gap.questions, gap.student, gap.teacher) == (2, pytest.approx(0.35), pytest.approx(0.4))
    assert gap.gap.value == pytest.approx(0.05) and gap.gap.low == pytest.approx(-0.1)
    assert gap.gap.high == pytest.approx(0.2)
    constant = entropy_gap({str(i): float(i) for i in range(9)}, {str(i): i - 0.5 for i in range(9)})
    assert (constant.gap.low, constant.gap.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    with pytest.raises(DataError):
        entropy_gap({"a": 1.0}, {"b": np.pi})
