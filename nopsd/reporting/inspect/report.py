"""The text of `nopsd inspect`: inspect.md and inspect.html with their figures, and a few lines for the console.

In: `InspectView`. Out: FOLDER/inspect.md, FOLDER/inspect.html, FOLDER/*.png, each written atomically.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from nopsd.evaluation.bootstrap import Interval
from nopsd.reporting.inspect import figures
from nopsd.reporting.inspect.figures import by_domain
from nopsd.reporting.inspect.overlap import Near
from nopsd.reporting.inspect.view import SIGNALS, InspectView, Neighbourhood, Row
from nopsd.reporting.page import Page, code_block, escape
from nopsd.reporting.table import markdown_table
from nopsd.selection.overlaps import shares

NAME = "inspect"
NO_LABELS = "No accuracy: no evaluation of the pool's own answers was given (--correct FILE) and the run has none."
OWN_LIMIT, NEAR_LIMIT = 1200, 400  # characters of a question or response shown
LAYERS_NAMED = 6  # layers named for a neighbour, those that share most
GONE = "(not there: the stage that made it was not found)"


def write_inspection(folder: Path, view: InspectView, rows: Sequence[Row]) -> dict[str, bytes]:
    """Write all but TensorBoard's files. Those of an earlier call are removed.

    Args:
        folder: RUN/inspect.
        view: What is shown.
        rows: Of the pool's questions.

    Returns:
        The PNGs by name.
    """
    for old in folder.glob("*.png"):
        old.unlink()
    page = Page(view.title, place="")
    page.render(
        "inspect.md.jinja",
        view=view,
        rows=rows,
        figures=figures,
        counts_table=Markup(counts_table(view)),
        correlation_table=Markup(correlation_table(rows)),
        correlation_note=correlation_note(rows),
        no_labels=NO_LABELS,
        overlap_text=Markup(overlap_text(view)),
        selections_table=Markup(selections_table(view)),
        neighbours=[Markup(neighbour_text(view, shown)) for shown in view.neighbourhoods],
    )
    page.write(folder, NAME)
    return page.images


def counts_table(view: InspectView) -> str:
    """Quantiles of s(x) by domain, of the pool and of the selection."""
    groups = [(name, mask) for name, _, mask in by_domain(view)]
    groups = [*groups, ("pool", np.ones(len(view), bool))] if len(groups) > 1 else groups
    if view.selected is not None:
        groups.append(("selected", view.selected))
    rows = []
    for name, mask in groups:
        if not mask.any():
            continue
        q = np.quantile(view.counts[mask], [0, 0.05, 0.5, 0.95, 1])
        share = view.counts[mask].mean() / sum(view.widths)
        rows.append(
            [
                escape(name),
                str(int(mask.sum())),
                *(f"{v:,.0f}" for v in q),
                f"{share:.1%}",
                f"{view.lengths[mask].mean():,.1f}",
                f"{view.truncated[mask].mean():.1%}",
            ]
        )
    head = ["", "questions", "least s(x)", "5 %", "median", "95 %", "greatest", "mean of all neurons", "mean length"]
    return markdown_table([*head, "cut at the limit"], rows)


def correlation_table(rows: Sequence[Row]) -> str:
    """Coefficients with their intervals, a row a column."""
    lines = []
    for row in rows:
        found = row.found
        lines.append(
            [
                row.name + (" (labels)" if row.labelled else ""),
                escape(row.label),
                str(found.questions),
                *(interval_text(i) for i in (found.pearson, found.spearman, found.partial)),
            ]
        )
    return markdown_table(
        ["s(x) with", "what it is", "questions", "Pearson", "Spearman", "Pearson, log length held fixed"], lines
    )


def correlation_note(rows: Sequence[Row]) -> str:
    """What the brackets are, and which signs would make the neuron count a sign of certainty."""
    known = [row.name for row in rows if row.name in SIGNALS]
    lower, higher = ([n for n in known if SIGNALS[n][1] == direction] for direction in (1, -1))
    text = "In brackets 95 % percentile intervals over resampled questions."
    if not lower and not higher:
        return text
    parts = [f"{sign} with {', '.join(names)}" for sign, names in (("negative", lower), ("positive", higher)) if names]
    return f"{text} If few neurons mean a certain model, s(x) goes {' and '.join(parts)}."


def interval_text(value: Interval | None) -> str:
    """`+0.123 [+0.100, +0.150]`; a dash where there is no value."""
    if value is None or np.isnan(value.value):
        return "–"
    ends = "" if value.low is None else f" [{value.low:+.3f}, {value.high:+.3f}]"
    return f"{value.value:+.3f}{ends}"


def selections_table(view: InspectView) -> str:
    """Of the questions that a row's selector would choose, the share that a column's would too."""
    names = list(view.selections)
    rows = [
        [f"`{name}`", *(f"{share:.0%}" for share in shared)] for name, shared in zip(names, shares(view.selections))
    ]
    return markdown_table(["of the row's, the column's too", *(f"`{name}`" for name in names)], rows)


def overlap_text(view: InspectView) -> str:
    """Mean distance, and what chance would give."""
    seen = view.overlap
    if seen is None:
        return ""
    return (
        f"Mean pairwise Jaccard distance of {len(seen.rows)} questions: **{seen.pairs.mean():.3f}** (from "
        f"{seen.pairs.min():.3f} to {seen.pairs.max():.3f}). Sets of the same sizes drawn at random would be "
        f"{seen.chance:.3f} apart, and {seen.chance_by_layer:.3f} if each kept its number of neurons in each layer."
    )


def neighbour_text(view: InspectView, shown: Neighbourhood) -> str:
    """A question, its own answer and its nearest, as markdown that reads well unrendered too."""
    own = view.texts[shown.row]
    parts = [
        f"### {escape(own.uid)}: {shown.why}",
        f"s(x) = {view.counts[shown.row]:,g}, {view.lengths[shown.row]:,} tokens{_standing(view, shown.row)}",
        "Question:",
        _fenced(own.question, OWN_LIMIT),
        "Its own answer:",
        _fenced(own.response, OWN_LIMIT),
    ]
    size = int(view.members[shown.row].sum())
    for place, near in enumerate(shown.near, start=1):
        other = view.texts[near.row]
        parts += [
            f"**{place}. {escape(other.uid)}**: J = {near.distance:.3f}, {near.shared} shared neurons of {size} and "
            f"{int(view.members[near.row].sum())}, {layer_text(near)}; s(x) = {view.counts[near.row]:,g}"
            f"{_standing(view, near.row)}",
            _fenced(other.question, NEAR_LIMIT),
            _fenced(other.response, NEAR_LIMIT),
        ]
    return "\n\n".join(parts)


def _standing(view: InspectView, row: int) -> str:
    """Domain if there are several, selected or not, cut at the limit."""
    facts = [view.domains[row]] if len(set(view.domains)) > 1 else []
    if view.selected is not None:
        facts.append("selected" if view.selected[row] else "not selected")
    if view.truncated[row]:
        facts.append("cut at the limit")
    return "".join(f", {escape(word)}" for word in facts)


def layer_text(near: Near) -> str:
    """`in layers 3 (50), 0 (12)`: those that share most first, the rest together."""
    order = [int(layer) for layer in np.argsort(-near.by_layer, kind="stable") if near.by_layer[layer]]
    if not order:
        return "in no layer"
    named = [f"{layer} ({near.by_layer[layer]})" for layer in order[:LAYERS_NAMED]]
    rest = int(sum(near.by_layer[layer] for layer in order[LAYERS_NAMED:]))
    return "in layers " + ", ".join(named) + (f", others ({rest})" if rest else "")


def shortened(text: str, limit: int) -> str:
    """Beginning and end of a text that is longer than `limit` characters: the answer stands at the end."""
    text = text.strip()
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head].rstrip()}\n[... {len(text) - limit:,} characters ...]\n{text[head - limit :].lstrip()}"


def _fenced(text: str | None, limit: int) -> str:
    return code_block(GONE if text is None else shortened(text, limit), "text")


def console_text(view: InspectView, rows: Sequence[Row], folder: Path) -> str:
    """What `nopsd inspect` prints."""
    s = view.counts
    chosen = "" if view.selected is None else f", {int(view.selected.sum())} selected"
    lines = [
        f"{len(view)} questions{chosen}; s(x) from {s.min():,.0f} to {s.max():,.0f}, median {np.median(s):,.0f}, "
        f"of {sum(view.widths):,} neurons"
    ]
    if view.overlap is not None:
        seen = view.overlap
        lines.append(
            f"mean Jaccard distance {seen.pairs.mean():.3f} over {len(seen.rows)} questions "
            f"(chance {seen.chance:.3f}, within layers {seen.chance_by_layer:.3f})"
        )
    lines += ["", f"{'s(x) with':22} {'Pearson':26} {'Spearman':26} log length held fixed"]
    for row in rows:
        name = row.name + (" (labels)" if row.labelled else "")
        texts = [interval_text(i) for i in (row.found.pearson, row.found.spearman, row.found.partial)]
        lines.append(f"{name:22} {texts[0]:26} {texts[1]:26} {texts[2]}")
    lines += ["", *view.notes]
    if view.correct is None:
        lines.append(NO_LABELS)
    places = (
        ("text", folder / f"{NAME}.md"),
        ("page", folder / f"{NAME}.html"),
        ("board", f"tensorboard --logdir {folder / 'tb'}"),
    )
    return "\n".join([*lines, *(f"{name:9} {place}" for name, place in places)])
