"""What a selector sees: the questions' label-free columns, by ascending uid.

In: counts, lengths and flags of the neurons artefact, columns of the signals artefact. Nothing here can hold an
answer: `Question` has no such field, and columns come from the model's own responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nopsd.errors import ConfigError, DataError

# (places in the whole pool [n], how many are to be kept) -> Jaccard distances [n, n] float32. Collective.
Distances = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """Questions of one domain that may be selected, by ascending uid; arrays have one row a question.

    `budget`: how many are to be kept. `columns`: `agreement`, majority_conf, token_entropy and the others that the
    selector `needs`; read them by `column`.
    """

    uids: list[str]
    counts: np.ndarray  # [N] neuron counts s
    lengths: np.ndarray  # [N] scored response positions T, tokens
    truncated: np.ndarray  # [N] bool: some response met the length limit
    domains: list[str]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    budget: int = 0
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [N] places in the whole pool
    pairs: Distances | None = None

    def column(self, name: str) -> np.ndarray:
        """The column as float64 [N] (or [N, …]); DataError if no stage has made it."""
        if name not in self.columns:
            raise DataError(
                f"the selector asks for the column {name}, and there are {', '.join(sorted(self.columns)) or 'none'}: "
                "name it in the selector's `needs` and run the signals stage again (--redo signals)"
            )
        return np.asarray(self.columns[name], dtype=np.float64)

    def distances(self) -> np.ndarray:
        """Jaccard distances of all pairs of neuron sets, float32 [N, N], 0 on the diagonal. All ranks must call it.

        ConfigError if they are more than dist.block_mib holds.
        """
        if self.pairs is None:
            raise ConfigError("this selector compares neuron sets, and there are none here: run it in the select stage")
        return self.pairs(self.numbers, self.budget)

    def rows(self, rows: np.ndarray, budget: int = 0) -> Pool:
        """The questions at these places, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Pool(
            [self.uids[i] for i in rows],
            self.counts[rows],
            self.lengths[rows],
            self.truncated[rows],
            [self.domains[i] for i in rows],
            {name: column[rows] for name, column in self.columns.items()},
            budget,
            self.numbers[rows],
            self.pairs,
        )


def make_pool(
    uids: Sequence[str],
    counts: np.ndarray,
    lengths: np.ndarray,
    truncated: np.ndarray,
    domains: Sequence[str] | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    pairs: Distances | None = None,
) -> Pool:
    """A pool, from columns in any order.

    Args:
        uids: N questions.
        counts: Active neurons of each, s [N].
        lengths: Scored tokens of each, T [N].
        truncated: Whether its rollout was truncated, [N].
        domains: None: all are of one domain, named "".
        columns: More columns by name, [N, ...].
        pairs: Gives the Jaccard distances of all pairs, where a selector asks for them.
    """
    order = np.array(sorted(range(len(uids)), key=uids.__getitem__), dtype=np.int64)
    named = list(domains) if domains is not None else [""] * len(uids)
    unordered = Pool(
        list(uids),
        np.asarray(counts),
        np.asarray(lengths),
        np.asarray(truncated, dtype=bool),
        named,
        {name: np.asarray(column) for name, column in (columns or {}).items()},
        numbers=np.argsort(order),
        pairs=pairs,
    )
    return unordered.rows(order)
