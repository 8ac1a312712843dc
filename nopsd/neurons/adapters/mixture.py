"""Mixtures of gated experts: Qwen3-MoE, Mixtral and those built like them.

Neuron number: expert * F_e + its place in the expert. Its value at a token is multiplied by the token's routing
weight, for that is how the expert's output enters the layer's: so contributions sum to e_y . MLP(h). Experts that a
token was not sent to have no activation there.

While attached, the experts module (3-D `gate_up_proj` [E, 2 F_e, H] and `down_proj` [E, H, F_e]) runs this module's
forward instead of its own: no other place sees the gates, and under ZeRO-3 its weights are gathered only there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nopsd.errors import UserError
from nopsd.neurons.activity import Block
from nopsd.neurons.adapters.sites import (
    Activation,
    Handle,
    MlpSite,
    Report,
    UnsupportedError,
    as_is,
    bare,
    check_gating,
    full_shape,
)

ROUTERS = ("gate", "router")
REQUIRED = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}


def match(mlp: nn.Module) -> MlpSite | None:
    """A block of `experts` and a router; UnsupportedError with shared experts or another layout of the weights."""
    experts = getattr(mlp, "experts", None)
    if experts is None:
        return None
    name = type(mlp).__name__
    others = [
        child for child, module in mlp.named_children() if child not in (*ROUTERS, "experts") and _weights(module)
    ]
    if others:
        raise UnsupportedError(f"{name}.{others[0]}: experts beside the routed ones are not scored")
    for attribute, needed in REQUIRED.items():
        if getattr(experts, attribute, needed) is not needed:
            raise UnsupportedError(f"{name}.experts.{attribute} is {not needed}")
    gate_up, down = getattr(experts, "gate_up_proj", None), getattr(experts, "down_proj", None)
    if not (isinstance(gate_up, nn.Parameter) and isinstance(down, nn.Parameter) and len(full_shape(down)) == 3):
        raise UnsupportedError(f"{name}.experts has no 3-D gate_up_proj and down_proj")
    per_token = getattr(getattr(experts, "config", None), "num_experts_per_tok", None)
    called = [getattr(experts, attribute, None) for attribute in ("act_fn", "_apply_gate")]
    if not all(map(callable, called)) or not isinstance(per_token, int):
        raise UnsupportedError(f"{name}.experts has no act_fn or _apply_gate, or its config no num_experts_per_tok")
    return Mixture(name, mlp, experts, per_token)


def _weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@dataclass(frozen=True)
class Mixture:
    """`block` adds up what `experts` make of each token; `per_token` of them are used."""

    name: str
    block: nn.Module
    experts: nn.Module
    per_token: int

    @property
    def width(self) -> int:
        count, _, inner = full_shape(self.experts.down_proj)
        return count * inner

    @property
    def active(self) -> int:
        return self.per_token * full_shape(self.experts.down_proj)[2]

    def attach(self, value: str, report: Report) -> list[Handle]:
        latest: list[torch.Tensor] = []

        def forward(hidden_PH: torch.Tensor, index_Pk: torch.Tensor, weight_Pk: torch.Tensor) -> torch.Tensor:
            output_PH, blocks = experts_forward(self.experts, hidden_PH, index_Pk, weight_Pk, value)
            report(blocks)
            latest[:] = [output_PH]
            return output_PH

        def check(_block: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            if latest and not torch.equal(whole.reshape(latest[0].shape), latest.pop()):
                raise UserError(
                    f"model.path: {self.name}'s output is not the weighted sum of its experts', so their neurons' "
                    "contributions would be wrong: set model.mlp_adapter to one of yours"
                )

        return [_Replaced(self.experts, forward), self.block.register_forward_hook(check)]


class _Replaced:
    """A module's forward, replaced until `remove`."""

    def __init__(self, module: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        self.module, self.before = module, module.__dict__.get("forward")
        module.forward = forward

    def remove(self) -> None:
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before


def experts_forward(
    experts: nn.Module, hidden_PH: torch.Tensor, index_Pk: torch.Tensor, weight_Pk: torch.Tensor, value: str
) -> tuple[torch.Tensor, tuple[Block, ...]]:
    """Run the chosen experts, and report their neurons.

    Args:
        experts: The mixture's experts; E of them.
        hidden_PH: Positions x hidden size.
        index_Pk: The k experts of each position; an index of E or more chooses none.
        weight_Pk: Their routing weights.
        value: `neuron.value`: `act_fn` or `gated`.

    Returns:
        The weighted sum of the experts' outputs [P, H], and a block of each expert that was chosen. Rows of all experts
        (R of them) lie one expert after the other, by ascending position in each.
    """
    count, _, inner = experts.down_proj.shape
    order = torch.argsort(index_Pk.flatten(), stable=True)
    sizes = torch.bincount(index_Pk.flatten().clamp(max=count), minlength=count + 1).tolist()[:count]
    stops = list(accumulate(sizes))
    chosen = [(e, slice(stop - size, stop)) for e, (size, stop) in enumerate(zip(sizes, stops)) if size]
    order = order[: stops[-1]]
    at_R, weight_R1 = order // index_Pk.shape[1], weight_Pk.flatten()[order, None]
    gate_up_R2F = hidden_PH.new_empty(len(order), 2 * inner)
    for expert, rows in chosen:
        torch.mm(hidden_PH[at_R[rows]], experts.gate_up_proj[expert].t(), out=gate_up_R2F[rows])
    # Once over all experts, as transformers' default does: the activation's module is called as often, so that ZeRO-3
    # traces the same modules whether the layer is watched or not.
    gated_RF = experts._apply_gate(gate_up_R2F)
    output_PH = torch.zeros_like(hidden_PH)
    for expert, rows in chosen:
        made = functional.linear(gated_RF[rows], experts.down_proj[expert]) * weight_R1[rows]
        output_PH.index_add_(0, at_R[rows], made.to(output_PH.dtype))
    form: Activation = as_is
    kept_RF = gated_RF
    if value == "act_fn":
        gate_RF, up_RF = gate_up_R2F.chunk(2, dim=-1)
        form, kept_RF = bare(experts.act_fn), gate_RF
        check_gating(gate_RF[0], up_RF[0], form, gated_RF[0], type(experts).__name__)
    blocks = [
        Block(expert * inner, experts.down_proj[expert], at_R[rows], _weighted(form, kept_RF[rows], weight_R1[rows]))
        for expert, rows in chosen
    ]
    return output_PH, tuple(blocks)


def _weighted(form: Activation, kept_RF: torch.Tensor, weight_R1: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    return lambda rows: form(kept_RF[rows].float()) * weight_R1[rows].float()
