"""A trained module's parameters, one whole tensor at a time, from ZeRO-3 shards or a plain module.

Input: an nn.Module in the Hugging Face layout. Output: for each parameter its name, dtype, shape, and,
while it is gathered, its data on the sender. Never more than one parameter is whole (SPEC §13.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class WeightMeta:
    """Name, dtype ("float32") and whole shape of a parameter."""

    name: str
    dtype_name: str
    shape: tuple[int, ...]


class WeightSource:
    """The parameters of `module` but for a tied output head, which the server makes from the embedding."""

    def __init__(self, module: torch.nn.Module, is_sender: bool) -> None:
        self._named = _distinct_parameters(module)
        self._is_sender = is_sender

    def metas(self) -> list[WeightMeta]:
        """In the order of `stream`; gathers nothing."""
        return [
            WeightMeta(name, str(p.dtype).removeprefix("torch."), tuple(getattr(p, "ds_shape", p.shape)))
            for name, p in self._named
        ]

    def stream(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """(name, whole tensor), None in its stead on ranks that don't send.

        All ranks must exhaust it, in step: each item is a collective. The tensor is valid only until
        the next item: copy it.
        """
        for name, parameter in self._named:
            with _gathered(parameter):
                yield name, parameter.data.detach() if self._is_sender else None


def _distinct_parameters(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    named = list(module.named_parameters())  # shared tensors come once
    config: Any = getattr(module, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        named = [(n, p) for n, p in named if n != "lm_head.weight"]
    return named


def _gathered(parameter: torch.nn.Parameter) -> AbstractContextManager[Any]:
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
