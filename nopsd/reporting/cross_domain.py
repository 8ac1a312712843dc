"""Cross-domain numbers and the paper's table layouts.

In:  `grid[source][target]`, a metric of the model trained on `source`, tested on `target`, and
     `base[target]`, the same of the base model. Accuracies in per cent, ECE as a fraction.
Out: in[src] = grid[src][src]; cross[src] = mean of the other targets; each with its difference from
     the base on the same targets. Sources or targets that are missing drop out of value and baseline alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nopsd.reporting.table import Entry, Table

Scores = Mapping[str, float]
Grid = Mapping[str, Scores]


@dataclass(frozen=True)
class Cell:
    """A value and its difference from the base on the same support (None: nothing to compare with)."""

    value: float
    delta: float | None = None


@dataclass(frozen=True)
class Layout:
    """Columns of a table: the sources that are averaged on their own first, then the others."""

    science: tuple[str, ...] = ("Biology", "Material", "Physics", "Chemistry")
    others: tuple[str, ...] = ("edu_feedback", "mmlu_pro")
    labels: Mapping[str, str] | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """All columns."""
        return self.science + self.others

    def label(self, domain: str) -> str:
        """What stands above a domain's column."""
        return {**PAPER_LABELS, **(self.labels or {})}.get(domain, domain)


PAPER_LABELS = {
    "Biology": "BIO",
    "Material": "MAT",
    "Physics": "PHYS",
    "Chemistry": "CHEM",
    "edu_feedback": "Edu",
    "mmlu_pro": "MMLU-Pro",
    "svamp": "SVAMP",
    "gsm8k": "GSM8K",
}
PAPER = Layout()


def in_domain(grid: Grid, base: Scores) -> dict[str, Cell]:
    """in[src], for the sources tested on their own domain."""
    return {src: _cell([(row[src], base.get(src))]) for src, row in grid.items() if src in row}


def cross_domain(grid: Grid, base: Scores) -> dict[str, Cell]:
    """cross[src]: the mean over the other targets that both the source's model and the base were tested on."""
    cells = {}
    for src, row in grid.items():
        pairs = [(row[tgt], base.get(tgt)) for tgt in row if tgt != src and (tgt in base or not base)]
        if pairs:
            cells[src] = _cell(pairs)
    return cells


def _cell(pairs: Sequence[tuple[float, float | None]]) -> Cell:
    value = float(np.mean([v for v, _ in pairs]))
    baseline = [b for _, b in pairs if b is not None]
    return Cell(value, value - float(np.mean(baseline)) if len(baseline) == len(pairs) else None)


def average(cells: Mapping[str, Cell], sources: Iterable[str]) -> Cell | None:
    """The mean over those of `sources` that are there, in value and baseline; None if none is."""
    there = [cells[s] for s in sources if s in cells]
    if not there:
        return None
    deltas = [c.delta for c in there if c.delta is not None]
    delta = float(np.mean(deltas)) if len(deltas) == len(there) else None
    return Cell(float(np.mean([c.value for c in there])), delta)


def column_means(grid: Grid, targets: Iterable[str]) -> dict[str, float]:
    """Tables 7/8's "_Avg" row: a target's mean over the sources; not the same aggregate as `average`."""
    means = {}
    for target in targets:
        column = [row[target] for row in grid.values() if target in row]
        if column:
            means[target] = float(np.mean(column))
    return means


@dataclass(frozen=True)
class Setting:
    """How a table is set: its file's name without the ending, what stands above and below it, decimals of numbers."""

    name: str
    title: str = ""
    notes: Sequence[str] = ()
    decimals: int = 2


def summary(
    base: Scores,
    methods: Mapping[str, Grid],
    layout: Layout = PAPER,
    setting: Setting = Setting("table3"),
    others: Mapping[str, Scores] | None = None,
) -> Table:
    """Tables 3 and 4: the base, then each method's in- and cross-domain row.

    Args:
        base: Its score by target.
        methods: By label, the scores of each source's model by target.
        layout: The domains and their groups.
        setting: Names and words.
        others: Models that were trained on none of the sources, by target as the base is.
    """
    last = ["Avg."] if layout.others else []
    columns = [layout.label(d) for d in layout.science] + ["Avg."] + [layout.label(d) for d in layout.others] + last
    rows: list[tuple[str | Entry | None, ...]] = []

    def add(label: str, kind: str, cells: Mapping[str, Cell]) -> None:
        rows.append((label, kind, *_summary_entries(cells, layout, setting.decimals)))

    add("Base", "", {domain: Cell(value) for domain, value in base.items()})
    for label, scores in (others or {}).items():
        add(label, "", {t: _cell([(v, base.get(t))]) for t, v in scores.items()})
    for label, grid in methods.items():
        add(label, "in", in_domain(grid, base))
        add("", "cross", cross_domain(grid, base))
    return Table(setting.name, setting.title, ("Method", "", *columns), tuple(rows), tuple(setting.notes), labels=2)


def _summary_entries(cells: Mapping[str, Cell], layout: Layout, decimals: int) -> list[Entry | None]:
    ordered = [cells.get(d) for d in layout.science] + [average(cells, layout.science)]
    ordered += [cells.get(d) for d in layout.others] + ([average(cells, layout.domains)] if layout.others else [])
    return [None if c is None else Entry(c.value, c.delta, decimals) for c in ordered]


def transfer(
    base: Scores,
    methods: Mapping[str, Grid],
    targets: Sequence[str],
    layout: Layout = PAPER,
    setting: Setting = Setting("transfer"),
) -> Table:
    """What training for one source does to every target: a row a model, values with differences from the base."""
    rows: list[tuple[str | Entry | None, ...]] = [
        ("Base", "", *(Entry(base[t], None, setting.decimals) if t in base else None for t in targets))
    ]
    for label, grid in methods.items():
        for source, scores in grid.items():
            cells = {t: _cell([(scores[t], base.get(t))]) for t in targets if t in scores}
            shown = {t: Entry(cell.value, cell.delta, setting.decimals, t == source) for t, cell in cells.items()}
            rows.append((label, layout.label(source), *map(shown.get, targets)))
    header = ("Method", "trained for", *(layout.label(t) for t in targets))
    return Table(setting.name, setting.title, header, tuple(rows), tuple(setting.notes), labels=2)


def full_grid(
    base: Scores,
    methods: Mapping[str, Grid],
    layout: Layout = PAPER,
    setting: Setting = Setting("table7"),
    others: Mapping[str, Scores] | None = None,
) -> Table:
    """Tables 7 and 8: every source's model on every target, own domain in bold, and each method's "_Avg"; of what
    `summary` is given."""

    def row(label: str, scores: Scores, own: str | None = None) -> tuple[str | Entry | None, ...]:
        entries = [Entry(scores[d], None, setting.decimals, d == own) if d in scores else None for d in layout.domains]
        return (label, *entries)

    rows = [row("Base", base), *(row(label, scores) for label, scores in (others or {}).items())]
    for label, grid in methods.items():
        rows += [row(f"{label}_{layout.label(s)}", grid[s], own=s) for s in layout.domains if s in grid]
        rows.append(row(f"{label}_Avg", column_means(grid, layout.domains)))
    header = ("Model", *(layout.label(d) for d in layout.domains))
    return Table(setting.name, setting.title, header, tuple(rows), tuple(setting.notes))
