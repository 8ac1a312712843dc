"""The factorial study that docs/preregistration.md describes: its cells and blocks, what is measured of a training, and
how effects are estimated and tested. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

SELECTORS = {
    "neuron_count": "select.selector=neuron_count",
    "random": "select.selector=random",
    "neuron_density": "select.selector=neuron_density",
    "kcenter": "select.selector=kcenter,select.space=jaccard",
}
RETRIEVERS = {name: f"context.retriever={name}" for name in ("neuron_jaccard", "random", "fixed")}
DIVERGENCES = {
    "reverse_kl": "distill.divergence=reverse_kl",
    "forward_kl": "distill.divergence=forward_kl,distill.pointwise_clip=0.05",
}
TEACHERS = {name: f"teacher.kind={name}" for name in ("frozen", "live")}
FACTORS = (SELECTORS, RETRIEVERS, DIVERGENCES, TEACHERS)
DOMAINS = ("biology", "chemistry", "materials", "physics")
EXPLORED = range(5)  # seeds; 5 to 9 are unopened
SAME = 0.02  # points of gain, either way, that count as none
WEAK = 0.2  # of a rank correlation, likewise
LEVEL = 0.05


def cells() -> dict[str, str]:
    """Row name -> settings of the 24 combinations whose levels' places have an even sum."""
    found = {}
    for levels in itertools.product(*(factor.items() for factor in FACTORS)):
        places = [list(factor).index(name) for factor, (name, _) in zip(FACTORS, levels)]
        if sum(places) % 2 == 0:
            found["+".join(name for name, _ in levels)] = ",".join(settings for _, settings in levels)
    return found


def blocks() -> list[tuple[str, int]]:
    """(domain, seed) of the ten blocks: those whose numbers have an even sum."""
    return [(domain, seed) for seed in EXPLORED for place, domain in enumerate(DOMAINS) if (place + seed) % 2 == 0]


def contrast(rows: Mapping[str, float], factor: int, high: str, low: str, within: str | None = None) -> float:
    """An effect in one block: `high` less `low` of a factor, by least squares on all factors.

    Args:
        rows: Cell -> gain, of all cells of the block.
        factor: Its place in FACTORS.
        high, low: Two of its levels.
        within: A selector: the factor's effect there, with the interaction of selector and factor estimated.
    """
    names = [name.split("+") for name in rows]
    columns = [np.ones(len(names))]
    labels: list[tuple[int, str] | tuple[str, str]] = [(-1, "")]
    for place, levels in enumerate(FACTORS):
        for level in list(levels)[1:]:
            columns.append(np.array([float(name[place] == level) for name in names]))
            labels.append((place, level))
    if within is not None:
        for selector in list(SELECTORS)[1:]:
            for level in list(FACTORS[factor])[1:]:
                columns.append(np.array([float(n[0] == selector and n[factor] == level) for n in names]))
                labels.append((selector, level))
    solution, *_ = np.linalg.lstsq(np.stack(columns, 1), np.array(list(rows.values())), rcond=None)
    by_label = dict(zip(labels, solution, strict=True))

    def value(level: str) -> float:
        return float(by_label.get((factor, level), 0.0) + by_label.get((within, level), 0.0))

    return value(high) - value(low)


def rank_correlation(rows: Mapping[str, float], measure: Mapping[str, float]) -> float:
    """Spearman's ρ of a measure and the gain over a block's cells; 0 where either doesn't vary."""
    found = stats.spearmanr([measure[name] for name in rows], list(rows.values())).statistic
    return 0.0 if np.isnan(found) else float(found)


# What each hypothesis says: its contrast or measure, and the sign that it claims (0: no worse).
HYPOTHESES: tuple[tuple[str, tuple[Any, ...], int], ...] = (
    ("near demonstrations cost with the paper's questions", (1, "neuron_jaccard", "random", "neuron_count"), -1),
    ("near demonstrations help with the densest questions", (1, "neuron_jaccard", "random", "neuron_density"), 1),
    ("one context for all does as well as a draw for each", (1, "fixed", "random"), 0),
    ("the paper's questions are better than random ones", (0, "neuron_count", "random"), 1),
    ("covering the pool does as well as the paper's choice", (0, "kcenter", "neuron_count"), 0),
    ("forward KL with capped terms gains more", (2, "forward_kl", "reverse_kl"), 1),
    ("a teacher that moves with the student gains less", (3, "live", "frozen"), -1),
    ("contexts with wrong majorities cost", ("mostly_wrong",), -1),
    ("more different demonstrations gain more", ("diversity",), 1),
    ("more of the pool shown gains more", ("coverage",), 1),
    ("a larger gap at the start gains more", ("gap",), 1),
    ("a teacher surer than the student gains more", ("entropy_gap",), -1),
    ("what is corrected is wrong answers", ("wrong_kl",), 1),
)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[int(place)] = most
    return adjusted


