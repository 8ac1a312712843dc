"""A trained module's weights, one whole tensor at a time, from ZeRO-3 shards or a plain module.

Input: an nn.Module in the Hugging Face layout, with LoRA's adapters or without. Output: for each weight its name,
dtype, shape, and, while it is gathered, its data on the sender, adapters merged in: the server holds a plain model.
Never more than one weight (and its adapter) is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nopsd.engine.lora import PlainWeight, plain_weights


@dataclass(frozen=True)
class WeightMeta:
    """Name, dtype ("float32") and whole shape of a parameter."""

    name: str
    dtype_name: str
    shape: tuple[int, ...]


class WeightSource:
    """The parameters of `module` but for a tied output head, which the server makes from the embedding."""

    def __init__(self, module: torch.nn.Module, is_sender: bool) -> None:
        self._weights = _distinct_weights(module)
        self._is_sender = is_sender

    def metas(self) -> list[WeightMeta]:
        """In the order of `stream`; gathers nothing."""
        return [WeightMeta(w.name, str(w.parameter.dtype).removeprefix("torch."), w.shape) for w in self._weights]

    def stream(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """(name, whole tensor), None in its stead on ranks that don't send.

        All ranks must exhaust it, in step: each item is a collective. The tensor is valid only until
        the next item: copy it.
        """
        for weight in self._weights:
            with weight.whole(wanted=self._is_sender) as whole:
                yield weight.name, None if whole is None else whole.detach()


def _distinct_weights(module: torch.nn.Module) -> list[PlainWeight]:
    weights = plain_weights(module)  # shared tensors come once
    config: Any = getattr(module, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        weights = [w for w in weights if w.name != "lm_head.weight"]
    return weights
