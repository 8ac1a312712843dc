"""The paper's Tables 1-8 from a comparison's numbers, and differences with intervals.

A row is compared with its own base model alone. Tables 1 and 2 are summaries of the rows that differ from N-OPSD in the
selector alone, or in the retriever alone. A table whose data are not there is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nopsd.evaluation.bootstrap import Interval
from nopsd.reporting.compare.results import (
    ALL,
    METRICS,
    SCIENCE,
    Numbers,
    Results,
    numbers,
    over_questions,
    over_seeds,
)
from nopsd.reporting.compare.run_tables import cost, each_run, material, quality
from nopsd.reporting.compare.views import OWN, RowFacts, View, avg_name, each_model
from nopsd.reporting.cross_domain import Setting, full_grid, summary, transfer
from nopsd.reporting.table import Cell, Entry, Table, signed

DIRECTION = {"neuron_count": "bottom {b:.0f} % (fewest neurons)", "neuron_count_top": "top {b:.0f} % (most neurons)"}


def all_tables(view: View) -> list[Table]:
    """Those there are data for, in the paper's order and then ours."""
    made = [
        selection_ablation(view),
        context_ablation(view),
        accuracy(view),
        calibration(view),
        selected_pool(view),
        entropy_gaps(view),
        accuracy_grid(view),
        calibration_grid(view),
        transfer_matrix(view),
        *intervals(view, "avg"),
        *intervals(view, "ece"),
        *intervals(view, "avg", OWN),
        *intervals(view, "ece", OWN),
        quality(view),
        material(view),
        cost(view),
        each_run(view),
    ]
    return [table for table in made if table is not None]


def accuracy(view: View) -> Table | None:
    """Table 3."""
    return _summary(view, "avg", "table3", f"Table 3. {avg_name(view)} in per cent, in- and cross-domain")


def calibration(view: View) -> Table | None:
    """Table 4."""
    return _summary(view, "ece", "table4", "Table 4. Expected calibration error, in- and cross-domain (less is better)")


def _summary(view: View, metric: str, name: str, title: str, labels: Sequence[str] | None = None) -> Table | None:
    def of(results: Results) -> Table | None:
        found = numbers(results, metric)
        methods = {label: g for label, g in found.methods.items() if labels is None or label in labels}
        others = found.others if labels is None else {}
        if not found.base or not (methods or found.others) or (labels is not None and len(methods) < 2):
            return None
        notes = [*_seed_note(results), "Differences from the base on the same targets."]
        notes += missing_notes(view, results, found)
        return summary(found.base, methods, view.layout, Setting(name, title, notes, METRICS[metric][1]), others)

    return each_model(view, of)


def accuracy_grid(view: View) -> Table | None:
    """Table 7."""
    return _grid(
        view, "avg", "table7", f"Table 7. {avg_name(view)} in per cent of every source's model on every target"
    )


def calibration_grid(view: View) -> Table | None:
    """Table 8."""
    return _grid(view, "ece", "table8", "Table 8. ECE of every source's model on every target")


def transfer_matrix(view: View) -> Table | None:
    """Every trained model's change on every target, where there are several sources (as NAIT's capabilities)."""

    def of(results: Results) -> Table | None:
        found = numbers(results, "avg")
        if not found.base or len({source for grid in found.methods.values() for source in grid}) < 2:
            return None
        targets = [d for d in view.targets.domains if d in found.base]
        notes = [*_seed_note(results), "Differences from the base on the same target; own domain in bold."]
        title = f"Transfer: {avg_name(view)} in per cent of every source's model on every target"
        return transfer(
            found.base, found.methods, targets, view.targets, Setting("transfer", title, notes, METRICS["avg"][1])
        )

    return each_model(view, of)


def _grid(view: View, metric: str, name: str, title: str) -> Table | None:
    def of(results: Results) -> Table | None:
        found = numbers(results, metric)
        if not found.base:
            return None
        notes = [*_seed_note(results), 'Own domain in bold; "_Avg": a target\'s mean over the sources.']
        return full_grid(
            found.base, found.methods, view.targets, Setting(name, title, notes, METRICS[metric][1]), found.others
        )

    return each_model(view, of)


def selection_ablation(view: View) -> Table | None:
    """Table 1: other selectors, the same context."""
    same = _ablation(view, lambda f, own: (f.retriever, f.m) == (own.retriever, own.m))
    return _relabelled(view, same, "table1", "Table 1. Which questions are selected", _selector)


def context_ablation(view: View) -> Table | None:
    """Table 2: other demonstrations, the same questions."""
    same = _ablation(view, lambda f, own: (f.selector, f.fraction) == (own.selector, own.fraction))
    return _relabelled(view, same, "table2", "Table 2. Which demonstrations the teacher sees", _context)


def _ablation(view: View, alike: Callable[[RowFacts, RowFacts], bool]) -> list[str]:
    own = view.facts.get(OWN)
    if own is None:
        return []
    distilled = {label: facts for label, facts in view.facts.items() if facts.trainer == "distill"}
    return [label for label, facts in distilled.items() if label == OWN or (facts != own and alike(facts, own))]


def _relabelled(
    view: View, labels: Sequence[str], name: str, title: str, says: Callable[[RowFacts], str]
) -> Table | None:
    table = _summary(view, "avg", name, f"{title} ({avg_name(view)})", labels) if len(labels) > 1 else None
    if table is None:
        return None
    named = {label: f"{label}: {says(view.facts[label])}" for label in labels}
    at = table.labels - 2  # the column of the methods
    rows = tuple((*row[:at], named.get(str(row[at]), row[at]), *row[at + 1 :]) for row in table.rows)
    return Table(table.name, table.title, table.header, rows, table.notes, table.labels)


