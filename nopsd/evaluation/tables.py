"""Cross-domain numbers and the paper's table layouts (SPEC §9.4), as markdown.

In:  `grid[source][target]`, a metric of the model trained on `source`, tested on `target`, and
     `base[target]`, the same of the base model. Accuracies in per cent, ECE as a fraction.
Out: in[src] = grid[src][src]; cross[src] = mean of the other targets; each with its difference from
     the base on the same targets. Sources or targets that are missing drop out of value and baseline alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
        return self.science + self.others

    def label(self, domain: str) -> str:
        return {**PAPER_LABELS, **(self.labels or {})}.get(domain, domain)


PAPER_LABELS = {
    "Biology": "BIO", "Material": "MAT", "Physics": "PHYS", "Chemistry": "CHEM",
    "edu_feedback": "Edu", "mmlu_pro": "MMLU-Pro",
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


def summary_table(base: Scores, methods: Mapping[str, Grid], layout: Layout = PAPER, decimals: int = 2) -> str:
    """The layout of Table 3 (accuracy, 2 decimals) and Table 4 (ECE, 3 decimals)."""
    columns = [layout.label(d) for d in layout.science] + ["Avg."] + [layout.label(d) for d in layout.others] + ["Avg."]
    base_cells = {domain: Cell(value) for domain, value in base.items()}
    rows = [["Base", "", *_summary_cells(base_cells, layout, decimals)]]
    for name, grid in methods.items():
        rows.append([name, "in", *_summary_cells(in_domain(grid, base), layout, decimals)])
        rows.append(["", "cross", *_summary_cells(cross_domain(grid, base), layout, decimals)])
    return markdown_table(["Method", "", *columns], rows)


def _summary_cells(cells: Mapping[str, Cell], layout: Layout, decimals: int) -> list[str]:
    ordered = [cells.get(d) for d in layout.science] + [average(cells, layout.science)]
    ordered += [cells.get(d) for d in layout.others] + [average(cells, layout.domains)]
    return [_shown(cell, decimals) for cell in ordered]


def grid_table(base: Scores, methods: Mapping[str, Grid], layout: Layout = PAPER, decimals: int = 2) -> str:
    """The layout of Tables 7 and 8: every source's model on every target, own domain in bold, and "_Avg"."""
    def row(name: str, scores: Scores, own: str | None = None) -> list[str]:
        shown = {d: f"{scores[d]:.{decimals}f}" for d in layout.domains if d in scores}
        return [name, *(f"**{shown[d]}**" if d == own and d in shown else shown.get(d, "–") for d in layout.domains)]

    rows = [row("Base", base)]
    for name, grid in methods.items():
        rows += [row(f"{name}_{layout.label(s)}", grid[s], own=s) for s in layout.domains if s in grid]
        rows.append(row(f"{name}_Avg", column_means(grid, layout.domains)))
    return markdown_table(["Model", *(layout.label(d) for d in layout.domains)], rows)


def _shown(cell: Cell | None, decimals: int) -> str:
    if cell is None:
        return "–"
    if cell.delta is None:
        return f"{cell.value:.{decimals}f}"
    return f"{cell.value:.{decimals}f} <sub>{signed(cell.delta, decimals)}</sub>"


def signed(value: float, decimals: int) -> str:
    """With its sign, and never a negative nought."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table, first column to the left, the others to the right."""
    clean: Callable[[str], str] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    lines = ["| " + " | ".join(map(clean, row)) + " |" for row in [header, *rows]]
    lines.insert(1, "|:---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines) + "\n"
