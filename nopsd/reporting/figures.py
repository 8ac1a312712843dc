"""Figures of training and evaluation (matplotlib, no display needed). Each takes plain data and
returns a Figure, or None where the data are not there.

In:  rows of metrics.jsonl (names as in `nopsd.train.algorithms.distill_metrics`), DomainResults.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.evaluate import DomainResult
from nopsd.evaluation.metrics import calibration_bins

# Okabe and Ito's colours: told apart by the colour-blind and in grey.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
DPI = 110
Rows = Sequence[Mapping[str, Any]]


def panels(
    count: int, width: float = 5.2, height: float = 3.6, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Empty panels in the house style, in one row or in rows of `columns`."""
    columns = min(count, columns or count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of a logged number."""
    pairs = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def _curve(axis: Axes, rows: Rows, name: str, label: str, colour: str) -> bool:
    """A logged number, thin, under its running mean; False if it was never logged."""
    steps, values = _series(rows, name)
    if not len(steps):
        return False
    window = max(1, len(values) // 15)
    if window > 1:
        axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axis.plot(
        steps,
        running_mean(values, window),
        color=colour,
        linewidth=1.8,
        label=label,
        marker="o" if len(steps) == 1 else None,
    )
    return True


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values, fewer at the beginning."""
    if window == 1:
        return values
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def _finish(axis: Axes, title: str, y: str, drawn: Sequence[bool]) -> None:
    axis.set(title=title, xlabel="training step", ylabel=y)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if sum(drawn) > 1:
        axis.legend(frameon=False, fontsize=9)
    if not any(drawn):
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color=GREY)


def loss_figure(rows: Rows) -> Figure | None:
    """Loss, and the divergence in both directions."""
    if not rows:
        return None
    figure, (loss, kl) = panels(2)
    _finish(loss, "Loss", "loss (nats)", [_curve(loss, rows, "loss", "loss", BLUE)])
    drawn = [
        _curve(kl, rows, "kl_reverse", "KL(student ‖ teacher)", BLUE),
        _curve(kl, rows, "kl_forward", "KL(teacher ‖ student)", ORANGE),
    ]
    _finish(kl, "Divergence", "KL a token (nats)", drawn)
    for axis in (loss, kl):
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    return figure


def entropy_figure(rows: Rows) -> Figure | None:
    """Next-token entropies on the student's responses, and teacher minus student."""
    if not rows:
        return None
    figure, (both, gap) = panels(2)
    drawn = [
        _curve(both, rows, "entropy_student", "student", BLUE),
        _curve(both, rows, "entropy_teacher", "teacher", ORANGE),
    ]
    _finish(both, "Next-token entropy", "entropy (nats)", drawn)
    drawn = [_curve(gap, rows, "entropy_gap", "gap", GREEN)]
    gap.axhline(0, color=GREY, linewidth=0.9)
    _finish(gap, "Entropy gap, teacher − student (below 0: the context informs)", "ΔH (nats)", drawn)
    gap.title.set_fontsize(10)
    return figure


def length_figure(rows: Rows) -> Figure | None:
    """Response length and the share cut at the limit."""
    if not rows:
        return None
    figure, (length, cut) = panels(2)
    drawn = [
        _curve(length, rows, "response_length_mean", "mean", BLUE),
        _curve(length, rows, "response_length_max", "longest of the batch", ORANGE),
    ]
    _finish(length, "Response length", "tokens", drawn)
    length.set_ylim(bottom=0)
    _finish(cut, "Responses cut at the limit", "share", [_curve(cut, rows, "truncated_share", "cut", RED)])
    cut.set_ylim(-0.02, 1.02)
    return figure


