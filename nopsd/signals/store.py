"""The signals artefact: `signals.npz`, what selectors and retrievers other than the paper's go by.

| column | shape | what |
|---|---|---|
| majority_conf | [N] | share of a question's rollouts that give its most frequent answer |
| agrees | [N, n] | 1 where rollout `sample` gives that answer, by ascending sample |
| response_length | [N, n] | tokens of rollout `sample` |
| mean_logp | [N, n] | mean log p of its tokens, nats |
| token_entropy, self_certainty, seq_nll | [N] | means over response positions, nats (nopsd.signals.statistics) |
| embedding | [N, H] | mean last hidden state of the response |
| representation, representation_shift | [N, 2H], [N] | where its states start and go (nopsd.signals.states) |
| trajectory | [N, L · 64] | the last token's way through the layers (nopsd.signals.states) |
| nait | [N] | alignment with the reference's direction (nopsd.signals.alignment) |
| belief_shift | [N] | JS divergence of answers without and with demonstrations, nats (nopsd.signals.belief) |
| teacher_shift | [N] | KL to the model with demonstrations on the response (nopsd.signals.teacher_shift) |

Only the columns that were asked for are there; all float32, [N, ...] without n means over a question's rollouts. A
question none of whose rollouts has a token: NaN, its vectors 0; NaN where a question has no rollout `sample`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.errors import ArtefactError
from nopsd.neurons.store import read_arrays, write_arrays
from nopsd.rollout.types import Rollout

FILE = "signals.npz"


@dataclass(frozen=True)
class Signals:
    """Columns of N questions, rows by ascending uid."""

    uids: list[str]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)


def write_signals(folder: str | Path, signals: Signals) -> None:
    """Write the file, atomically. ValueError if a column's rows are not the questions."""
    wrong = [name for name, column in signals.columns.items() if len(column) != len(signals.uids)]
    if wrong:
        raise ValueError(f"signals column {wrong[0]} has not {len(signals.uids)} rows")
    columns = {f"column.{name}": column.astype(np.float32) for name, column in signals.columns.items()}
    write_arrays(Path(folder) / FILE, signals.header, {"uid": np.array(signals.uids, dtype=np.str_), **columns})


def read_signals(folder: str | Path) -> Signals:
    """The signals in `folder`; ArtefactError if the file is missing or damaged."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ArtefactError(f"{path} is missing: run the signals stage first")
    try:
        header, arrays = read_arrays(path)
        uids = [str(uid) for uid in arrays.pop("uid")]
    except (ArtefactError, KeyError) as error:
        raise ArtefactError(f"{path} is damaged: start the stage afresh with --redo signals") from error
    columns = {name.removeprefix("column."): column for name, column in arrays.items()}
    return Signals(uids, columns, header)


def by_sample(rollouts: Sequence[Rollout], values: np.ndarray) -> np.ndarray:
    """A number a rollout as a table [N, n], questions by ascending uid, rollouts by sample; NaN: no such rollout."""
    place = {uid: row for row, uid in enumerate(sorted({r.uid for r in rollouts}))}
    table = np.full((len(place), max((r.sample + 1 for r in rollouts), default=0)), np.nan, dtype=np.float32)
    for rollout, value in zip(rollouts, values):
        table[place[rollout.uid], rollout.sample] = value
    return table


def question_means(uids: Sequence[str], columns: Mapping[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Rows of rollouts as rows of questions, by ascending uid.

    Args:
        uids: The question of each row, [R].
        columns: [R, ...] by name.

    Returns:
        The uids, and [N, ...] by name: means in float64 in the order of the rows, over rows that are not NaN; NaN if
        there is none.
    """
    questions = sorted(set(uids))
    place = {uid: row for row, uid in enumerate(questions)}
    rows = np.array([place[uid] for uid in uids], dtype=np.int64)
    means = {}
    for name, column in columns.items():
        known = ~np.isnan(column)
        total = np.zeros((len(questions), *column.shape[1:]))
        count = np.zeros_like(total)
        np.add.at(total, rows, np.where(known, column, 0.0))
        np.add.at(count, rows, known)
        with np.errstate(invalid="ignore"):
            means[name] = (total / count).astype(np.float32)
    return questions, means
