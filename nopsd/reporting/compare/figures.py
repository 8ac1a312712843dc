"""Figures of a comparison: the paper's Figures 2 and 3, and the differences from the base."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.metrics import Array
from nopsd.reporting.compare.results import ALL, KINDS, SCIENCE, numbers, over_questions
from nopsd.reporting.compare.views import Pool, View
from nopsd.reporting.figures.pool import BINS, binned, correlations
from nopsd.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, panels

COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)


def known(pool: Pool) -> tuple[Array, Array]:
    """Counts and right shares of the questions whose answers are known."""
    counts, correct = np.asarray(pool.counts, dtype=float), np.asarray(pool.correct, dtype=float)
    there = np.isfinite(correct)
    return counts[there], correct[there]


def count_against_accuracy(view: View) -> Figure | None:
    """Figure 2: s(x) against zero-shot accuracy, a panel a source."""
    pools = {source: known(pool) for source, pool in view.pools.items()}
    pools = {source: columns for source, columns in pools.items() if len(columns[0])}
    if not pools:
        return None
    figure, axes = panels(len(pools), columns=2)
    for axis, (source, (counts, correct)) in zip(axes, pools.items()):
        n = view.pools[source].samples
        binned(axis, counts, correct, f"zero-shot answers right (share of {n})", view.layout.label(source))
    return figure


def pooled_points(pools: Mapping[str, Pool]) -> dict[str, tuple[Array, Array]]:
    """Figure 3's points: by source, min-max-normalised neuron counts (means of equal-count bins) and ΔAcc, the source's
    mean accuracy less the bin's. Sources whose counts are all equal are left out."""
    found = {}
    for source, pool in pools.items():
        counts, correct = known(pool)
        if len(counts) < 2 or np.ptp(counts) == 0:
            continue
        scaled = (counts - counts.min()) / np.ptp(counts)
        groups = np.array_split(np.argsort(scaled, kind="stable"), min(BINS, len(scaled)))
        x, y = (np.array([column[g].mean() for g in groups]) for column in (scaled, correct))
        found[source] = x, correct.mean() - y
    return found


def pooled(view: View) -> Figure | None:
    """Figure 3: all sources together."""
    points = pooled_points(view.pools)
    if not points:
        return None
    figure, (axis,) = panels(1, width=5.6, height=4.2)
    for (source, (x, y)), colour in zip(points.items(), COLOURS * len(points)):
        axis.scatter(x, y, s=22, color=colour, label=view.layout.label(source))
    x, y = (np.concatenate(column) for column in zip(*points.values()))
    if np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        axis.plot([0, 1], [offset, slope + offset], color=GREY, linestyle="--", linewidth=1)
    axis.axhline(0, color=GREY, linewidth=0.7)
    axis.set(
        xlabel="neuron count, scaled to [0, 1] within its source",
        ylabel="source's mean accuracy − bin's",
        title=f"All sources\n{correlations(x, y)}",
    )
    axis.legend(frameon=False, fontsize=8)
    return figure


def differences(view: View) -> Figure | None:
    """Mean difference from the base over all sources, in and cross, with intervals over questions."""
    rows: list[tuple[str, dict[str, Interval | None]]] = []
    names = view.model_names()
    for model, results in view.models.items():
        found = over_questions(results, "avg", view.layout, view.resamples)
        column = ALL if any(ALL in cells for cells in found.values()) else SCIENCE
        for label in numbers(results, "avg").methods if found else ():
            spans = {kind: found.get((label, kind), {}).get(column) for kind in KINDS}
            rows.append((label if len(names) == 1 else f"{label} ({names[model]})", spans))
    if not rows:
        return None
    figure, axes = panels(len(KINDS), width=4.6, height=1.4 + 0.35 * len(rows))
    for axis, kind in zip(axes, KINDS):
        for y, (_, spans) in enumerate(rows):
            span = spans[kind]
            if span is not None and span.low is not None and span.high is not None:
                ends = [[max(span.value - span.low, 0)], [max(span.high - span.value, 0)]]
                axis.errorbar([span.value], [y], xerr=ends, fmt="o", color=BLUE, capsize=3)
        axis.axvline(0, color=GREY, linewidth=0.9)
        axis.set_yticks(range(len(rows)), [label for label, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set(xlabel="points from the base", title=f"{kind}-domain")
    return figure


FIGURES = {
    "figure2": (count_against_accuracy, "Figure 2. Neuron count and zero-shot accuracy of the pool's questions"),
    "figure3": (pooled, "Figure 3. The same over all sources, in equal-count bins"),
    "differences": (differences, "Mean difference from the base over sources, 95 % over questions"),
}
