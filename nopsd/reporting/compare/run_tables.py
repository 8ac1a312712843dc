"""Our own tables of a comparison's runs: quality of the answers, what was learned from, cost, each run by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nopsd.reporting.compare.results import KINDS, METRICS, Results, Run, cells_of, numbers
from nopsd.reporting.compare.views import Cost, Material, View, avg_name, each_model
from nopsd.reporting.table import Cell, Entry, Table


def quality(view: View) -> Table | None:
    """More metrics on each model's own domain, means over sources and seeds."""
    return each_model(view, _quality)


def _quality(results: Results) -> Table | None:
    names = ("avg", "maj", "pass", "unparsed", "truncated")
    rows: list[tuple[Cell, ...]] = []

    def add(label: str, kind: str, found: Sequence[Mapping[str, float]]) -> None:
        means = [100 * float(np.mean([m[_key(m, name)] for m in found])) for name in names]
        rest = [Entry(float(np.mean([m[key] for m in found]))) for key in ("distinct_answers", "mean_length")]
        rows.append((label, kind, *(Entry(value) for value in means), *rest))

    bases = [result.metrics for found in results.base.values() for result in found.values()]
    if not bases:
        return None
    add("Base", "all targets", bases)
    for label in results.labels:
        runs = [(source, found) for (name, source, _), found in results.runs.items() if name == label]
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
    return each_model(view, lambda results: _material({k: m for k, m in view.material.items() if k in results.runs}))


def _material(materials: Mapping[Run, Material]) -> Table | None:
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(name for name, _, _ in materials):
        found = [m for (name, _, _), m in materials.items() if name == label]
        columns = [
            [getattr(m, name) for m in found if getattr(m, name) is not None]
            for name in ("pool", "selected", "shown", "misleading")
        ]
        rows.append((label, *(Entry(100 * float(np.mean(column))) if column else None for column in columns)))
    if not rows:
        return None
    notes = (
        "Per cent of the base model's zero-shot answers, and of contexts. Judged with labels after the fact; "
        "nothing was selected or trained by them, but by a method that reads labels.",
    )
    title = "Right answers among those of the pool, of the selected questions, and shown to the teacher"
    header = ("Method", "pool", "selected", "demonstrations", "contexts mostly wrong")
    return Table("material", title, header, tuple(rows), notes)


def cost(view: View) -> Table | None:
    """What training took, means over runs."""
    return each_model(view, lambda results: _cost({k: c for k, c in view.costs.items() if k in results.runs}))


def _cost(costs: Mapping[Run, Cost]) -> Table | None:
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(name for name, _, _ in costs):
        found = [c for (name, _, _), c in costs.items() if name == label]
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
    return each_model(view, lambda results: _each_run(view, results))


def _each_run(view: View, results: Results) -> Table | None:
    found = {  # by seed and metric, rows of Table 3 or 4
        (seed, metric): cells_of(numbers(results, metric, [seed]), view.layout)
        for seed in results.seeds
        for metric in METRICS
    }
    rows: list[tuple[Cell, ...]] = []
    for label, source, seed in results.runs:
        of = [
            (found[seed, metric][label, kind].get(source), METRICS[metric][1]) for metric in METRICS for kind in KINDS
        ]
        entries = [None if cell is None else Entry(cell.value, cell.delta, decimals) for cell, decimals in of]
        rows.append((label, view.layout.label(source), str(seed), *entries))
    if not rows:
        return None
    name = avg_name(view)
    header = ("Method", "source", "seed", f"{name} in", f"{name} cross", "ECE in", "ECE cross")
    return Table("runs", "Each run", header, tuple(rows), ("Differences from the base of the same seed.",), labels=3)
