"""Gated MLPs: `down(act(gate(h)) * up(h))`.

Separate gate and up: Qwen2, Qwen3, Llama, Mistral, Gemma and their like. Fused into `gate_up_proj`, the gate's half
first: Phi-3, GLM. The activation is taken at the gate projection, not at the activation module: that may be shared
by all layers, or a plain function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nopsd.neurons.adapters.sites import (
    Activation,
    Handle,
    MlpSite,
    Report,
    UnsupportedError,
    as_is,
    bare,
    check_gating,
    first_attribute,
    full_shape,
    one_block,
)

ACTIVATIONS = ("act_fn", "activation_fn", "act", "activation")


def match(mlp: nn.Module) -> MlpSite | None:
    """An MLP with `down_proj` and `gate_proj`, `up_proj` or `gate_up_proj`; UnsupportedError unless linear."""
    down = getattr(mlp, "down_proj", None)
    fused = getattr(mlp, "gate_up_proj", None)
    gate, up = getattr(mlp, "gate_proj", None), getattr(mlp, "up_proj", None)
    if down is None or (fused is None and (gate is None or up is None)):
        return None
    inner = [down, fused] if fused is not None else [down, gate, up]
    if not all(isinstance(module, nn.Module) and hasattr(module, "weight") for module in inner):
        raise UnsupportedError(f"{type(mlp).__name__}'s projections are not modules with a weight")
    activation = first_attribute(mlp, ACTIVATIONS)
    if not callable(activation):
        raise UnsupportedError(f"{type(mlp).__name__} has no {' or '.join(ACTIVATIONS)}")
    return GatedMlp(type(mlp).__name__, down, fused, gate, up, bare(activation))


@dataclass
class GatedMlp:
    """`fused`, or `gate` and `up`; `act(gate(h))` are the neuron values, `down.weight` [H, F] their directions."""

    name: str
    down: nn.Module
    fused: nn.Module | None
    gate: nn.Module | None
    up: nn.Module | None
    activation: Activation
    checked: bool = field(default=False, init=False)

    @property
    def width(self) -> int:
        return full_shape(self.down.weight)[1]

    @property
    def active(self) -> int:
        return self.width

    def attach(self, value: str, report: Report) -> list[Handle]:
        if value == "gated":
            return [
                self.down.register_forward_pre_hook(
                    lambda down, inputs: report(one_block(down.weight, inputs[0], as_is))
                )
            ]
        kept: dict[str, torch.Tensor] = {}

        def at_down(down: nn.Module, inputs: tuple[Any, ...]) -> None:
            if "gate" not in kept or "up" not in kept:
                return  # projected in another way than by its modules: watch tells the user
            gate_F, up_F = kept.pop("gate"), kept.pop("up")
            if not self.checked:
                check_gating(_first(gate_F), _first(up_F), self.activation, _first(inputs[0]), self.name)
                self.checked = True
            # In float32, since the activation's own rounding is no part of the value.
            report(one_block(down.weight, gate_F, lambda values: self.activation(values.float())))

        handle = self.down.register_forward_pre_hook(at_down)
        if self.fused is not None:

            def keep_both(_module: nn.Module, _inputs: tuple[Any, ...], output: torch.Tensor) -> None:
                kept["gate"], kept["up"] = output.chunk(2, dim=-1)

            return [self.fused.register_forward_hook(keep_both), handle]
        assert self.gate is not None and self.up is not None
        return [
            self.gate.register_forward_hook(lambda module, inputs, output: kept.update(gate=output)),
            # Of `up` one position, for the check: the whole would stay in memory.
            self.up.register_forward_hook(lambda module, inputs, output: kept.update(up=_first(output).clone())),
            handle,
        ]


def _first(values: torch.Tensor) -> torch.Tensor:
    """The first position's, [F]."""
    return values.reshape(-1, values.shape[-1])[0]
