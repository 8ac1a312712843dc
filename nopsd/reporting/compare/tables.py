"""The paper's Tables 1-8 from a comparison's numbers, and our own: intervals, quality, material, cost and each run by
itself (SPEC §9.4-9.5).

Tables 1 and 2 are summaries of the rows that differ from N-OPSD in the selector alone, or in the retriever alone. A
table whose data are not there is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nopsd.evaluation.bootstrap import Interval
from nopsd.reporting.compare.results import ALL, KINDS, SCIENCE, Numbers, cells_of, numbers, over_questions, over_seeds
from nopsd.reporting.compare.views import OWN, RowFacts, View
from nopsd.reporting.cross_domain import full_grid, summary
from nopsd.reporting.table import Cell, Entry, Table, signed

METRICS = {"avg": ("accuracy", 2), "ece": ("ECE", 3)}
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
    return _summary(view, "avg", "table3", f"Table 3. {_avg(view)} in per cent, in- and cross-domain")


def calibration(view: View) -> Table | None:
    """Table 4."""
    return _summary(view, "ece", "table4", "Table 4. Expected calibration error, in- and cross-domain (less is better)")


def _summary(view: View, metric: str, name: str, title: str, labels: Sequence[str] | None = None) -> Table | None:
    found = numbers(view.results, metric)
    methods = {label: g for label, g in found.methods.items() if labels is None or label in labels}
    if not found.base or not (methods or found.others):
        return None
    others = found.others if labels is None else {}
    notes = [*_seed_note(view), "Differences from the base on the same targets.", *missing_notes(view, found)]
    return summary(found.base, methods, view.layout, METRICS[metric][1], name, title, notes, others)


def accuracy_grid(view: View) -> Table | None:
    """Table 7."""
    return _grid(view, "avg", "table7", f"Table 7. {_avg(view)} in per cent of every source's model on every target")


def calibration_grid(view: View) -> Table | None:
    """Table 8."""
    return _grid(view, "ece", "table8", "Table 8. ECE of every source's model on every target")


def _grid(view: View, metric: str, name: str, title: str) -> Table | None:
    found = numbers(view.results, metric)
    if not found.base:
        return None
    notes = [*_seed_note(view), 'Own domain in bold; "_Avg": a target\'s mean over the sources.']
    return full_grid(found.base, found.methods, view.targets, METRICS[metric][1], name, title, notes, found.others)


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
    table = _summary(view, "avg", name, f"{title} ({_avg(view)})", labels) if len(labels) > 1 else None
    if table is None:
        return None
    named = {label: f"{label}: {says(view.facts[label])}" for label in labels}
    rows = tuple((named.get(str(row[0]), row[0]), *row[1:]) for row in table.rows)
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
    """Differences from the base, or from the row `against`, with 95 % intervals: over questions, and with several seeds
    over these. No table where nothing can be set against that row."""
    if against is not None and against not in view.results.labels:
        return []
    what, decimals = METRICS[metric]
    name, other = ("intervals", "the base") if against is None else (f"against_{against}", against)
    kinds = [
        (
            "questions",
            over_questions(view.results, metric, view.layout, view.resamples, against=against),
            "paired bootstrap over questions, the same drawn for both models and for every seed",
        ),
        (
            "seeds",
            over_seeds(view.results, metric, view.layout, against),
            f"Student's t over {len(view.results.seeds)} seeds, each against {other} of the same seed",
        ),
    ]
    columns = [*view.layout.science, SCIENCE, *view.layout.others, *([ALL] if view.layout.others else [])]
    header = ("Method", "", *("Avg." if c in (SCIENCE, ALL) else view.layout.label(c) for c in columns))
    tables = []
    for over, found, how in kinds:
        rows = tuple(
            (label, kind, *(_signed_interval(cells[c], decimals) if c in cells else None for c in columns))
            for (label, kind), cells in found.items()
            if cells
        )
        if rows:
            title = f"Differences from {other} with 95 % intervals over {over}: {what}"
            notes = (f"By {how}.", *missing_notes(view, numbers(view.results, metric)))
            tables.append(Table(f"{name}_{metric}_{over}", title, header, rows, notes, labels=2))
    return tables


def quality(view: View) -> Table | None:
    """Further metrics on each model's own domain, means over sources and seeds."""
    names = ("avg", "maj", "pass", "unparsed", "truncated")
    rows: list[tuple[Cell, ...]] = []

    def add(label: str, kind: str, found: Sequence[Mapping[str, float]]) -> None:
        means = [100 * float(np.mean([m[_key(m, name)] for m in found])) for name in names]
        rest = [Entry(float(np.mean([m[key] for m in found]))) for key in ("distinct_answers", "mean_length")]
        rows.append((label, kind, *(Entry(value) for value in means), *rest))

    bases = [result.metrics for found in view.results.base.values() for result in found.values()]
    if not bases:
        return None
    add("Base", "all targets", bases)
    for label in view.results.labels:
        runs = [(source, found) for (name, source, _), found in view.results.runs.items() if name == label]
        inside = [found[source].metrics for source, found in runs if source in found]
        cross = [r.metrics for source, found in runs for target, r in found.items() if target != source]
        for kind, metrics in (("in", inside), ("cross", cross)):
            if metrics:
                add(label if kind == "in" else "", kind, metrics)
    k = int(bases[0]["samples"])
    header = ("Method", "", f"Avg@{k}", f"maj@{k}", f"pass@{k}", "unparsed", "truncated", "answers", "length")
    notes = ("Per cent, but for distinct answers a question and mean length in tokens.",)
    return Table("quality", "Answers: right, readable, whole, various", header, tuple(rows), notes, labels=2)


