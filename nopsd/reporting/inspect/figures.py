"""Figures of `nopsd inspect`: neuron counts, confidence, overlap and layers of a scored pool.

In: `InspectView`. Each returns a Figure, or None where the data are not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nopsd.evaluation.bootstrap import Interval
from nopsd.reporting.figures.pool import bin_edges, binned, correlations, jitter
from nopsd.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, RED, panels
from nopsd.reporting.inspect.view import InspectView, Row, signal_label

DOMAIN_COLOURS = (BLUE, GREEN, ORANGE, "#CC79A7", "#56B4E9", RED)
OTHERS = "other domains"
COLUMNS = 3  # panels in a row
OVERLAID = 19  # bin edges where several histograms lie over each other


def shown_domains(domains: Sequence[str]) -> dict[str, str]:
    """Colours of the most frequent domains; `OTHERS` stands for the rest, in grey."""
    names = [name for name, _ in Counter(domains).most_common()]
    kept = names if len(names) <= len(DOMAIN_COLOURS) else names[: len(DOMAIN_COLOURS) - 1]
    colours = dict(zip(kept, DOMAIN_COLOURS))
    return colours if len(kept) == len(names) else {**colours, OTHERS: GREY}


def by_domain(view: InspectView) -> list[tuple[str, str, np.ndarray]]:
    """(name, colour, mask [N]) of each domain shown."""
    colours = shown_domains(view.domains)
    names = np.array([d if d in colours else OTHERS for d in view.domains])
    return [(name, colour, names == name) for name, colour in colours.items()]


def counts_figure(view: InspectView) -> Figure:
    """s(x) by domain, and against length."""
    figure, (histogram, scatter) = panels(2)
    s, length = np.asarray(view.counts, dtype=float), np.asarray(view.lengths, dtype=float)
    threshold = _threshold(view)
    groups = by_domain(view)
    edges = bin_edges(s, threshold) if len(groups) == 1 else np.linspace(s.min() - 0.5, s.max() + 0.5, OVERLAID)
    for name, colour, mask in groups:
        label = f"{name} ({mask.sum()}), median {np.median(s[mask]):,.0f}"
        if len(groups) == 1:
            histogram.hist(s, bins=edges, color=colour, label=label)
        else:
            histogram.hist(s[mask], bins=edges, color=colour, alpha=0.12)
            histogram.hist(s[mask], bins=edges, color=colour, histtype="step", linewidth=1.6, label=label)
    if threshold is not None:
        histogram.axvline(
            threshold + 0.5 * threshold.is_integer(),
            color=RED,
            linestyle="--",
            label=f"selected: at most {threshold:,.0f}",
        )
    histogram.set(xlabel="neuron count s(x)", ylabel="questions", title="Neuron counts by domain")
    histogram.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    _scatter_selected(scatter, view, length + jitter(length), s)
    scatter.set(
        xlabel="response length (tokens)",
        ylabel="neuron count s(x)",
        title=f"Neuron count and length\n{correlations(length, s)}",
    )
    return figure


def _threshold(view: InspectView) -> float | None:
    """The selector's, if it bounds the selected counts: other selectors' thresholds are not neuron counts."""
    if view.selected is None or view.threshold is None or not view.selected.any():
        return None
    return float(view.threshold) if view.counts[view.selected].max() <= view.threshold else None


def _scatter_selected(axis: Axes, view: InspectView, x: np.ndarray, y: np.ndarray) -> None:
    chosen = np.zeros(len(x), bool) if view.selected is None else view.selected
    for mask, colour, name in ((~chosen, BLUE, "not selected"), (chosen, ORANGE, "selected")):
        if mask.any():
            axis.scatter(
                x[mask],
                y[mask],
                s=12,
                alpha=0.5,
                color=colour,
                linewidths=0,
                label=None if view.selected is None else f"{name} ({mask.sum()})",
            )
    if view.selected is not None:
        axis.legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=8)


def signals_figure(view: InspectView) -> Figure | None:
    """s(x) against each label-free signal of confidence."""
    drawn = {name: np.asarray(v, dtype=float) for name, v in view.signals.items() if np.isfinite(v).sum() >= 3}
    if not drawn:
        return None
    figure, axes = panels(len(drawn), columns=COLUMNS)
    for axis, (name, values) in zip(axes, drawn.items()):
        known = np.isfinite(values)
        binned(axis, view.counts[known], values[known], signal_label(name), name, share=False)
    return figure


def accuracy_figure(view: InspectView) -> Figure | None:
    """s(x) against the share of right zero-shot answers; None without an evaluation."""
    known = np.zeros(0, bool) if view.correct is None else np.isfinite(view.correct)
    if view.correct is None or known.sum() < 3:
        return None
    figure, (axis,) = panels(1)
    binned(
        axis,
        view.counts[known],
        view.correct[known],
        "zero-shot answers right (share)",
        "Neuron count and correctness (labels)",
    )
    return figure


def correlations_figure(rows: Sequence[Row]) -> Figure | None:
    """Correlations of s(x), with 95 % intervals."""
    rows = [row for row in rows if np.isfinite(row.found.pearson.value)]
    if not rows:
        return None
    figure, (axis,) = panels(1, width=7.2, height=1.6 + 0.55 * len(rows))
    kinds = (
        ("pearson", BLUE, -0.2, "Pearson"),
        ("spearman", ORANGE, 0.0, "Spearman"),
        ("partial", GREEN, 0.2, "Pearson, log length held fixed"),
    )
    axis.axvline(0, color=GREY, linewidth=0.9)
    for kind, colour, shift, name in kinds:
        found = [(y + shift, getattr(row.found, kind)) for y, row in enumerate(rows)]
        _intervals(axis, [(y, i) for y, i in found if i is not None and np.isfinite(i.value)], colour, name)
    axis.set_yticks(range(len(rows)), [row.name + (" (labels)" if row.labelled else "") for row in rows])
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-1.02, 1.02), xlabel="correlation with s(x), 95 % interval")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def _intervals(axis: Axes, points: Sequence[tuple[float, Interval]], colour: str, name: str) -> None:
    if not points:
        return
    ends = [(i.value, i.value if i.low is None else i.low, i.value if i.high is None else i.high) for _, i in points]
    value, low, high = np.array(ends).T
    bars = np.maximum([value - low, high - value], 0)
    axis.errorbar(value, [y for y, _ in points], xerr=bars, fmt="o", color=colour, capsize=3, label=name)


def overlap_figure(view: InspectView) -> Figure | None:
    """Pairwise Jaccard distances of a sample in the order of its clustering, beside domain and selection; and
    their histogram with what chance would give."""
    seen = view.overlap
    if seen is None:
        return None
    figure, (heat, histogram) = panels(2, width=6.0, height=4.6)
    heat.grid(False)
    pairs = seen.pairs
    image = heat.imshow(seen.distances, cmap="viridis", vmin=pairs.min(), vmax=pairs.max(), interpolation="nearest")
    figure.colorbar(image, ax=heat, label="Jaccard distance J", shrink=0.85)
    strips = _strips(view)
    for place, (name, colours) in enumerate(strips):
        strip = heat.inset_axes((-0.05 * (len(strips) - place), 0, 0.04, 1))
        strip.imshow(
            np.arange(len(seen.rows))[:, None],
            cmap=ListedColormap(colours),
            aspect="auto",
            interpolation="nearest",
            vmin=-0.5,
            vmax=len(seen.rows) - 0.5,
        )
        strip.set(xticks=[], yticks=[])
        strip.set_xlabel(name, rotation=45, ha="right", fontsize=8)
    heat.set(xticks=[], yticks=[], title=f"Overlap map: {len(seen.rows)} questions by similarity")
    _domain_key(figure, view)
    histogram.hist(pairs, bins=40, color=BLUE)
    for value, colour, name in (
        (pairs.mean(), RED, "mean"),
        (seen.chance_by_layer, GREEN, "chance within layers"),
        (seen.chance, GREY, "chance"),
    ):
        histogram.axvline(value, color=colour, linestyle="--", label=f"{name} {value:.3f}")
    histogram.set(xlabel="Jaccard distance J of two questions", ylabel="pairs", title="Distances and chance")
    histogram.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return figure


def _strips(view: InspectView) -> list[tuple[str, list[str]]]:
    """Colours of the sampled questions, in the map's order: by domain if there are several, by selection."""
    assert view.overlap is not None
    rows, strips = view.overlap.rows, []
    groups = by_domain(view)
    if len(groups) > 1:
        strips.append(("domain", [next(c for _, c, mask in groups if mask[r]) for r in rows]))
    if view.selected is not None:
        strips.append(("selected", ["#222222" if view.selected[r] else "#e8e8e8" for r in rows]))
    return strips


