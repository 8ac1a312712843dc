"""Neuron sets as arrays: the shapes that selection works on. Pure.

A set is a row of ids int32 [N, K], padded with -1 anywhere, no id twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Sets:
    """The sets that rows [n] of ids [N, K] int32 name; nothing is copied."""

    ids: np.ndarray
    rows: np.ndarray

    def __getitem__(self, places: slice) -> Sets:
        return Sets(self.ids, self.rows[places])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return int(self.ids.shape[1])


def all_of(ids_NK: np.ndarray) -> Sets:
    """All rows, in order."""
    return Sets(np.ascontiguousarray(ids_NK, dtype=np.int32), np.arange(len(ids_NK)))


def set_sizes(ids_NK: np.ndarray) -> np.ndarray:
    """Members of each set, int64 [N]."""
    return np.fromiter((np.count_nonzero(row >= 0) for row in ids_NK), dtype=np.int64, count=len(ids_NK))


def indicator(sets: Sets, neurons: int) -> sparse.csr_array:
    """0/1 matrix [n, neurons] in CSR form, int32."""
    ids = sets.ids[sets.rows]
    members = ids >= 0
    starts = np.concatenate([[0], np.cumsum(members.sum(1))])
    columns = ids[members]  # row by row, as CSR wants them
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(ids), neurons))