def _key(metrics: Mapping[str, float], name: str) -> str:
    return f"pass@{int(metrics['samples'])}" if name == "pass" else name


def material(view: View) -> Table | None:
    """Of what each row learned, how much was right; means over runs. Where a row loses, the first thing to look at."""
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(name for name, _, _ in view.material):
        found = [m for (name, _, _), m in view.material.items() if name == label]
        columns = [
            [getattr(m, name) for m in found if getattr(m, name) is not None]
            for name in ("pool", "selected", "shown", "misleading")
        ]
        rows.append((label, *(Entry(100 * float(np.mean(column))) if column else None for column in columns)))
    if not rows:
        return None
    notes = (
        "Per cent of the base model's zero-shot answers, and of contexts. Judged with labels after the fact; "
        "nothing was selected or trained by them, but by a method that says so.",
    )
    title = "Right answers among those of the pool, of the selected questions, and shown to the teacher"
    header = ("Method", "pool", "selected", "demonstrations", "contexts mostly wrong")
    return Table("material", title, header, tuple(rows), notes)


def cost(view: View) -> Table | None:
    """What training took, means over runs."""
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(name for name, _, _ in view.costs):
        found = [c for (name, _, _), c in view.costs.items() if name == label]
        mean = [float(np.mean(column)) for column in zip(*((c.rollout_tokens, c.train_tokens) for c in found))]
        steps, seconds = (float(np.mean([getattr(c, name) for c in found])) for name in ("steps", "seconds"))
        rows.append(
            (
                label,
                str(len(found)),
                Entry(steps, decimals=0),
                *(Entry(m / 1000, decimals=1) for m in mean),
                Entry(seconds, decimals=1),
            )
        )
    if not rows:
        return None
    header = ("Method", "runs", "steps", "pool rollouts, 1000 tokens", "training, 1000 tokens", "training, s")
    notes = ("Means over runs. Tokens sampled by the servers; seconds: wall time of the steps' phases as logged.",)
    return Table("cost", "Cost of training", header, tuple(rows), notes)


def each_run(view: View) -> Table | None:
    """Every run by itself, for statistics of the reader's own."""
    found = {  # by seed and metric, rows of Table 3 or 4
        (seed, metric): cells_of(numbers(view.results, metric, [seed]), view.layout)
        for seed in view.results.seeds
        for metric in METRICS
    }
    rows: list[tuple[Cell, ...]] = []
    for label, source, seed in view.results.runs:
        of = [
            (found[seed, metric][label, kind].get(source), METRICS[metric][1]) for metric in METRICS for kind in KINDS
        ]
        entries = [None if cell is None else Entry(cell.value, cell.delta, decimals) for cell, decimals in of]
        rows.append((label, view.layout.label(source), str(seed), *entries))
    if not rows:
        return None
    name = _avg(view)
    header = ("Method", "source", "seed", f"{name} in", f"{name} cross", "ECE in", "ECE cross")
    return Table("runs", "Each run", header, tuple(rows), ("Differences from the base of the same seed.",), labels=3)


def missing_notes(view: View, found: Numbers) -> list[str]:
    """A footnote for each row that lacks sources or seeds."""
    notes = []
    sources = dict.fromkeys(s for grid in found.methods.values() for s in grid)
    for label, grid in found.methods.items():
        absent = [view.layout.label(s) for s in sources if s not in grid]
        if absent:
            notes.append(f"{label}: no run on {', '.join(absent)}, left out of value and baseline alike.")
        for source in grid:
            seeds = [seed for name, s, seed in view.results.runs if (name, s) == (label, source)]
            if view.results.seeds and sorted(seeds) != view.results.seeds and label not in view.results.others:
                shown = ", ".join(map(str, sorted(seeds)))
                notes.append(f"{label} on {view.layout.label(source)}: seeds {shown} alone.")
    return notes


def _seed_note(view: View) -> list[str]:
    seeds = view.results.seeds
    return [f"Means over seeds {', '.join(map(str, seeds))}."] if len(seeds) > 1 else []


def _avg(view: View) -> str:
    first = next((r for found in view.results.base.values() for r in found.values()), None)
    return "Avg" if first is None else f"Avg@{first.samples}"


def _signed_interval(value: Interval, decimals: int) -> str:
    point = signed(value.value, decimals)
    if value.low is None or value.high is None:
        return point
    return f"{point} [{signed(value.low, decimals)}, {signed(value.high, decimals)}]"
