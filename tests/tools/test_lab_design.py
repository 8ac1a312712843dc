"""The factorial study's cells, effects and conclusions, on gains made by hand."""

from __future__ import annotations

import importlib.util
import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lab_design.py"


@pytest.fixture(scope="module")
def design():
    spec = importlib.util.spec_from_file_location("lab_design", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fraction_is_balanced(design):
    """Each selector and retriever meets both divergences and both teachers once; every block is of an explored seed."""
    names = [name.split("+") for name in design.cells()]
    for pair in itertools.product(design.SELECTORS, design.RETRIEVERS):
        rest = [name[2:] for name in names if tuple(name[:2]) == pair]
        assert sorted(d for d, _ in rest) == ["forward_kl", "reverse_kl"] and {t for _, t in rest} == {"frozen", "live"}
    assert len(names) == 24 and len(design.blocks()) == 10 and {seed for _, seed in design.blocks()} == set(range(5))


def gains(effects, noise=0.0, seed=0):
    draw = random.Random(seed)
    return lambda name: sum(effects.get(level, 0) for level in [name, *name.split("+")]) + noise * draw.gauss(0, 1)


def test_an_effect_is_found_beside_the_others(design):
    """Exactly, without noise: a factor left out of the fit would leak into it."""
    of = gains({"neuron_count": 0.05, "live": -0.03, "forward_kl": 0.07, "fixed": 0.02})
    rows = {name: of(name) for name in design.cells()}
    assert design.contrast(rows, 3, "live", "frozen") == pytest.approx(-0.03)
    assert design.contrast(rows, 2, "forward_kl", "reverse_kl") == pytest.approx(0.07)
    assert design.contrast(rows, 0, "neuron_count", "random") == pytest.approx(0.05)
    assert design.contrast(rows, 1, "fixed", "random") == pytest.approx(0.02)


def test_an_effect_within_one_selector_is_that_selectors(design):
    rows = {}
    for name in design.cells():
        selector, retriever, *_ = name.split("+")
        rows[name] = 0.04 * (retriever == "neuron_jaccard") * (1 if selector == "neuron_density" else -1)
    assert design.contrast(rows, 1, "neuron_jaccard", "random", "neuron_density") == pytest.approx(0.04)
    assert design.contrast(rows, 1, "neuron_jaccard", "random", "neuron_count") == pytest.approx(-0.04)


def test_conclusions(design):
    assert design.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    small = [0.03 + d for d in (-0.01, 0, 0.01)]
    assert design.conclusion(small, 1, 0.01, 0.02)[0] == "supported"
    assert design.conclusion(small, -1, 0.01, 0.02)[0] == "refuted"
    assert design.conclusion([-0.001, 0, 0.001], 1, 0.9, 0.02)[0] == "refuted"  # shown to be small
    assert design.conclusion([-0.2, 0, 0.2], 1, 0.9, 0.02)[0] == "undecided"
    assert design.conclusion([-0.01, -0.012, -0.008], 0, 0.01, 0.02)[0] == "supported"  # no worse than by 2 points
    assert design.conclusion([-0.1, -0.11, -0.09], 0, 0.01, 0.02)[0] == "refuted"


def test_the_table_has_a_row_a_hypothesis_once_blocks_are_whole(design):
    of, lines = gains({"forward_kl": 0.2}, 0.01), []
    for domain, seed in design.blocks():
        for name in design.cells():
            values = {key: random.Random(f"{name}{key}").random() for key in ("mostly_wrong", "diversity", "coverage")}
            values |= {key: random.Random(f"{name}{key}").random() for key in ("gap", "entropy_gap", "wrong_kl")}
            lines.append({"domain": domain, "seed": seed, "row": name, "gain": of(name), **values})
    text = design.analysed(lines)
    assert text.startswith("n = 10 blocks of 10") and text.count("\n| ") == 1 + len(design.HYPOTHESES) == 14
    (row,) = [line for line in text.splitlines() if line.startswith("| forward KL with capped")]
    assert row.endswith("| supported |") and "+20." in row
    assert "1 of 10 blocks are whole" in design.analysed(lines[:24])


def test_what_a_context_is(design):
    """Two demonstrations of disjoint sets, one right: diversity 1, not mostly wrong; a quarter of the pool is shown."""
    near = [SimpleNamespace(uid="a"), SimpleNamespace(uid="b")]
    first = {"reverse_kl": 0.5, "entropy_gap": -0.1, "student_entropy": 0.2, "response_length_mean": 9.0}
    right = {"a": 1.0, "b": 0.0, **dict.fromkeys("cdefgh", 0.0)}
    found = design.measured({"q": near}, right, {"a": frozenset({1}), "b": frozenset({2})}, first)
    assert (found["diversity"], found["mostly_wrong"], found["coverage"], found["shown_right"]) == (1, 0, 0.25, 0.5)
