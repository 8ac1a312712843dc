"""What the tables and figures of a comparison are drawn from besides evaluations, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nopsd.evaluation.entropy import EntropyGap
from nopsd.evaluation.results import DomainResult
from nopsd.reporting.compare.results import Model, Results
from nopsd.reporting.cross_domain import PAPER, Layout
from nopsd.reporting.table import Table

OWN = "nopsd"  # the row that the ablations are set against, and whose first run the diagnostics are of


@dataclass(frozen=True)
class Cost:
    """What a run's training took: tokens sampled beforehand and while training, and the wall seconds of its steps."""

    rollout_tokens: float
    train_tokens: float
    seconds: float
    steps: int


@dataclass(frozen=True)
class Material:
    """Mean shares of right zero-shot answers: of the pool's questions, of those selected, and of those whose answers
    the teacher is shown; and the share of contexts of which more is wrong than right. None: it is shown no other
    question's answers."""

    pool: float
    selected: float
    shown: float | None = None
    misleading: float | None = None


@dataclass(frozen=True)
class RowFacts:
    """How a row's runs choose and demonstrate, for Tables 1 and 2."""

    trainer: str | None
    selector: str
    fraction: float
    retriever: str
    m: int


@dataclass(frozen=True)
class Pool:
    """A source's pool: neuron counts, and the share of each question's own zero-shot answers that are right (NaN:
    unknown), in the same order."""

    counts: Sequence[float]
    correct: Sequence[float]
    samples: int


@dataclass
class View:
    """All that is reported; what is missing leaves a stated gap. A row is compared with its own base model alone."""

    models: dict[Model, Results]
    layout: Layout  # of the sources
    targets: Layout  # of all domains that were evaluated
    facts: dict[str, RowFacts] = field(default_factory=dict)  # by label
    costs: dict[tuple[str, str, int], Cost] = field(default_factory=dict)
    material: dict[tuple[str, str, int], Material] = field(default_factory=dict)
    selected: dict[str, DomainResult] = field(default_factory=dict)  # by source: the base on S
    entropy: dict[str, EntropyGap] = field(default_factory=dict)
    estimator: str = "shannon"
    diversity: dict[str, float] = field(default_factory=dict)  # by source: mean pairwise Jaccard distance of the pool
    pools: dict[str, Pool] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # runs that are not there, with the reason
    resamples: int = 1000
    about: list[str] = field(default_factory=list)  # a sentence each

    def model_names(self) -> dict[Model, str]:
        """The models' names: the last part of their paths, and of the hashes too where two would be alike."""
        last = {model: Path(model.path).name for model in self.models}
        several = {name for name in last.values() if list(last.values()).count(name) > 1}
        paths = {model: model.path if name in several else name for model, name in last.items()}
        alike = {name for name in paths.values() if list(paths.values()).count(name) > 1}
        return {model: f"{name} {model.hash[:8]}" if name in alike else name for model, name in paths.items()}


def layout_for(domains: Sequence[str]) -> Layout:
    """The paper's columns for its own domains, else one block of all."""
    if not set(domains) & set(PAPER.domains):
        return Layout(tuple(domains), ())
    science = tuple(d for d in PAPER.science if d in domains)
    others = tuple(d for d in domains if d not in science)
    return Layout(science, others) if science else Layout(others, ())


def each_model(view: View, make: Callable[[Results], Table | None]) -> Table | None:
    """The tables of all base models as one: where there are several, the model's name is the first column."""
    names = view.model_names()
    made = {names[model]: table for model, results in view.models.items() if (table := make(results)) is not None}
    first = next(iter(made.values()), None)
    if first is None or len(view.models) == 1:
        return first
    rows = [(name if i == 0 else "", *row) for name, table in made.items() for i, row in enumerate(table.rows)]
    notes = dict.fromkeys(note for table in made.values() for note in table.notes)
    header = ("Base model", *first.header)
    return Table(first.name, first.title, header, tuple(rows), tuple(notes), labels=first.labels + 1)


def avg_name(view: View) -> str:
    """Avg@k, with the samples a question."""
    each = (r for results in view.models.values() for found in results.base.values() for r in found.values())
    first = next(each, None)
    return "Avg" if first is None else f"Avg@{first.samples}"
