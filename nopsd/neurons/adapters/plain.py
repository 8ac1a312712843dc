"""MLPs of two matrices: `down(act(up(h)))`.

GPT-NeoX, Falcon, GPT-2 (whose Conv1D holds the transposed weight), GPT-J, OPT, Phi, Starcoder2. There is no gate, so
`neurons.value=gated` is the same as `act_fn`: what the down projection is given. A bias of the down projection
belongs to no neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nopsd.neurons.activity import Block
from nopsd.neurons.adapters.sites import Handle, MlpSite, Report, UnsupportedError, as_is, full_shape, one_block

# Names of the two maps, by family.
PAIRS = (
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
)


def match(mlp: nn.Module) -> MlpSite | None:
    """An MLP, or a decoder layer (OPT), with one of the known pairs; UnsupportedError if the pair's sizes don't fit."""
    for first, second in PAIRS:
        up, down = getattr(mlp, first, None), getattr(mlp, second, None)
        if isinstance(up, nn.Module) and isinstance(down, nn.Module) and hasattr(down, "weight"):
            transposed = type(down).__name__ == "Conv1D"
            hidden, inner = (full_shape(up.weight), full_shape(down.weight))
            if hidden != inner[::-1]:
                raise UnsupportedError(
                    f"{type(mlp).__name__}.{first} is {hidden}, {second} {inner}: a gate between them?"
                )
            return PlainMlp(down, transposed)
    return None


@dataclass(frozen=True)
class PlainMlp:
    """`down`'s inputs are the neuron values; its weight is [H, F], or [F, H] if `transposed`."""

    down: nn.Module
    transposed: bool

    @property
    def width(self) -> int:
        return full_shape(self.down.weight)[0 if self.transposed else 1]

    @property
    def active(self) -> int:
        return self.width

    def attach(self, value: str, report: Report) -> list[Handle]:
        return [self.down.register_forward_pre_hook(lambda down, inputs: report(self._block(down.weight, inputs[0])))]

    def _block(self, weight: torch.Tensor, values: torch.Tensor) -> tuple[Block]:
        return one_block(weight.t() if self.transposed else weight, values, as_is)
