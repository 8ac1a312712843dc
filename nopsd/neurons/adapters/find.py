"""Finds a model's neurons: its decoder layers, each one's MLP by the first adapter that knows it, and its head.

In: a Hugging Face causal language model, or a wrapper of one. Out: `NeuronSites`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType

from torch import nn

from nopsd.config import ENTRY_POINTS
from nopsd.errors import UserError
from nopsd.neurons.adapters import gated, mixture, plain
from nopsd.neurons.adapters.sites import MlpSite, NeuronSites, UnsupportedError
from nopsd.plugins import resolve

Adapter = Callable[[nn.Module], MlpSite | None]

ADAPTERS = (mixture.match, gated.match, plain.match)  # tried in this order
STACKS = ("layers", "h", "blocks")  # a decoder's list of layers
PLACES = ("mlp", "feed_forward", "block_sparse_moe", "ffn")  # a layer's MLP; else the layer itself holds its maps


def find_sites(model: nn.Module, own: str | None = None) -> NeuronSites:
    """The model's neurons; UserError if a layer's MLP, the layers or the head is of no known form.

    Args:
        model: A causal language model of Hugging Face's, or a wrapper of one.
        own: `model.mlp_adapter`, which is asked before ours.
    """
    adapters = (find_adapter(own), *ADAPTERS) if own else ADAPTERS
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    stacks = [getattr(decoder, name, None) for name in STACKS]
    layers = next((list(stack) for stack in stacks if isinstance(stack, nn.ModuleList)), None)
    if not layers or getattr(head, "weight", None) is None:
        raise _unknown(model, "no list of decoder layers, or no output embedding")
    mlps = [_site(model, index, layer, adapters) for index, layer in enumerate(layers)]
    assert head is not None
    return NeuronSites(layers, mlps, tuple(m.width for m in mlps), tuple(m.active for m in mlps), head.weight)


def find_adapter(name: str) -> Adapter:
    """The function that `model.mlp_adapter` names; ConfigError if there is none."""
    return resolve("model.mlp_adapter", name, {}, ENTRY_POINTS["model.mlp_adapter"], FunctionType)


def _site(model: nn.Module, index: int, layer: nn.Module, adapters: Sequence[Adapter]) -> MlpSite:
    for holder in _holders(layer):
        for match in adapters:
            try:
                site = match(holder)
            except UnsupportedError as error:
                raise _unknown(model, f"layer {index}: {error}") from None
            if site is not None:
                return site
    kinds = ", ".join(f"{name}: {type(child).__name__}" for name, child in layer.named_children())
    raise _unknown(model, f"layer {index} has no MLP that an adapter knows; it has {kinds or 'no modules'}")


def _holders(layer: nn.Module) -> Iterator[nn.Module]:
    for name in PLACES:
        if isinstance(getattr(layer, name, None), nn.Module):
            yield getattr(layer, name)
    yield layer


def _unknown(model: nn.Module, reason: str) -> UserError:
    return UserError(
        f"model.path: neurons of {type(model).__name__} can't be found ({reason}): set model.mlp_adapter to an adapter "
        "of yours (docs/extending.md, A model family), which must name, for each layer, how many neurons it has, where "
        "their values are formed and the down projection's weight"
    )
