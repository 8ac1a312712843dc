"""See a model's neurons in its forward passes: one call a layer, in order, from inside the pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nopsd.errors import UserError
from nopsd.neurons.activity import Block, LayerActivity
from nopsd.neurons.adapters.sites import Consumer, Handle, MlpSite, NeuronSites


@contextmanager
def watch(sites: NeuronSites, value: str, consume: Consumer, layers: Collection[int] | None = None) -> Iterator[None]:
    """While open, every forward pass calls `consume` once a layer.

    Args:
        sites: The model's neurons (`find_sites`).
        value: `neuron.value`: `act_fn` or `gated`.
        consume: Called in the layers' order, from inside the pass; done with the blocks when it returns.
        layers: Those that are watched; None: all.

    Raises:
        UserError: A layer ran without its neurons being seen (a fused MLP that does not call its projections), or no
            pass went through some layer at all.
    """
    handles: list[Handle] = []
    every = [_Watched(index, mlp, width, consume) for index, (mlp, width) in enumerate(zip(sites.mlps, sites.widths))]
    watched = [one for one in every if layers is None or one.index in layers]
    try:
        for one in watched:
            handles += one.attach(sites.layers[one.index], value)
        yield
    finally:
        for handle in handles:
            handle.remove()
    unseen = [one.index for one in watched if one.passes == 0]
    if unseen:
        raise UserError(f"neurons: no forward pass went through layer {unseen[0]} while its neurons were watched")


class _Watched:
    """One layer: the shape of the batch in it, and whether its neurons were seen."""

    def __init__(self, index: int, mlp: MlpSite, width: int, consume: Consumer) -> None:
        self.index, self.mlp, self.width, self.consume = index, mlp, width, consume
        self.shape = (0, 0)
        self.reports, self.passes = 0, 0

    def attach(self, layer: nn.Module, value: str) -> list[Handle]:
        before = layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        return [before, *self.mlp.attach(value, self._report), layer.register_forward_hook(self._leave)]

    def _enter(self, _layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden: torch.Tensor = inputs[0] if inputs else named["hidden_states"]
        self.shape, self.reports = (hidden.shape[0], hidden.shape[1]), 0

    def _report(self, blocks: tuple[Block, ...]) -> None:
        self.reports += 1
        self.consume(LayerActivity(self.index, self.shape, blocks, self.width))

    def _leave(self, layer: nn.Module, _inputs: tuple[Any, ...], _output: Any) -> None:
        self.passes += 1
        if self.reports != 1:
            raise UserError(
                f"model.path: layer {self.index} ({type(layer).__name__}) ran, and its neurons were seen "
                f"{self.reports} times instead of once: its MLP's forward does not go through its projections (a fused "
                "kernel such as Liger's?); load the model without it"
            )