def _domain_key(figure: Figure, view: InspectView) -> None:
    groups = by_domain(view)
    if len(groups) > 1:
        key = [Patch(color=colour, label=name) for name, colour, _ in groups]
        figure.legend(handles=key, loc="outside lower left", ncols=len(key), frameon=False, fontsize=9)


def map_figure(view: InspectView) -> Figure | None:
    """The same sample on the two principal coordinates of its distances, by domain or count, and by selection."""
    seen = view.overlap
    if seen is None:
        return None
    figure, axes = panels(1 if view.selected is None else 2, width=5.4, height=4.4)
    x, y = seen.map_n2.T
    groups = by_domain(view)
    if len(groups) > 1:
        for name, colour, mask in groups:
            here = mask[seen.rows]
            axes[0].scatter(x[here], y[here], s=16, color=colour, alpha=0.7, linewidths=0, label=name)
        axes[0].legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=8)
    else:
        points = axes[0].scatter(x, y, s=18, c=view.counts[seen.rows], cmap="viridis", alpha=0.85, linewidths=0)
        figure.colorbar(points, ax=axes[0], label="neuron count s(x)")
    axes[0].set_title("Map by domain" if len(groups) > 1 else "Map by neuron count")
    if view.selected is not None:
        chosen = view.selected[seen.rows]
        for mask, colour, name in ((~chosen, BLUE, "not selected"), (chosen, ORANGE, "selected")):
            axes[1].scatter(
                x[mask], y[mask], s=16, color=colour, alpha=0.7, linewidths=0, label=f"{name} ({mask.sum()})"
            )
        axes[1].set_title("Map by selection")
        axes[1].legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=8)
    for axis in axes:
        axis.set(xlabel=f"principal coordinate 1 (both show {seen.map_share:.0%})", ylabel="principal coordinate 2")
    return figure


