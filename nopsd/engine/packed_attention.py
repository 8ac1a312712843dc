"""Attention over sequences laid end to end in one row, each behind its own stored context.

In: a causal language model of Hugging Face's form, before `deepspeed.initialize`. Out: the same model, whose layers
take a keyword `segments`; without it they compute as before. A sequence sees itself and its stored context alone, so
no padding is computed. On a GPU in half precision one variable-length kernel does it (FlashAttention-2 in
`torch.nn.attention.varlen`, arXiv 2307.08691: compute capability 8.0 and more, head widths to 256 by eights); elsewhere
PyTorch's SDPA, a sequence at a time.

Shapes: S tokens of the row (Σ t), t tokens of one sequence, C tokens of its context, A query heads, K key-value heads,
D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "nopsd_packed"
KeysValues = tuple[Tensor, Tensor]  # two tensors [K, C, D], keys already rotated


@dataclass
class Context:
    """Keys and values of one context, layer by layer; filled by a pass with `Segments.recorded`."""

    tokens: int = 0
    layers: dict[int, KeysValues] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers.values() for t in pair)


@dataclass(frozen=True)
class Segments:
    """The sequences of one row, in order. `contexts`: what stands before each (None: nothing); () for none at all.

    `recorded`: one Context a sequence, to be filled with this pass's own keys and values; () for none.
    """

    lengths: tuple[int, ...]
    contexts: tuple[Context | None, ...] = ()
    recorded: tuple[Context, ...] = ()

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Tokens of context before each sequence."""
        return tuple(c.tokens if c else 0 for c in self.contexts) or (0,) * len(self.lengths)

    def positions(self, device: torch.device | str) -> Tensor:
        """[1, S]: each sequence counts on from the end of its context."""
        spans = [torch.arange(c, c + t, device=device) for c, t in zip(self.context_lengths, self.lengths)]
        return torch.cat(spans)[None]


def use_packed_attention(lm: Any) -> None:
    """Let `lm` take `segments`. Whether its family computes rightly so is `engine.family_check`'s to find out."""
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    lm.set_attn_implementation(NAME)


def _mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """A Transformers mask function: none where none is given, for `packed_attention` knows causality and windows.

    Transformers' own would see from the positions that sequences are packed, and make a mask of S² elements.
    """
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


def inputs_of(ids: Tensor, segments: Segments | None) -> dict[str, Any]:
    """Keyword arguments of the base model's forward for a packed row, or for a padded rectangle (no segments)."""
    if segments is None:
        return {"input_ids": ids, "use_cache": False}
    return {
        "input_ids": ids,
        "position_ids": segments.positions(ids.device),
        "segments": segments,
        "use_cache": False,
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """A Transformers attention function. `query` [1, A, S, D], `key` and `value` [1, K, S, D]; gives [1, S, A, D].

    Of the options it heeds `sliding_window`: the last tokens that each one sees, itself included.
    """
    window: int | None = options.get("sliding_window")
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if attention_mask is None and window is not None:
            attention_mask = _causal_mask(query.shape[2], key.shape[2], window, query.device)
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    layer = int(module.layer_idx)
    if segments.recorded:
        parts = zip(segments.recorded, *(own[0].split(segments.lengths, 1) for own in (key, value)), strict=True)
        for context, k, v in parts:  # copies, for a view would keep the whole row alive
            context.layers[layer], context.tokens = (k.detach().clone(), v.detach().clone()), k.shape[1]
    if not dropout and has_varlen(query):
        keys_KTD, values_KTD = key[0], value[0]
        if any(segments.contexts):
            keys_KTD = torch.cat(_behind_contexts(segments, layer, key[0]), 1)
            values_KTD = torch.cat(_behind_contexts(segments, layer, value[0], 1), 1)
        out_SAD = _varlen(query[0], keys_KTD, values_KTD, segments, scaling, window)
    else:
        keys, values = _behind_contexts(segments, layer, key[0]), _behind_contexts(segments, layer, value[0], 1)
        queries = query[0].split(segments.lengths, 1)
        attended = [_one(q, k, v, scaling, dropout, window) for q, k, v in zip(queries, keys, values)]
        out_SAD = torch.cat(attended, 1).transpose(0, 1)
    return out_SAD[None].contiguous(), None


def has_varlen(query: Tensor) -> bool:
    """Whether the variable-length kernel takes such queries [..., D]: half precision, on a GPU from Ampere on."""
    width = query.shape[-1]
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16) or width % 8 or width > 256:
        return False
    return bool(torch.cuda.get_device_capability(query.device) >= (8, 0))


def _behind_contexts(segments: Segments, layer: int, own_KSD: Tensor, which: int = 0) -> Sequence[Tensor]:
    """Each sequence's keys (`which` 0) or values (1), those of its context first."""
    own: Sequence[Tensor] = own_KSD.split(segments.lengths, 1)
    if not segments.contexts:
        return own
    return [torch.cat([c.layers[layer][which], o], 1) if c else o for c, o in zip(segments.contexts, own, strict=True)]


def _causal_mask(asked: int, seen: int, window: int | None, device: torch.device) -> Tensor | None:
    """[t, T], True where the last t of T tokens see; None where SDPA's own causal mask says the same."""
    within = window is None or seen <= window
    if within and asked == seen:
        return None
    rows = torch.arange(seen - asked, seen, device=device)[:, None]
    keys = torch.arange(seen, device=device)
    return keys <= rows if within else (keys <= rows) & (keys > rows - (window or 0))


def _one(
    query_AtD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scaling: float | None, dropout: float, window: int | None
) -> Tensor:
    """Attention of one sequence's t tokens to the last t of T keys and those before them: [A, t, D]."""
    mask = _causal_mask(query_AtD.shape[1], key_KTD.shape[1], window, query_AtD.device)
    return scaled_dot_product_attention(
        query_AtD[None],
        key_KTD[None],
        value_KTD[None],
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query_AtD.shape[0] != key_KTD.shape[0],
    )[0]


def _varlen(
    query_ASD: Tensor,
    key_KTD: Tensor,
    value_KTD: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None = None,
) -> Tensor:
    """[S, A, D], by one kernel for all sequences.

    With fewer queries than keys its causal mask stands at the right end (FlashAttention from 2.1 on): query i of t
    sees the first T − t + i + 1 keys, so all of a stored context.
    """
    from torch.nn.attention.varlen import varlen_attn

    seen = tuple(c + t for c, t in zip(segments.context_lengths, segments.lengths))
    out = varlen_attn(
        query_ASD.transpose(0, 1),
        key_KTD.transpose(0, 1),
        value_KTD.transpose(0, 1),
        _ends(segments.lengths, query_ASD.device),
        _ends(seen, query_ASD.device),
        max(segments.lengths),
        max(seen),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_ASD.shape[0] != key_KTD.shape[0],
    )
    assert isinstance(out, Tensor)
    return out


@lru_cache(maxsize=16)  # the same for every layer: else each would wait for the device
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """[0, l_0, l_0 + l_1, …] as the kernel wants it."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
