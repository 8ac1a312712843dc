"""Figures of the training log: rows of metrics.jsonl in, a Figure out, None where nothing was logged.

A figure is a row of panels; a panel shows logged metrics, thin, under their running means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nopsd.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, panels

Rows = Sequence[Mapping[str, Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A logged metric as it is drawn."""

    metric: str
    label: str
    colour: str


@dataclass(frozen=True)
class Panel:
    """One panel; `limits`: "data", "zero" (from 0), "signed" (from 0 or below) or "share" (0 to 1)."""

    title: str
    y: str
    curves: tuple[Curve, ...]
    limits: str = "data"


LOSS = (
    Panel("Loss", "loss (nats)", (Curve("loss", "loss", BLUE),), "signed"),
    Panel(
        "Divergence",
        "KL a token (nats)",
        (
            Curve("reverse_kl", "KL(student ‖ teacher)", BLUE),
            Curve("forward_kl", "KL(teacher ‖ student)", ORANGE),
        ),
        "signed",
    ),
)
ENTROPY = (
    Panel(
        "Next-token entropy",
        "entropy (nats)",
        (Curve("student_entropy", "student", BLUE), Curve("teacher_entropy", "teacher", ORANGE)),
    ),
    Panel(
        "Entropy gap, teacher − student (below 0: the context informs)",
        "ΔH (nats)",
        (Curve("entropy_gap", "gap", GREEN),),
    ),
)
LENGTH = (
    Panel(
        "Response length",
        "tokens",
        (
            Curve("response_length_mean", "mean", BLUE),
            Curve("response_length_max", "longest of the batch", ORANGE),
        ),
        "zero",
    ),
    Panel("Responses cut at the limit", "share", (Curve("truncated_share", "cut", RED),), "share"),
)
HEALTH = (
    Panel("Gradient norm (before clipping)", "L2 norm", (Curve("grad_norm", "norm", BLUE),), "zero"),
    Panel(
        "Student and teacher agree",
        "share",
        (
            Curve("top16_overlap", "common ids of the top 16", BLUE),
            Curve("top16_student_mass", "their mass, student", ORANGE),
            Curve("top16_teacher_mass", "their mass, teacher", GREEN),
        ),
    ),
    Panel(
        "Served against trained log-probs",
        "|Δ log p| (nats)",
        (Curve("logprob_gap_max", "largest", RED), Curve("logprob_gap", "mean", BLUE)),
    ),
)


def loss_figure(rows: Rows) -> Figure | None:
    """Loss, and the divergence in both directions."""
    return _figure(rows, LOSS)


def entropy_figure(rows: Rows) -> Figure | None:
    """Next-token entropies on the student's responses, and teacher minus student."""
    figure = _figure(rows, ENTROPY)
    if figure is not None:
        gap = figure.axes[1]
        gap.axhline(0, color=GREY, linewidth=0.9)
        gap.title.set_fontsize(10)
    return figure


def length_figure(rows: Rows) -> Figure | None:
    """Response length and the share cut at the limit."""
    return _figure(rows, LENGTH)


def health_figure(rows: Rows) -> Figure | None:
    """Gradient norm, overlap of student and teacher, and the server's log-probs against the trainer's."""
    figure = _figure(rows, HEALTH, width=4.4)
    gaps = [_series(rows, curve.metric)[1] for curve in HEALTH[2].curves]
    if figure is not None and any(map(len, gaps)) and all((values > 0).all() for values in gaps):
        figure.axes[2].set_yscale("log")
    return figure


def _figure(rows: Rows, drawn: Sequence[Panel], width: float = 5.2) -> Figure | None:
    if not rows:
        return None
    figure, axes = panels(len(drawn), width=width)
    for axis, panel in zip(axes, drawn, strict=True):
        _draw(axis, rows, panel)
    return figure


def _draw(axis: Axes, rows: Rows, panel: Panel) -> None:
    logged = [_curve(axis, rows, curve) for curve in panel.curves]
    axis.set(title=panel.title, xlabel="training step", ylabel=panel.y)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if sum(logged) > 1:
        axis.legend(frameon=False, fontsize=9)
    if not any(logged):
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color=GREY)
    if panel.limits == "share":
        axis.set_ylim(-0.02, 1.02)
    elif panel.limits != "data":
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]) if panel.limits == "signed" else 0)


def _curve(axis: Axes, rows: Rows, curve: Curve) -> bool:
    """Draw a metric and its running mean; False if it was never logged."""
    steps, values = _series(rows, curve.metric)
    if not len(steps):
        return False
    window = max(1, len(values) // 15)
    if window > 1:
        axis.plot(steps, values, color=curve.colour, linewidth=0.8, alpha=0.35)
    marker = "o" if len(steps) == 1 else None
    mean = running_mean(values, window)
    axis.plot(steps, mean, color=curve.colour, linewidth=1.8, label=curve.label, marker=marker)
    return True


def _series(rows: Rows, metric: str) -> tuple[Values, Values]:
    """Steps and finite values of a logged metric."""
    pairs = [(row["step"], row[metric]) for row in rows if isinstance(row.get(metric), (int, float))]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def running_mean(values: Values, window: int) -> Values:
    """Mean over the last `window` values, fewer at the beginning."""
    if window == 1:
        return values
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    mean: Values = (total[end] - total[start]) / (end - start)
    return mean
