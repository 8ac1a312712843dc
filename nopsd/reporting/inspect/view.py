"""What `nopsd inspect` shows of a scored pool, as plain data; and the numbers that text and figures share.

In: filled in by `nopsd.tasks.inspect` from a run folder. Nothing here reads a file.
`correct` comes from an evaluation and is shown only; no stage before evaluation sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nopsd.evaluation.metrics import Array
from nopsd.reporting.correlations import Correlation, correlation
from nopsd.reporting.inspect.overlap import Near, Overlap

# What each label-free column is, and whether the model is more certain where it is greater (+1), less (-1) or neither.
SIGNALS: dict[str, tuple[str, int]] = {
    "majority_conf": ("majority answer's share", 1),
    "nad_agreement": ("Jaccard similarity of its rollouts", 1),
    "self_certainty": ("self-certainty (nats)", 1),
    "token_entropy": ("next-token entropy (nats)", -1),
    "seq_nll": ("mean −log p of the response (nats)", -1),
    "nait": ("alignment with the reference (NAIT)", 0),
    "belief_shift": ("shift by demonstrations (nats)", 0),
}


@dataclass(frozen=True)
class QuestionText:
    """A question and the model's own response, as text."""

    uid: str
    question: str | None  # None: the data stage's files are not there
    response: str | None  # the model's own first zero-shot response


@dataclass(frozen=True)
class Neighbourhood:
    """A question, why it is shown, and its nearest by Jaccard distance."""

    row: int
    why: str
    near: Sequence[Near]


@dataclass(frozen=True)
class InspectView:
    """The pool's N questions as parallel columns, by ascending uid."""

    title: str
    texts: Sequence[QuestionText]
    domains: Sequence[str]
    counts: Array  # [N] neuron counts s(x)
    lengths: Array  # [N] scored response positions
    members: np.ndarray  # [N, L] neurons of N_K in each layer
    widths: Sequence[int]  # [L] neurons of each layer
    truncated: np.ndarray  # [N] bool
    selected: np.ndarray | None = None  # [N] bool
    threshold: float | None = None  # the selector's
    signals: Mapping[str, Array] = field(default_factory=dict)  # label-free columns [N], NaN: unknown
    correct: Array | None = None  # [N] share of right zero-shot answers, NaN: unknown; from an evaluation
    correct_from: str = ""  # the file it was read from
    overlap: Overlap | None = None
    neighbourhoods: Sequence[Neighbourhood] = ()
    selections: Mapping[str, frozenset[str]] = field(default_factory=dict)  # uids by selector, as many each
    notes: Sequence[str] = ()  # what was left out and why, a sentence each

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Row:
    """A line of the correlation table: s(x) with a column."""

    name: str
    label: str
    found: Correlation
    labelled: bool = False  # made with answers: never in selection


def correlation_rows(view: InspectView) -> list[Row]:
    """s(x) with length, with each label-free signal and, where an evaluation is given, with accuracy; the partial
    correlation holds log length fixed."""
    log_length = np.log(np.maximum(np.asarray(view.lengths, dtype=float), 1))
    rows = [Row("length", "response length (tokens)", correlation(view.counts, view.lengths))]
    for name, values in view.signals.items():
        rows.append(Row(name, signal_label(name), correlation(view.counts, values, log_length)))
    if view.correct is not None:
        found = correlation(view.counts, view.correct, log_length)
        rows.append(Row("accuracy", "zero-shot answers right (share)", found, labelled=True))
    return rows


def signal_label(name: str) -> str:
    """What the column is, in words; of an unknown one its name."""
    return SIGNALS.get(name, (name, 0))[0]
