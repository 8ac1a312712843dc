"""Exact checksums of weights: the trainer's of what it sent against a server's of what it holds.

A layer that is one small step behind is less than bfloat16's rounding, so no comparison of log-probs sees it: the bits
do. A parameter is summed in one of two ways. "whole": all its bits. "columns": those of COLUMNS input columns, which
move on with each version; a server that packs a matrix away gives them through its kernel, by one-hot inputs. Rows are
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
_FACTOR = -7046029254386353131  # 2^64 divided by the golden ratio, as int64
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightSum(NamedTuple):
    """Of a parameter, or of one worker's shard of it. `way`: how it was summed. `size`: numbers that were summed."""

    name: str
    way: str
    dtype: str
    size: int
    total: int


def chosen_columns(version: int, width: int) -> list[int]:
    """The input columns of a matrix that are summed at a policy version."""
    return [(version * COLUMNS + i) % width for i in range(min(COLUMNS, width))]


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
    """Sums of the weights that pass to the servers, of one policy version."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._keys: list[tuple[str, str, str, int]] = []
        self._totals: list[Tensor] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Starts the sums on the tensor's device and doesn't wait for them."""
        dtype = dtype_name(tensor.dtype)
        way = whole_way(tensor.shape or (1,), tensor.element_size())
        self._add((name, way, dtype, tensor.numel()), weighted_sum(tensor.reshape(tensor.shape or (1,))))
        if tensor.dim() == 2:
            chosen_RC = tensor.detach()[:, chosen_columns(self.version, tensor.shape[1])]
            self._add((name, BY_COLUMNS, dtype, chosen_RC.numel()), sum_of_columns(chosen_RC))

    def _add(self, key: tuple[str, str, str, int], total: Tensor) -> None:
        self._keys.append(key)
        self._totals.append(total)

    def sums(self) -> list[WeightSum]:
        if not self._totals:
            return []
        totals = torch.stack([total.to(self._totals[0].device) for total in self._totals]).tolist()
        return [WeightSum(*key, total) for key, total in zip(self._keys, totals, strict=True)]


def compare_sums(expected: Iterable[WeightSum], workers: Sequence[Iterable[WeightSum]]) -> tuple[list[str], set[str]]:
    """Which parameters differ, and which could be compared.

    Args:
        expected: Of whole parameters.
        workers: Of each worker of a server; of shards, or of whole parameters that each of them holds. Those of
            another number format, size or name are not compared.

    Returns:
        Names that differ, and all names that were compared, as in `expected`.
    """
    wanted = {(entry.name, entry.way): entry for entry in expected}
    embedding = next((entry.name for entry in wanted.values() if entry.name.endswith(EMBEDDING)), "")
    held: dict[tuple[str, str], list[WeightSum]] = {}
    for entry in (entry for worker in workers for entry in worker):
        held.setdefault((entry.name, entry.way), []).append(entry)
    differing, compared = set(), set()
    for (name, way), entries in held.items():
        is_tied = name == TIED_HEAD and (name, way) not in wanted
        own = wanted.get((embedding if is_tied else name, way))
        if own is not None and (equal := _equal(own, entries)) is not None:
            compared.add(own.name)
            if not equal:
                differing.add(own.name)
    return sorted(differing), compared


def _equal(wanted: WeightSum, held: Sequence[WeightSum]) -> bool | None:
    """None: they can't be compared."""
    if any(entry.dtype != wanted.dtype for entry in held):
        return None
    if all(entry.size == wanted.size for entry in held):
        return all(entry.total == wanted.total for entry in held)
    if sum(entry.size for entry in held) == wanted.size:
        return (sum(entry.total for entry in held) - wanted.total) % 2**64 == 0
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
