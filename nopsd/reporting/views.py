"""What the report is drawn from, as plain data: the caller fills in what there is, the rest stays empty.

`ReportInputs` is handed to `nopsd.reporting.report.write_report`; every field but the title may be
missing, and the report has a note in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nopsd.data.records import Question
from nopsd.evaluation.results import DomainResult
from nopsd.evaluation.unlabelled import Comparison
from nopsd.reporting.examples import Example


@dataclass(frozen=True)
class PoolView:
    """The pool's questions as parallel columns, in any order."""

    counts: Sequence[float]  # neuron count s(x); empty where nobody scored neurons
    lengths: Sequence[float]  # zero-shot response, tokens
    selected: Sequence[bool]
    truncated: Sequence[bool] | None = None
    correct: Sequence[float | None] | None = None  # share of right zero-shot answers, from evaluation; None: unknown
    agreement: Sequence[float] | None = None  # share of the majority answer, label-free; needs several samples
    threshold: float | None = None  # the selector's; drawn if it bounds the selected neuron counts
    selector: str = "neuron_count"
    members: np.ndarray | None = None  # [N, L] neurons of each question's set in each layer
    widths: Sequence[int] = ()  # neurons that each layer has


@dataclass(frozen=True)
class DemoView:
    """Distances of the selected questions' demonstrations, nearest first; and the mean Jaccard of random pairs."""

    distances: Sequence[Sequence[float]]
    mean_pairwise: float | None = None
    measure: str = "Jaccard distance J"


@dataclass(frozen=True)
class HeldOut:
    """Base and trained model on questions held out of the pool, without labels.

    `gap`: why there is no comparison. `judged`: domain -> both models' results on a labelled set, for what a vote share
    is worth there.
    """

    comparison: Comparison | None = None
    conclusion: Sequence[str] = ()
    questions: Mapping[str, Question] = field(default_factory=dict)
    judged: Mapping[str, tuple[DomainResult | None, DomainResult | None]] = field(default_factory=dict)
    gap: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """One run."""

    title: str
    pool_domain: str = ""
    training: Sequence[Mapping[str, Any]] = ()  # rows of metrics.jsonl
    before: Mapping[str, DomainResult] = field(default_factory=dict)  # domain -> base model's result
    after: Mapping[str, DomainResult] = field(default_factory=dict)
    pool: PoolView | None = None
    demos: DemoView | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()  # anything the reader must know first, a sentence each
    held: HeldOut | None = None  # None: the run holds no questions out
    examples: Sequence[Example] = ()
    done: Sequence[str] = ()  # what the run did, a sentence each
    command: str = ""  # that repeats it