def health_figure(rows: Rows) -> Figure | None:
    """What tells a sound run from a sick one: gradient norm, overlap of student and teacher, server against trainer."""
    if not rows:
        return None
    figure, (norm, overlap, gap) = panels(3, width=4.4)
    _finish(norm, "Gradient norm (before clipping)", "L2 norm", [_curve(norm, rows, "grad_norm", "norm", BLUE)])
    norm.set_ylim(bottom=0)
    drawn = [
        _curve(overlap, rows, "top16_overlap", "common ids of the top 16", BLUE),
        _curve(overlap, rows, "top16_student_mass", "their mass, student", ORANGE),
        _curve(overlap, rows, "top16_teacher_mass", "their mass, teacher", GREEN),
    ]
    _finish(overlap, "Student and teacher agree", "share", drawn)
    drawn = [_curve(gap, rows, "logprob_gap_max", "largest", RED), _curve(gap, rows, "logprob_gap", "mean", BLUE)]
    _finish(gap, "Served against trained log-probs", "|Δ log p| (nats)", drawn)
    if any(drawn) and all((_series(rows, n)[1] > 0).all() for n in ("logprob_gap", "logprob_gap_max")):
        gap.set_yscale("log")
    return figure


def accuracy_figure(
    before: Mapping[str, DomainResult], after: Mapping[str, DomainResult], pool_domain: str
) -> Figure | None:
    """Avg@k, maj@k and ECE of every domain, before and after, with 95 % intervals."""
    domains = sorted({*before, *after}, key=lambda d: (d != pool_domain, d))
    if not domains:
        return None
    k = next(iter({**before, **after}.values())).samples
    figure, axes = panels(3, width=4.4, height=1.8 + 0.55 * max(len(domains), 2))
    names = [("avg", f"Avg@{k} (%)", 100), ("maj", f"maj@{k} (%)", 100), ("ece", "ECE (less is better)", 1)]
    for axis, (metric, label, scale) in zip(axes, names, strict=True):
        for results, colour, shift, name in ((before, GREY, -0.13, "before"), (after, BLUE, 0.13, "after")):
            points = [(y, results[d].intervals[metric]) for y, d in enumerate(domains) if d in results]
            _dots(axis, points, scale, colour, shift, name)
        axis.set_yticks(range(len(domains)), [f"{d} (pool)" if d == pool_domain else d for d in domains])
        axis.set_ylim(len(domains) - 0.5, -0.5)
        axis.set_xlabel(label)
        if axis is not axes[0]:
            axis.tick_params(labelleft=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _dots(
    axis: Axes, points: Sequence[tuple[int, Interval]], scale: float, colour: str, shift: float, name: str
) -> None:
    values = np.array([v.value for _, v in points]) * scale
    low = np.array([v.value if v.low is None else v.low for _, v in points]) * scale
    high = np.array([v.value if v.high is None else v.high for _, v in points]) * scale
    # A percentile interval need not hold the point itself (ECE's is biased upwards): bars begin at the point then.
    bars = np.maximum([values - low, high - values], 0)
    axis.errorbar(values, [y + shift for y, _ in points], xerr=bars, fmt="o", color=colour, capsize=3, label=name)


def calibration_figure(before: DomainResult | None, after: DomainResult | None) -> Figure | None:
    """Accuracy of the majority answer against its share, one point a confidence bin, area by questions."""
    shown = [(r, c, n) for r, c, n in ((before, GREY, "before"), (after, BLUE, "after")) if r is not None]
    if not shown:
        return None
    figure, (axis,) = panels(1, width=4.8, height=4.2)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle="--")
    for result, colour, name in shown:
        outcomes = result.outcomes
        bins = calibration_bins(outcomes.share_N, result.ece_bins)
        points = [
            (outcomes.share_N[bins == b].mean(), outcomes.vote_N[bins == b].mean(), (bins == b).sum())
            for b in np.unique(bins)
        ]
        share, right, count = np.array(points, dtype=float).T
        axis.plot(share, right, color=colour, linewidth=1)
        axis.scatter(
            share,
            right,
            s=12 + 500 * count / count.sum(),
            color=colour,
            alpha=0.6,
            label=f"{name} (ECE {result.metrics['ece']:.3f})",
        )
    axis.set(
        xlim=(-0.03, 1.05),
        ylim=(-0.05, 1.07),
        title=f"Calibration: {shown[0][0].domain}",
        xlabel="majority answer's share of the samples",
        ylabel="majority answer right (share)",
    )
    legend = axis.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure
