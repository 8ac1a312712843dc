"""One sequence over several ranks: Ulysses sequence parallelism by DeepSpeed (arXiv 2309.14509, 2506.13996).

In: a causal language model, before `deepspeed.initialize`, whose ranks r·P … r·P+P−1 are given the same batch.
Out: the same model; each rank computes 1/P of the positions of every layer, and 1/P of the heads of every attention
over all positions. Hidden states come out whole on every rank, so callers need not know. Weights stay sharded
over all ranks.

Shapes: B sequences, T positions, t = ceil(T / P) of this rank, H hidden.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nopsd.engine.distributed import Ranks
from nopsd.engine.packed_attention import Context, Segments, packed_attention
from nopsd.errors import ConfigError


@dataclass(frozen=True)
class SequenceParallel:
    """This rank's place among the `size` ranks that compute one batch together, the loss of every size-th row each."""

    group: Any  # torch's process group
    rank: int
    size: int


ALONE = SequenceParallel(None, 0, 1)


def join(ranks: Ranks, size: int) -> SequenceParallel:
    """The group of this rank: ranks 0 … size−1, size … 2·size−1 and so on. Collective over all ranks.

    ConfigError if the ranks can't be divided so.
    """
    if size == 1:
        return ALONE
    if ranks.world % size:
        raise ConfigError(f"dist.sequence_parallel={size} does not divide the {ranks.world} ranks")
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks.world, size)]
    return SequenceParallel(groups[ranks.rank // size], ranks.rank % size, size)


def split_sequences(lm: Any, parallel: SequenceParallel) -> None:
    """Make a model compute its share of each sequence, of a packed row too; nothing to do for one rank.

    Args:
        lm: The model, before `deepspeed.initialize`.
        parallel: The ranks that share a sequence.

    Raises:
        ConfigError: Its heads can't be shared out, or its attention isn't plain.

    Source:
        DeepSpeed-Ulysses, arXiv 2309.14509.
    """
    if parallel.size == 1:
        return
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    check_heads(lm.config, parallel.size)
    heads, kv_heads, width = heads_of(lm.config)
    exchange = UlyssesSPAttentionHF(
        attn=packed_attention,
        batch_size=1,
        attn_head_count=heads,
        attn_head_size=width,
        kv_head_count=kv_heads,
        num_hidden_layers=lm.config.get_text_config().num_hidden_layers,
        process_group=parallel.group,
        seq_length_is_variable=True,
    )
    # DeepSpeed's own registration replaces "sdpa" for every model of the process, the export's check too.
    name = f"ulysses_{parallel.size}_{heads}_{kv_heads}_{width}"
    ALL_ATTENTION_FUNCTIONS.register(name, _attention(exchange))
    lm.set_attn_implementation(name)
    base = lm.base_model
    base.forward = types.MethodType(_split(type(base).forward, parallel), base)


def heads_of(model_config: Any) -> tuple[int, int, int]:
    """Attention heads, key-value heads, and their width, by a Transformers config."""
    config = model_config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, width


def check_heads(model_config: Any, size: int) -> None:
    """ConfigError if so many ranks can't share the attention heads of a Transformers config."""
    if size == 1:
        return
    heads, kv_heads, _ = heads_of(model_config)
    if heads % size or (kv_heads % size and size % kv_heads):
        raise ConfigError(
            f"dist.sequence_parallel={size}: {model_config.model_type} has {heads} attention and {kv_heads} key-value "
            "heads, which so many ranks can't share evenly: set a common divisor"
        )


def _attention(exchange: Any) -> Callable[..., Any]:
    """The exchange as a Transformers attention function, for batches of any size.

    Between its two all-to-alls a rank has all positions and a share of the heads, so that `segments` of the whole row
    hold there, and the contexts it records or reads are of its heads alone.
    """

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> Any:
        batch, heads, length, _ = query.shape
        exchange.batch_size = batch
        for name in ("required_query_shape", "required_key_value_shape", "required_context_shape"):
            first, _, *rest = getattr(exchange, name)
            setattr(exchange, name, torch.Size([first, batch, *rest]))
        # DeepSpeed asks for positions, which not every family gives, and our attention reads none.
        options["position_ids"] = torch.zeros(batch, length, dtype=torch.int32, device=query.device)
        out, weights = exchange(module, query, key, value, None, **options)  # causal; padding is on the right
        return out.unflatten(-1, (heads, -1)), weights  # as attention functions give it; DeepSpeed's heads are joined

    return attention


def _split(whole: Callable[..., Any], parallel: SequenceParallel) -> Callable[..., Any]:
    """The base model's forward on whole ids, computed in parts; `whole` is the forward of its class."""

    def forward(
        base: nn.Module,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        **options: Any,
    ) -> Any:
        if attention_mask is not None or (position_ids is not None and segments is None):
            raise ValueError("split sequences are causal and count from 0: give no mask, and positions in `segments`")
        length = input_ids.shape[1]
        part = -(-length // parallel.size)
        missing = part * parallel.size - length
        padded_BT = nn.functional.pad(input_ids, (0, missing))
        if segments is None:
            positions_BT = torch.arange(padded_BT.shape[1], device=input_ids.device).repeat(input_ids.shape[0], 1)
        else:
            segments = _with_padding(segments, missing)
            positions_BT, options = segments.positions(input_ids.device), {**options, "segments": segments}
        own = slice(parallel.rank * part, (parallel.rank + 1) * part)
        output = whole(base, input_ids=padded_BT[:, own], position_ids=positions_BT[:, own], **options)
        output.last_hidden_state = _Gather.apply(output.last_hidden_state, parallel)[:, :length]
        return output

    return forward


def _with_padding(segments: Segments, missing: int) -> Segments:
    """The row with so many tokens behind it as a sequence of their own, which no other sees."""
    if not missing:
        return segments
    return Segments(
        (*segments.lengths, missing),
        segments.contexts and (*segments.contexts, None),
        segments.recorded and (*segments.recorded, Context()),
    )


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """[B, t, H] of each rank to [B, P·t, H] on all; the gradient of a part is the sum over ranks."""

    @staticmethod
    def forward(ctx: Any, own_BtH: Tensor, parallel: SequenceParallel) -> Tensor:
        ctx.parallel = parallel
        parts = [torch.empty_like(own_BtH) for _ in range(parallel.size)]
        dist.all_gather(parts, own_BtH.contiguous(), group=parallel.group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor, None]:
        parallel = ctx.parallel
        parts_PBtH = torch.stack(grad_BTH.chunk(parallel.size, dim=1))
        received_PBtH = torch.empty_like(parts_PBtH)
        dist.all_to_all_single(received_PBtH, parts_PBtH, group=parallel.group)
        return received_PBtH.sum(0), None
