"""Makers of what reports are drawn from: judged domains, training logs, a scored pool of two domains."""

import numpy as np
import pytest

from nopsd.config import EvalConfig
from nopsd.evaluation.metrics import majority_answer
from nopsd.evaluation.results import QuestionRow, result_from_rows
from nopsd.reporting.inspect.overlap import nearest_of, overlap
from nopsd.reporting.inspect.view import InspectView, Neighbourhood, QuestionText
from nopsd.reporting.views import PoolView

WIDTHS = (40, 20, 60)


def neuron_sets(questions=30, members=12, seed=0):
    """ids [N, K]: the first half draws from the lower neurons, the second from the upper ones; sizes differ."""
    rng = np.random.default_rng(seed)
    ids = np.full((questions, members), -1, np.int32)
    for row in range(questions):
        low = 0 if row < questions // 2 else 60
        size = members - row % 3
        ids[row, :size] = rng.choice(np.arange(low, low + 60), size, replace=False)
    return ids


def histogram(ids, widths=WIDTHS):
    ends = np.cumsum(widths)
    return np.array(
        [
            [sum(ends[layer] - widths[layer] <= i < ends[layer] for i in row if i >= 0) for layer in range(len(widths))]
            for row in ids.tolist()
        ]
    )


@pytest.fixture(scope="session")
def make_view():
    def make(**changes):
        ids = changes.pop("ids", neuron_sets())
        n, rng = len(ids), np.random.default_rng(3)
        counts = rng.integers(100, 200, n).astype(float)
        row = min(4, n - 1)
        threshold = float(np.sort(counts)[min(5, n - 1)])
        parts = {
            "title": "runs/x",
            "texts": [QuestionText(f"q{i:02d}", f"What is {i}?", f"It is <answer>{i}</answer>") for i in range(n)],
            "domains": ["biology" if i < n // 2 else "physics" for i in range(n)],
            "counts": counts,
            "lengths": rng.integers(10, 90, n),
            "members": histogram(ids),
            "widths": WIDTHS,
            "truncated": np.arange(n) == 4,
            "selected": counts <= threshold,
            "threshold": threshold,
            "signals": {"majority_conf": rng.random(n), "token_entropy": rng.random(n)},
            "overlap": overlap(ids, histogram(ids), WIDTHS),
            "neighbourhoods": [Neighbourhood(row, "asked for", nearest_of([row], ids, WIDTHS, 3)[0])],
        }
        return InspectView(**(parts | changes))

    return make


@pytest.fixture(scope="session")
def sets():
    ids = neuron_sets()
    return ids, histogram(ids), WIDTHS


def judged(domain, letters, bootstrap=200):
    """A domain's result whose questions got these letters, `letters[i][k]`; A is right."""
    rows = []
    for i, answers in enumerate(map(list, letters)):
        majority, share = majority_answer(answers)
        k, right = len(answers), [a == "A" for a in answers]
        rows.append(QuestionRow(f"{domain}{i}", answers, "A", right, majority, share, ["stop"] * k, [20] * k))
    return result_from_rows(domain, rows, EvalConfig(n=len(letters[0]), bootstrap=bootstrap))


def drawn_result(domain, rate, seed, questions=30):
    """A domain's result at about this accuracy."""
    rng = np.random.default_rng(seed)
    letters = [
        ["A" if rng.random() < rate else str(rng.choice(["B", "C"])) for _ in range(8)] for _ in range(questions)
    ]
    return judged(domain, letters, bootstrap=50)


def training_rows(steps, **overrides):
    return [
        {
            "step": s,
            "loss": 1 / (s + 1),
            "reverse_kl": 0.1,
            "forward_kl": 0.2,
            "student_entropy": 0.3,
            "teacher_entropy": 0.2,
            "entropy_gap": -0.1,
            "response_length_mean": 9.0,
            "response_length_max": 12,
            "truncated_share": 0.0,
            "grad_norm": 1.0,
            "top16_overlap": 0.9,
            "logprob_gap": 1e-6,
            "logprob_gap_max": 1e-5,
            **overrides,
        }
        for s in range(steps)
    ]


def pool_view(questions=80, **overrides):
    rng = np.random.default_rng(0)
    counts = rng.integers(50, 90, questions)
    view = {
        "counts": counts,
        "lengths": rng.integers(5, 40, questions),
        "selected": counts <= 58,
        "threshold": 58.0,
        "truncated": np.zeros(questions, bool),
        "correct": (counts < 70).astype(float),
    }
    return PoolView(**(view | overrides))


@pytest.fixture(scope="session")
def make_result():
    return drawn_result


@pytest.fixture(scope="session")
def make_judged():
    return judged


@pytest.fixture(scope="session")
def make_training():
    return training_rows


@pytest.fixture(scope="session")
def make_pool():
    return pool_view
