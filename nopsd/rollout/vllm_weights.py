"""What a vLLM worker's model holds, as checksums by the names of its Hugging Face checkpoint (`weight_sums`).

vLLM joins q, k and v, or gate and up, to one matrix, shards it over workers, and its CPU build packs it away: the parts
are taken apart again, and a packed matrix is read through its kernel. Quantized layers, and what a mixture's kernels
make of its experts, are left out. Written for vLLM 0.32, which is imported when a sum is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nopsd.rollout.weight_sums import (
    BY_COLUMNS,
    WeightSum,
    chosen_columns,
    dtype_name,
    sum_of_columns,
    weighted_sum,
    whole_way,
)

Entry = tuple[tuple[str, str, str, int], Tensor]  # a `WeightSum` whose total is still on its way


@dataclass(frozen=True)
class Part:
    """One parameter's rows of a joined matrix: `rows` of this worker, the first of which is the `first`-th."""

    name: str
    rows: int
    first: int = 0
    is_copy: bool = False  # of what another worker reports


def held_sums(model: nn.Module) -> list[WeightSum]:
    """Of everything that can be read."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    joined = getattr(model, "packed_modules_mapping", None) or {}
    entries: list[Entry] = []
    with torch.inference_mode():
        for name, layer in model.named_modules():
            if isinstance(layer, LinearBase):
                entries += _of_linear(name, layer, joined)
            elif isinstance(layer, VocabParallelEmbedding):
                entries += _of_vocabulary(name, layer)
            else:
                entries += _of_others(name, layer)
        totals = torch.stack([total for _, total in entries]).tolist()
    return [WeightSum(*key, total) for (key, _), total in zip(entries, totals, strict=True)]


def _of_others(name: str, layer: nn.Module) -> Iterator[Entry]:
    for leaf, tensor in layer.named_parameters(recurse=False):
        if 0 < tensor.dim() <= 2 and tensor.numel() and tensor.element_size() in (2, 4):
            yield _whole(f"{name}.{leaf}", tensor)


def _of_linear(name: str, layer: Any, joined: Any) -> Iterator[Entry]:
    from vllm.model_executor.layers.linear import RowParallelLinear, UnquantizedLinearMethod

    prefix, _, leaf = name.rpartition(".")
    parts = parts_of(layer, joined.get(leaf, [leaf]), f"{prefix}." if prefix else "")
    if not isinstance(layer.quant_method, UnquantizedLinearMethod) or parts is None:
        return
    is_split = isinstance(layer, RowParallelLinear)
    for tensor, kind in ((layer.weight, "weight"), (layer.bias, "bias")):
        if tensor is not None and len(tensor) == sum(part.rows for part in parts):
            yield from _wholes(tensor, parts, kind)
    if not layer.weight.numel():
        width = layer.input_size_per_partition if is_split else layer.input_size
        first = layer.tp_rank * width if is_split else 0
        columns = [c - first for c in chosen_columns(layer.input_size) if 0 <= c - first < width]
        yield from _by_columns(layer, layer.params_dtype, layer.weight.device, (width, columns), parts)


def parts_of(layer: Any, names: Sequence[str], prefix: str) -> list[Part] | None:
    """The parameters that a linear layer is joined of; None if they aren't known."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear

    is_sharded = isinstance(layer, ColumnParallelLinear)
    sizes = list(layer.output_partition_sizes) if hasattr(layer, "output_partition_sizes") else [layer.output_size]
    if len(names) == 1 and (len(sizes) == 1 or not is_sharded or layer.tp_size == 1):
        sizes = [sum(sizes)]
    if len(names) != len(sizes):
        return None
    rank = layer.tp_rank if is_sharded else 0
    copies = [1] * len(sizes)
    if isinstance(layer, QKVParallelLinear):
        copies[1:] = [layer.num_kv_head_replicas] * len(copies[1:])
    return [
        Part(prefix + part, size, rank // count * size, rank % count > 0)
        for part, size, count in zip(names, sizes, copies, strict=True)
    ]


def _of_vocabulary(name: str, layer: Any) -> Iterator[Entry]:
    """An embedding or a head without its padding. The CPU build's packed copy is what a head computes with."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    if not isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
        return
    part = Part(name, layer.shard_indices.num_org_elements, layer.shard_indices.org_vocab_start_index)
    yield from _wholes(layer.weight[: part.rows], [part], "weight")
    if hasattr(layer, "cpu_linear"):
        columns = chosen_columns(layer.embedding_dim)
        at = (layer.embedding_dim, columns)
        yield from _by_columns(layer, layer.weight.dtype, layer.weight.device, at, [part])


def _wholes(tensor: Tensor, parts: Sequence[Part], kind: str) -> Iterator[Entry]:
    for part, rows in zip(parts, tensor.split([part.rows for part in parts])):
        if not part.is_copy:
            yield _whole(f"{part.name}.{kind}", rows, part.first)


def _whole(name: str, tensor: Tensor, first_row: int = 0) -> Entry:
    way = whole_way(tensor.shape, tensor.element_size())
    return (name, way, dtype_name(tensor.dtype), tensor.numel()), weighted_sum(tensor, first_row)


def _by_columns(
    layer: Any, dtype: torch.dtype, device: torch.device, at: tuple[int, Sequence[int]], parts: Sequence[Part]
) -> Iterator[Entry]:
    """Columns `at[1]` of a matrix of `at[0]`, as its kernel multiplies with them: one-hot inputs give them exactly."""
    width, columns = at
    if not columns or not _is_exact(dtype):
        return
    inputs_CI = torch.zeros(len(columns), width, dtype=dtype, device=device)
    inputs_CI[torch.arange(len(columns)), torch.tensor(columns)] = 1
    columns_RC = layer.quant_method.apply(layer, inputs_CI, None).t()[: sum(part.rows for part in parts)]
    for part, rows_RC in zip(parts, columns_RC.split([part.rows for part in parts])):
        if not part.is_copy:
            key = f"{part.name}.weight", BY_COLUMNS, dtype_name(rows_RC.dtype), rows_RC.numel()
            yield key, sum_of_columns(rows_RC, part.first)


def _is_exact(dtype: torch.dtype) -> bool:
    """Whether a kernel gives a weight back to the last bit: Arm's may multiply float32 in bfloat16."""
    from vllm.platforms import CpuArchEnum, current_platform

    return dtype == torch.bfloat16 or bool(current_platform.get_cpu_architecture() == CpuArchEnum.X86)
