"""Where the neurons are in a model, and how to see them in a forward pass (SPEC §3.4, G10).

In: a Hugging Face decoder whose layers have gated MLPs, `down_proj(act_fn(gate_proj(h)) * up_proj(h))`:
Qwen2, Qwen3, Llama, Mistral and their like. Out: for each layer, in order, a call with the neuron values of all
positions and the down-projection's weight. Under ZeRO-3 a weight may be read only in its own module's forward
pre-hook, where it is gathered; so that is where the call is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from nopsd.errors import UserError
from nopsd.neurons.activity import Block, LayerActivity

Consumer = Callable[[LayerActivity], None]


@dataclass(frozen=True)
class MlpSite:
    """One layer's MLP: `activation(gate(h))` are its neuron values, `down.weight` [H, F] their directions."""

    gate: nn.Module
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Module


@dataclass(frozen=True)
class NeuronSites:
    """All MLPs of a model, their widths, and the unembedding matrix [V, H] (whole or ZeRO-3-sharded).

    `widths`: neurons of each layer, F; of a mixture, of all its experts. `active`: those that one token reaches.
    """

    mlps: list[MlpSite]
    widths: tuple[int, ...]
    active: tuple[int, ...]
    unembedding: torch.Tensor


def find_sites(model: nn.Module) -> NeuronSites:
    """The model's neurons; UserError if it is not a gated decoder of the known form."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if layers is None or head is None:
        raise _unknown(model, "no model.layers or no output embedding")
    mlps = [_site(model, index, layer) for index, layer in enumerate(layers)]
    widths = tuple(full_shape(site.down.weight)[1] for site in mlps)
    return NeuronSites(mlps, widths, widths, head.weight)


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """A parameter's shape, also while ZeRO-3 holds only a shard of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@contextmanager
def watch(sites: NeuronSites, value: str, consume: Consumer) -> Iterator[None]:
    """While open, every forward pass calls `consume` once a layer. `value`: `act_fn` or `gated`."""
    handles = [
        handle for layer, site in enumerate(sites.mlps) for handle in _hooks(layer, site, value, consume)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(layer: int, site: MlpSite, value: str, consume: Consumer) -> list:
    def tell(values_BTF: torch.Tensor, down_HF: torch.Tensor, form: Callable[[torch.Tensor], torch.Tensor]) -> None:
        flat = values_BTF.flatten(0, 1)
        block = Block(0, down_HF, None, lambda rows: form(flat[rows]))
        consume(LayerActivity(layer, (values_BTF.shape[0], values_BTF.shape[1]), (block,)))

    if value == "gated":
        return [site.down.register_forward_pre_hook(lambda down, inputs: tell(inputs[0], down.weight, lambda v: v))]
    gate_output: list[torch.Tensor] = []

    def keep(_gate: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        gate_output[:] = [output]

    def form(down: nn.Module, _inputs: tuple) -> None:
        tell(gate_output.pop(), down.weight, site.activation)

    # Not on act_fn itself: an activation module may be shared by all layers.
    return [site.gate.register_forward_hook(keep), site.down.register_forward_pre_hook(form)]


def _site(model: nn.Module, index: int, layer: nn.Module) -> MlpSite:
    mlp = getattr(layer, "mlp", None)
    missing = [n for n in ("gate_proj", "up_proj", "down_proj", "act_fn") if not hasattr(mlp, n)]
    if missing:
        raise _unknown(model, f"layer {index} has no mlp.{missing[0]}")
    assert mlp is not None
    # Its bare forward: calling the module once more would change the sequence of modules that ZeRO-3 traces, so
    # that a rank which scores and one which idles would disagree, and hang.
    activation = mlp.act_fn.forward if isinstance(mlp.act_fn, nn.Module) else mlp.act_fn
    return MlpSite(mlp.gate_proj, activation, mlp.down_proj)


def _unknown(model: nn.Module, reason: str) -> UserError:
    return UserError(
        f"model.path: neurons of {type(model).__name__} can't be found ({reason}): an adapter in nopsd/neurons/"
        "adapters.py must name, for each layer, the gate projection, its activation and the down projection"
    )