def layers_figure(members_NL: np.ndarray, widths: Sequence[int], selected: np.ndarray | None) -> Figure:
    """Members of N_K in each layer: mean and 5-95 % of questions, selected against others, and chance.

    Args:
        members_NL: Neurons of each question's set in each layer.
        widths: Neurons that each layer has.
        selected: Which questions were selected; None: there is no selection.
    """
    figure, (axis,) = panels(1, width=7.2)
    layers = np.arange(members_NL.shape[1])
    masks: Mapping[str, tuple[np.ndarray, str]] = {"questions": (np.ones(len(members_NL), bool), BLUE)}
    if selected is not None and selected.any() and not selected.all():
        masks = {"not selected": (~selected, BLUE), "selected": (selected, ORANGE)}
    for name, (mask, colour) in masks.items():
        members = members_NL[mask].astype(float)
        low, high = np.quantile(members, [0.05, 0.95], axis=0)
        axis.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(
            layers,
            members.mean(0),
            color=colour,
            marker="o",
            markersize=4,
            label=f"{name} ({mask.sum()}): mean, 5–95 %",
        )
    share = np.asarray(widths, dtype=float) / sum(widths)
    axis.plot(layers, members_NL.sum(1).mean() * share, color=GREY, linestyle="--", label="spread evenly")
    axis.set(
        xlabel="layer (first is 0)", ylabel="neurons of the set", title="Where the compared neurons lie", ylim=(0, None)
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=9)
    return figure