def _selector(facts: RowFacts) -> str:
    return DIRECTION.get(facts.selector, facts.selector + ", {b:.0f} %").format(b=100 * facts.fraction)


def _context(facts: RowFacts) -> str:
    return f"{facts.retriever}, m {facts.m}"


def selected_pool(view: View) -> Table | None:
    """Table 5: the base model on the selected questions."""
    if not view.selected:
        return None
    rows: list[tuple[Cell, ...]] = []
    for source, result in view.selected.items():
        maj, avg = 100 * result.metrics["maj"], 100 * result.metrics["avg"]
        rows.append((view.layout.label(source), str(len(result.rows)), Entry(maj), Entry(avg), Entry(maj - avg)))
    k = next(iter(view.selected.values())).samples
    header = ("Source", "questions", f"Maj@{k}", f"Avg@{k}", "Maj−Avg")
    notes = ("Per cent. Judged with labels after the fact; nothing was selected or trained by them.",)
    return Table("table5", "Table 5. The base model on the selected questions S", header, tuple(rows), notes)


def entropy_gaps(view: View) -> Table | None:
    """Table 6."""
    if not view.entropy:
        return None
    rows: list[tuple[Cell, ...]] = []
    for source, gap in view.entropy.items():
        diversity = view.diversity.get(source)
        rows.append(
            (
                view.layout.label(source),
                Entry(gap.student, decimals=3),
                Entry(gap.teacher, decimals=3),
                _signed_interval(gap.gap, 4),
                None if diversity is None else Entry(diversity, decimals=3),
            )
        )
    header = ("Source", "H student", "H teacher", "ΔH [95 %]", "mean pairwise J")
    notes = (
        f"Nats a token ({view.estimator}), mean over prompts of S; each policy on its own samples; paired bootstrap.",
        "Student: zero-shot. Teacher: with its demonstrations. Below 0: the context informs. J: distance, of the pool.",
    )
    return Table("table6", "Table 6. Entropy gap between teacher and student", header, tuple(rows), notes)


def intervals(view: View, metric: str, against: str | None = None) -> list[Table]:
    """Differences with 95 % intervals: over questions, and with several seeds over these.

    Args:
        view: The comparison's.
        metric: avg, maj or ece.
        against: The row that they are from; None: the base.

    Returns:
        No table where nothing can be compared with that row.
    """
    tables = (
        each_model(view, lambda results: _question_intervals(view, results, metric, against)),
        each_model(view, lambda results: _seed_intervals(view, results, metric, against)),
    )
    return [table for table in tables if table is not None]


def _question_intervals(view: View, results: Results, metric: str, against: str | None) -> Table | None:
    if against is not None and against not in results.labels:
        return None
    found = over_questions(results, metric, view.layout, view.resamples, against=against)
    how = "paired bootstrap over questions, the same drawn for both models and for every seed"
    return _intervals(view, results, metric, against, "questions", found, how)


def _seed_intervals(view: View, results: Results, metric: str, against: str | None) -> Table | None:
    if against is not None and against not in results.labels:
        return None
    how = f"Student's t over {len(results.seeds)} seeds, each against {against or 'the base'} of the same seed"
    found = over_seeds(results, metric, view.layout, against)
    return _intervals(view, results, metric, against, "seeds", found, how)


def _intervals(
    view: View,
    results: Results,
    metric: str,
    against: str | None,
    over: str,
    found: Mapping[tuple[str, str], Mapping[str, Interval]],
    how: str,
) -> Table | None:
    what, decimals = METRICS[metric]
    columns = [*view.layout.science, SCIENCE, *view.layout.others, *([ALL] if view.layout.others else [])]
    rows = tuple(
        (label, kind, *(_signed_interval(cells[c], decimals) if c in cells else None for c in columns))
        for (label, kind), cells in found.items()
        if cells
    )
    if not rows:
        return None
    name = "intervals" if against is None else f"against_{against}"
    header = ("Method", "", *("Avg." if c in (SCIENCE, ALL) else view.layout.label(c) for c in columns))
    title = f"Differences from {against or 'the base'} with 95 % intervals over {over}: {what}"
    notes = (f"By {how}.", *missing_notes(view, results, numbers(results, metric)))
    return Table(f"{name}_{metric}_{over}", title, header, rows, notes, labels=2)


def missing_notes(view: View, results: Results, found: Numbers) -> list[str]:
    """A footnote for each row that lacks sources or seeds."""
    notes = []
    sources = dict.fromkeys(s for grid in found.methods.values() for s in grid)
    for label, grid in found.methods.items():
        absent = [view.layout.label(s) for s in sources if s not in grid]
        if absent:
            notes.append(f"{label}: no run on {', '.join(absent)}, left out of value and baseline alike.")
        for source in grid:
            seeds = [seed for name, s, seed in results.runs if (name, s) == (label, source)]
            if results.seeds and sorted(seeds) != results.seeds and label not in results.others:
                shown = ", ".join(map(str, sorted(seeds)))
                notes.append(f"{label} on {view.layout.label(source)}: seeds {shown} alone.")
    return notes


def _seed_note(results: Results) -> list[str]:
    seeds = results.seeds
    return [f"Means over seeds {', '.join(map(str, seeds))}."] if len(seeds) > 1 else []


def _signed_interval(value: Interval, decimals: int) -> str:
    point = signed(value.value, decimals)
    if value.low is None or value.high is None:
        return point
    return f"{point} [{signed(value.low, decimals)}, {signed(value.high, decimals)}]"