def conclusion(estimates: Sequence[float], sign: int, p: float, small: float) -> tuple[str, float, float]:
    """`supported`, `refuted` or `undecided`, and the 95 % interval of the mean over blocks.

    Args:
        estimates: One a block.
        sign: What is claimed: above 0, below, or (0) not below −small.
        p: After correction, of the mean being 0.
        small: What counts as none.
    """
    n, mean = len(estimates), float(np.mean(estimates))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(estimates, ddof=1) / np.sqrt(n))
    low, high = mean - half, mean + half
    if sign == 0:
        return ("supported" if low > -small else "refuted" if high < -small else "undecided"), low, high
    if p < LEVEL:
        return ("supported" if mean * sign > 0 else "refuted"), low, high
    return ("refuted" if -small < low and high < small else "undecided"), low, high


def analysed(lines: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown row a hypothesis, over the blocks of which all cells are there; says how many that are."""
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["domain"], line["seed"]), {})[line["row"]] = line
    whole = [rows for rows in found.values() if set(cells()) <= set(rows)]
    if len(whole) < 2:
        return f"{len(whole)} of {len(blocks())} blocks are whole: nothing is tested before two are"
    estimates = []
    for _, asked, _ in HYPOTHESES:
        of_block = []
        for rows in whole:
            gains = {name: float(rows[name]["gain"]) for name in cells()}
            if len(asked) > 1:
                of_block.append(contrast(gains, *asked))
            else:
                of_block.append(rank_correlation(gains, {name: float(rows[name][asked[0]]) for name in cells()}))
        estimates.append(of_block)
    p_values = [float(np.nan_to_num(stats.ttest_1samp(one, 0.0).pvalue, nan=1.0)) for one in estimates]
    text = [
        f"n = {len(whole)} blocks of {len(blocks())}",
        "",
        "| hypothesis | mean [95 %] | p (Holm) | |",
        "|---" * 4 + "|",
    ]
    for (claim, asked, sign), of_block, p in zip(HYPOTHESES, estimates, holm(p_values)):
        is_effect = len(asked) > 1
        word, low, high = conclusion(of_block, sign, p, SAME if is_effect else WEAK)
        scale, unit = (100, " points") if is_effect else (1, "")
        interval = f"{np.mean(of_block) * scale:+.2f} [{low * scale:+.2f}, {high * scale:+.2f}]{unit}"
        text.append(f"| {claim} | {interval} | {p:.3f} | {word} |")
    return "\n".join(text)


def measured(
    contexts: Mapping[str, Sequence[Any]],
    right: Mapping[str, float],
    sets: Mapping[str, frozenset[int]],
    first: Mapping[str, float],
) -> dict[str, float]:
    """What could explain a training's gain, as docs/preregistration.md names it.

    Args:
        contexts: Question -> its demonstrations.
        right: Pool question -> share of right answers.
        sets: Pool question -> its neuron set.
        first: The first step's row of the log.
    """
    shown = [[near.uid for near in nears] for nears in contexts.values()]
    pairs = [(a, b) for uids in shown for a, b in itertools.combinations(uids, 2)]
    return {
        "shown_right": float(np.mean([right[uid] for uids in shown for uid in uids])),
        "mostly_wrong": float(np.mean([np.mean([right[uid] for uid in uids]) < 0.5 for uids in shown])),
        "diversity": float(np.mean([1 - len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in pairs])),
        "coverage": len({uid for uids in shown for uid in uids}) / len(right),
        "gap": first["reverse_kl"],
        "entropy_gap": first["entropy_gap"],
        "entropy": first["student_entropy"],
        "length": first["response_length_mean"],
    }
