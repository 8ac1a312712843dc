"""What a retriever is: from a `Request` to each query's demonstrations, nearest first.

A retriever is one function under the decorator `retriever`, in a file of ours or of a user's (nopsd.plugins):

    @retriever()
    def longest_first(request): ...

It is called once, on every rank alike; what it returns must be equal on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nopsd.config import ContextConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.selection.exchange import RankSets
from nopsd.selection.neighbors import NO_NEIGHBOR, Neighbors, Table, permitted_pairs

__all__ = ["NO_NEIGHBOR", "Neighbors", "NeighborsWithSamples", "Request", "Retriever", "retriever"]


@dataclass(frozen=True)
class NeighborsWithSamples(Neighbors):
    """Neighbors of which a certain response is shown: `samples` [Q, m]. Plain `Neighbors` show each question's
    own: sample 0, or with context.filter=majority the first that agrees with the majority."""

    samples: np.ndarray


@dataclass(frozen=True)
class Request:
    """What is asked and what is known. Questions are named by number, their place in `table.uids` (ascending)."""

    table: Table  # all questions: texts, domains, which may be demonstrations
    queries: np.ndarray  # [Q] the questions that get demonstrations
    config: ContextConfig
    sets: RankSets  # this rank's neuron sets
    columns: Mapping[str, np.ndarray]  # [N, …] by number: what the retriever `needs`
    ranks: Ranks
    exchange: str = "auto"  # dist.context_exchange
    block_mib: int = 512  # dist.block_mib
    texts: Sequence[str] = ()  # by number

    def column(self, name: str) -> np.ndarray:
        """A column of the signals artefact; DataError if there is none of that name."""
        if name not in self.columns:
            raise DataError(
                f"context.retriever={self.config.retriever} asks for the column {name}, and there are "
                f"{', '.join(sorted(self.columns)) or 'none'}: name it in the retriever's `needs` and run the signals "
                "stage again (--redo signals)"
            )
        return self.columns[name]

    def permitted(self, queries: np.ndarray) -> np.ndarray:
        """Boolean [len(queries), N]: may it be shown? It is of the domain, allowed, neither the query nor alike."""
        return permitted_pairs(self.table, queries, np.arange(len(self.table.uids)), self.config.dedup_text)


Find = Callable[[Request], Neighbors]


@dataclass(frozen=True)
class Retriever:
    """`needs`: columns of the signals stage. `from_pool`: shows other questions, so that the pool must hold m + 1.
    `neurons`: reads neuron sets; where nothing does, the neurons stage is left out."""

    name: str
    find: Find
    needs: tuple[str, ...] = ()
    from_pool: bool = True
    neurons: bool = True


def retriever(
    *, needs: Sequence[str] = (), name: str | None = None, from_pool: bool = True, neurons: bool = True
) -> Callable[[Find], Retriever]:
    """Make a retriever of a function Request -> Neighbors.

    Args:
        needs: Columns of the signals stage.
        name: The function's, unless given.
        from_pool: It shows other questions, so that the pool must hold `context.m` + 1.
        neurons: It reads neuron sets; where nothing does, the neurons stage is left out.
    """
    return lambda find: Retriever(name or find.__name__, find, tuple(needs), from_pool, neurons)
