"""Figures of the pool: neuron counts, selection and demonstrations (in the style of the paper's Figures 2 and 3).

Each takes a view and returns a Figure, or None where the data are not there.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nopsd.reporting.correlations import pearson, spearman
from nopsd.reporting.figures.style import BLUE, GREY, ORANGE, RED, panels
from nopsd.reporting.views import DemoView, PoolView

BINS = 10  # equal-count bins of the neuron count


def known_correct(pool: PoolView) -> tuple[np.ndarray, np.ndarray]:
    """Neuron counts and right shares of the questions whose answers are known."""
    if pool.correct is None or not len(pool.counts):
        return np.empty(0), np.empty(0)
    share = np.array([np.nan if c is None else c for c in pool.correct], dtype=float)
    there = ~np.isnan(share)
    return np.asarray(pool.counts, dtype=float)[there], share[there]


def neuron_count_figure(pool: PoolView | None) -> Figure | None:
    """s(x) against correctness (else against the majority answer's share), and against the response's length."""
    if pool is None or not len(pool.counts):
        return None
    counts, correct = known_correct(pool)
    if len(counts):
        against = (counts, correct, "zero-shot answers right (share)", "Neuron count and correctness")
    elif pool.agreement is not None:
        against = (
            np.asarray(pool.counts, dtype=float),
            np.asarray(pool.agreement, dtype=float),
            "majority answer's share",
            "Neuron count and agreement (no labels)",
        )
    else:
        against = None
    figure, axes = panels(2 if against else 1)
    if against:
        binned(axes[0], *against)
    length, s = np.asarray(pool.lengths, dtype=float), np.asarray(pool.counts, dtype=float)
    axes[-1].scatter(length + jitter(length), s, s=9, alpha=0.25, color=BLUE, linewidths=0)
    axes[-1].set(
        xlabel="zero-shot response length (tokens)",
        ylabel="neuron count s(x)",
        title=f"Neuron count and length\n{correlations(length, s)}",
    )
    return figure


def binned(axis: Axes, x: np.ndarray, y: np.ndarray, label: str, title: str, share: bool = True) -> None:
    """Draw points, means of equal-count bins with 95 % intervals, and the least-squares line.

    Args:
        axis: To draw on.
        x: [N].
        y: [N].
        label: Of y.
        title: Of the panel.
        share: y is in [0, 1].
    """
    axis.scatter(x, y + jitter(y), s=7, alpha=0.15, color=BLUE, linewidths=0, rasterized=True)
    order = np.argsort(x, kind="stable")
    bins = min(BINS, max(1, len(x) // 5)) if np.ptp(x) > 0 else 1
    groups = [g for g in np.array_split(order, bins) if len(g)]
    centre = [x[g].mean() for g in groups]
    mean = np.array([y[g].mean() for g in groups])
    error = np.array([1.96 * y[g].std() / np.sqrt(len(g)) for g in groups])
    if np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axis.plot(ends, slope * ends + offset, color=GREY, linestyle="--", label=f"slope {slope:.2g} a neuron")
    axis.errorbar(centre, mean, yerr=error, fmt="o", color=RED, capsize=3, label="mean of equal-count bins, 95 %")
    axis.set(xlabel="neuron count s(x)", ylabel=label, title=f"{title}\n{correlations(x, y)}")
    if share:
        axis.set_ylim(-0.07, 1.07)
    axis.legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=8, loc="best")


def jitter(values: np.ndarray) -> np.ndarray:
    """A little noise that keeps equal values from hiding each other; none where values are spread anyway."""
    distinct = np.unique(values)
    if len(distinct) > 60 or len(distinct) < 2:
        return np.zeros_like(values)
    noise: np.ndarray = np.random.default_rng(0).uniform(-0.2, 0.2, len(values)) * min(
        np.diff(distinct).min(), 0.2 * np.ptp(values)
    )
    return noise


def correlations(x: np.ndarray, y: np.ndarray) -> str:
    """Both coefficients as a panel's title shows them."""
    r, rho = pearson(x, y), spearman(x, y)
    if np.isnan(r):
        return "no correlation: one side is constant"
    return f"Pearson {r:+.3f}, Spearman {rho:+.3f}, n = {len(x)}"


def selection_figure(pool: PoolView | None) -> Figure | None:
    """The histogram of s with the threshold (where neurons were counted), and the lengths of selected and others."""
    if pool is None or not len(pool.lengths):
        return None
    selected = np.asarray(pool.selected, dtype=bool)
    shown = [(pool.lengths, "zero-shot response length (tokens)", "Response lengths")]
    if len(pool.counts):
        shown.insert(0, (pool.counts, "neuron count s(x)", f"Selection by {pool.selector}"))
    figure, axes = panels(len(shown))
    threshold = _threshold(pool, selected)
    for axis, (column, label, title) in zip(axes, shown):
        values = np.asarray(column, dtype=float)
        edges = bin_edges(values, threshold if column is pool.counts else None)
        axis.hist(
            [values[selected], values[~selected]],
            bins=edges,
            stacked=True,
            color=[ORANGE, BLUE],
            label=[f"selected ({selected.sum()})", f"not selected ({(~selected).sum()})"],
        )
        axis.set(xlabel=label, ylabel="questions", title=title)
    if threshold is not None:
        whole = float(threshold).is_integer()  # counts: draw the line behind the last one kept
        axes[0].axvline(threshold + 0.5 * whole, color=RED, linestyle="--", label=f"threshold {threshold:g}")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def _threshold(pool: PoolView, selected: np.ndarray) -> float | None:
    """The selector's threshold, if it is one of neuron counts."""
    if not len(pool.counts) or pool.threshold is None or not selected.any():
        return None
    return pool.threshold if np.asarray(pool.counts, dtype=float)[selected].max() <= pool.threshold else None


def bin_edges(values: np.ndarray, threshold: float | None) -> np.ndarray:
    """About 40 bins; of whole numbers, each holds as many of them as the next, and one ends at the threshold."""
    low, high = values.min(), values.max()
    if not np.array_equal(values, np.round(values)):
        return np.linspace(low, high, 41)
    width = max(1, round((high - low) / 40))
    if threshold is not None and low <= threshold <= high:
        low = threshold + 1 - width * np.ceil((threshold + 1 - low) / width)
    return np.arange(low - 0.5, high + width + 0.5, width)


def demo_figure(demos: DemoView | None) -> Figure | None:
    """Distances of the demonstrations shown, all together and by their place in the order of distance."""
    ranked = [] if demos is None else [list(d) for d in demos.distances if len(d)]
    if demos is None or not ranked:
        return None
    figure, (histogram, by_rank) = panels(2)
    flat = np.concatenate([np.asarray(d, dtype=float) for d in ranked])
    histogram.hist(flat, bins=40, color=BLUE)
    histogram.set(
        xlabel=f"{demos.measure} to the question",
        ylabel="demonstrations",
        title=f"Demonstration distances (mean {flat.mean():.3f})",
    )
    places = range(1, max(map(len, ranked)) + 1)
    columns = [np.array([d[place - 1] for d in ranked if len(d) >= place], dtype=float) for place in places]
    low, middle, high = np.array([np.quantile(c, [0.05, 0.5, 0.95]) for c in columns]).T
    by_rank.errorbar(
        places,
        middle,
        yerr=[middle - low, high - middle],
        fmt="o",
        color=BLUE,
        capsize=3,
        label="median, 5–95 % of questions",
    )
    by_rank.set(xlabel="demonstration (1 = nearest)", ylabel=demos.measure, title="By nearness")
    by_rank.xaxis.set_major_locator(MaxNLocator(integer=True))
    if demos.mean_pairwise is not None:
        label = f"random pairs {demos.mean_pairwise:.3f}"
        histogram.axvline(demos.mean_pairwise, color=RED, linestyle="--", label=label)
        by_rank.axhline(demos.mean_pairwise, color=RED, linestyle="--", label=label)
        histogram.legend(frameon=False, fontsize=9)
    by_rank.legend(frameon=False, fontsize=9)
    return figure
