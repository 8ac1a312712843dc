"""The evaluations of one base model and of the models trained from it, as grids: method, source and seed by target.

In: DomainResults. Out: the numbers that tables are made of, seeds averaged, with intervals over seeds (Student's t) and
over questions (paired bootstrap against the base or another row, the same questions drawn on both sides and for every
seed).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from nopsd.evaluation.bootstrap import LEVEL, Interval, headline, interval, resample_counts
from nopsd.evaluation.results import DomainResult, check_same_questions
from nopsd.reporting.cross_domain import Cell, Grid, Layout, Scores, average, cross_domain, in_domain

Run = tuple[str, str, int]  # label, source, seed
ByTarget = Mapping[str, DomainResult]
METRICS = {"avg": ("accuracy", 2), "ece": ("ECE", 3)}  # of the tables: name and decimals
SCALE = {"avg": 100.0, "maj": 100.0, "ece": 1.0}


@dataclass(frozen=True)
class Model:
    """A base model: its path as configured, and the hash of its weights (empty: not known)."""

    path: str
    hash: str = ""


@dataclass
class Results:
    """All that was evaluated of one base model. `base`: by seed; `others`: models that were trained on none of the
    sources."""

    base: dict[int, dict[str, DomainResult]] = field(default_factory=dict)
    runs: dict[Run, ByTarget] = field(default_factory=dict)
    others: dict[str, ByTarget] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Rows, in order of appearance."""
        return list(dict.fromkeys(label for label, _, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        return sorted(self.base)


@dataclass(frozen=True)
class Numbers:
    """One metric's means over seeds, as the tables take them."""

    base: Scores
    methods: Mapping[str, Grid]
    others: Mapping[str, Scores]


def numbers(results: Results, metric: str, seeds: Sequence[int] | None = None) -> Numbers:
    """A metric of every run, averaged over seeds.

    Args:
        results: Of one base model.
        metric: avg or maj (per cent), or ece.
        seeds: Those alone; None: all there are of each run.
    """
    scale, wanted = SCALE[metric], set(results.seeds if seeds is None else seeds)

    def value(result: DomainResult) -> float:
        return scale * result.metrics[metric]

    base = _mean_by_target([{t: value(r) for t, r in results.base[s].items()} for s in results.base if s in wanted])
    methods: dict[str, dict[str, Scores]] = {}
    for label in results.labels:
        for source in dict.fromkeys(s for name, s, _ in results.runs if name == label):
            rows = [
                {t: value(r) for t, r in found.items()}
                for (name, s, seed), found in results.runs.items()
                if (name, s) == (label, source) and seed in wanted
            ]
            if rows:
                methods.setdefault(label, {})[source] = _mean_by_target(rows)
    others = {name: {t: value(r) for t, r in found.items()} for name, found in results.others.items()}
    return Numbers(base, methods, others)


def _mean_by_target(rows: Sequence[Scores]) -> dict[str, float]:
    targets = dict.fromkeys(t for row in rows for t in row)
    return {t: float(np.mean([row[t] for row in rows if t in row])) for t in targets}


def check_paired(results: Results) -> None:
    """DataError unless every model answered the base's questions."""
    everything = [
        *((seed, found) for (_, _, seed), found in results.runs.items()),
        *((seed, found) for found in results.others.values() for seed in results.seeds[:1]),
    ]
    for seed, found in everything:
        for target, result in found.items():
            if target in results.base.get(seed, {}):
                check_same_questions(results.base[seed][target], result)


Cells = dict[str, Cell]  # by source, "SCIENCE" and "ALL" the averages
KINDS: dict[str, Callable[[Grid, Scores], dict[str, Cell]]] = {"in": in_domain, "cross": cross_domain}
SCIENCE, ALL = " science", " all"  # no domain's name begins with a space


def cells_of(found: Numbers, layout: Layout, against: str | None = None) -> dict[tuple[str, str], Cells]:
    """The rows of Table 3 as cells, by (label, in|cross).

    Args:
        found: The numbers of all rows.
        layout: The domains and their groups.
        against: The row that differences are from, source by source: of the two models that were trained on the same
            domain. None: the base.
    """
    rows: dict[tuple[str, str], Cells] = {}
    for label, grid in found.methods.items():
        if label == against:
            continue
        for kind, of in KINDS.items():
            cells = of(grid, found.base) if against is None else _beside(of, grid, found.methods.get(against, {}))
            for name, members in ((SCIENCE, layout.science), (ALL, layout.domains)):
                if (cell := average(cells, members)) is not None:
                    cells[name] = cell
            rows[label, kind] = cells
    return rows


def _beside(of: Callable[[Grid, Scores], dict[str, Cell]], grid: Grid, other: Grid) -> dict[str, Cell]:
    """The cells of the sources that both rows have, against the other row's model of the same source."""
    return {
        source: cell
        for source in grid
        if source in other
        for cell in of({source: grid[source]}, other[source]).values()
    }


def over_seeds(
    results: Results, metric: str, layout: Layout, against: str | None = None
) -> dict[tuple[str, str], dict[str, Interval]]:
    """Differences, as `cells_of`: mean over seeds with Student's t interval.

    Args:
        results: Of one base model.
        metric: avg, maj or ece.
        layout: The domains and their groups.
        against: The row that differences are from; None: the base.

    Returns:
        By row and cell, of the cells that all seeds have.
    """
    each = [cells_of(numbers(results, metric, [seed]), layout, against) for seed in results.seeds]
    found: dict[tuple[str, str], dict[str, Interval]] = {}
    for row in each[0] if each else {}:
        for name in each[0][row]:
            deltas = [cells[row][name].delta for cells in each if name in cells.get(row, {})]
            if len(deltas) == len(each) > 1 and None not in deltas:
                found.setdefault(row, {})[name] = t_interval([d for d in deltas if d is not None])
    return found


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean ± t · s/√n, n - 1 degrees of freedom; ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least two")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def over_questions(
    results: Results, metric: str, layout: Layout, resamples: int, seed: int = 0, against: str | None = None
) -> dict[tuple[str, str], dict[str, Interval]]:
    """Differences (see `cells_of`) with percentile intervals over questions.

    Each target's questions are drawn once a resample, for base and methods, all seeds and all sources alike.

    Args:
        results: Of all runs.
        metric: `avg`, `maj` (per cent) or `ece`.
        layout: Which sources and targets a table has.
        resamples: Of the questions; 0: nothing is returned.
        seed: Of the resamples.
        against: The row that differences are from; None: the base.
    """
    if not resamples:
        return {}
    point = cells_of(numbers(results, metric), layout, against)
    drawn = _drawn(results, metric, resamples, seed)
    per_resample = [cells_of(drawn(b), layout, against) for b in range(resamples)]
    return {
        row: {
            name: interval(cell.delta, np.array([cells[row][name].delta for cells in per_resample]))
            for name, cell in cells.items()
            if cell.delta is not None
        }
        for row, cells in point.items()
    }


def _drawn(results: Results, metric: str, resamples: int, seed: int) -> Callable[[int], Numbers]:
    """b -> the numbers of resample b."""
    counts: dict[str, np.ndarray] = {}

    def of(result: DomainResult) -> np.ndarray:
        n = len(result.rows)
        if result.domain not in counts:
            counts[result.domain] = resample_counts(n, resamples, seed + len(counts))
        return SCALE[metric] * headline(result.outcomes, result.ece_bins, counts[result.domain])[metric]

    base = _stacked([{t: of(r) for t, r in found.items()} for found in results.base.values()])
    methods = {
        label: {
            source: _stacked(
                [
                    {t: of(r) for t, r in found.items()}
                    for (name, s, _), found in results.runs.items()
                    if (name, s) == (label, source)
                ]
            )
            for source in dict.fromkeys(s for name, s, _ in results.runs if name == label)
        }
        for label in results.labels
    }

    def at(b: int) -> Numbers:
        grids = {
            label: {source: {t: float(v[b]) for t, v in row.items()} for source, row in grid.items()}
            for label, grid in methods.items()
        }
        return Numbers({t: float(v[b]) for t, v in base.items()}, grids, {})

    return at


def _stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    targets = dict.fromkeys(t for row in rows for t in row)
    return {t: np.mean([row[t] for row in rows if t in row], axis=0) for t in targets}
