"""Exact checksums of weights: the trainer's of what it sent against a server's of what it holds.

A layer that is one small step behind is less than bfloat16's rounding, so no comparison of log-probs sees it: the bits
do. A parameter is summed in one of two ways. "whole": all its bits. "columns": those of COLUMNS input columns, spread
over all; a server that packs a matrix away gives them through its kernel, by one-hot inputs. Rows are
weighted by their number, and the sums are integers modulo 2^64: those of a parameter's shards, by rows or by columns,
add up to the parameter's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COLUMNS = 8
WHOLE, BY_COLUMNS = "whole", "columns"
TIED_HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"  # a tied head isn't sent: its embedding is
Key = tuple[str, str]  # name, way
_FACTOR = -7046029254386353131  # 2^64 divided by the golden ratio, as int64
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightSum(NamedTuple):
    """Of a parameter, or of one worker's shard of it. `way`: how it was summed. `size`: numbers that were summed."""

    name: str
    way: str
    dtype: str
    size: int
    total: int


def chosen_columns(width: int) -> list[int]:
    """The input columns of a matrix that are summed."""
    count = min(COLUMNS, width)
    return [width * i // count for i in range(count)]


def weighted_sum(matrix: Tensor, first_row: int = 0, word_bytes: int | None = None) -> Tensor:
    """The bits of [rows, ...] as one int64, on the tensor's device.

    Args:
        matrix: Floats; the first row is `first_row` of the whole parameter.
        first_row: See `matrix`.
        word_bytes: Of the integers that a row's bits are read as; None: 8 where rows divide into them.
    """
    rows_RN = matrix.detach().reshape(len(matrix), -1).contiguous()
    size = rows_RN.element_size()
    word = word_bytes or (8 if rows_RN.shape[1] * size % 8 == 0 else size)
    sums_R = rows_RN.view(_WORDS[word]).sum(1, dtype=torch.int64)
    number_R = torch.arange(first_row, first_row + len(matrix), device=matrix.device)
    return (sums_R * (number_R * _FACTOR | 1)).sum()


def whole_way(shape: Sequence[int], element_size: int) -> str:
    """ "whole", with the words that `weighted_sum` reads a row of this shape as: sums of other words don't compare."""
    row_bytes = element_size * torch.Size(shape[1:]).numel()
    return f"{WHOLE} by {8 if row_bytes % 8 == 0 else element_size}"


def sum_of_columns(columns_RC: Tensor, first_row: int = 0) -> Tensor:
    """Of the chosen columns. A kernel gives 0.0 for -0.0: both count as 0.0."""
    return weighted_sum(columns_RC + 0.0, first_row, columns_RC.element_size())


class SentSums:
    """Sums of the weights that pass to the servers in one update."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, str, str, int]] = []
        self._totals: list[Tensor] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Starts the sums on the tensor's device and doesn't wait for them.

        A vector of one value, as a new norm or bias is, is left out: in another order it is equal until trained.
        """
        if tensor.dim() == 1 and bool((tensor == tensor[:1]).all()):
            return
        dtype = dtype_name(tensor.dtype)
        way = whole_way(tensor.shape or (1,), tensor.element_size())
        self._add((name, way, dtype, tensor.numel()), weighted_sum(tensor.reshape(tensor.shape or (1,))))
        if tensor.dim() == 2:
            chosen_RC = tensor.detach()[:, chosen_columns(tensor.shape[1])]
            self._add((name, BY_COLUMNS, dtype, chosen_RC.numel()), sum_of_columns(chosen_RC))

    def _add(self, key: tuple[str, str, str, int], total: Tensor) -> None:
        self._keys.append(key)
        self._totals.append(total)

    def sums(self) -> list[WeightSum]:
        """Of all that has passed."""
        if not self._totals:
            return []
        totals = torch.stack([total.to(self._totals[0].device) for total in self._totals]).tolist()
        return [WeightSum(*key, total) for key, total in zip(self._keys, totals, strict=True)]


def totals_of(sums: Iterable[WeightSum]) -> dict[Key, int]:
    """By name and way."""
    return {(entry.name, entry.way): entry.total for entry in sums}


def held_totals(expected: Iterable[WeightSum], workers: Sequence[Iterable[WeightSum]]) -> dict[Key, int]:
    """What a server holds of each parameter, where it can be compared.

    Args:
        expected: Of whole parameters.
        workers: Of each worker of the server; of shards, or of whole parameters that each of them holds. Those of
            another number format, size or name are left out.

    Returns:
        Totals by name and way of `expected`; of a tied head and its embedding, the one that differs.
    """
    wanted = {(entry.name, entry.way): entry for entry in expected}
    embedding = next((entry.name for entry in wanted.values() if entry.name.endswith(EMBEDDING)), "")
    held: dict[Key, list[WeightSum]] = {}
    for entry in (entry for worker in workers for entry in worker):
        held.setdefault((entry.name, entry.way), []).append(entry)
    totals: dict[Key, int] = {}
    for (name, way), entries in held.items():
        is_tied = name == TIED_HEAD and (name, way) not in wanted
        own = wanted.get((embedding if is_tied else name, way))
        if own is None or (total := _combined(own, entries)) is None:
            continue
        if totals.get((own.name, way), own.total) == own.total:
            totals[own.name, way] = total
    return totals


def _combined(wanted: WeightSum, held: Sequence[WeightSum]) -> int | None:
    """None: they can't be compared."""
    if any(entry.dtype != wanted.dtype for entry in held):
        return None
    if all(entry.size == wanted.size for entry in held):
        return next((entry.total for entry in held if entry.total != wanted.total), wanted.total)
    if sum(entry.size for entry in held) == wanted.size:
        return (sum(entry.total for entry in held) + 2**63) % 2**64 - 2**63
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
