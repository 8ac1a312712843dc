"""What an adapter is: one layer's neurons, and how they are reported in a forward pass.

Under ZeRO-3 a weight may be read only while its own module runs, from that module's forward pre-hook on, where it is
gathered; so a site tells its blocks from there, and whoever listens is done with them when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from nopsd.errors import UserError
from nopsd.neurons.activity import Block, LayerActivity

Consumer = Callable[[LayerActivity], None]
Report = Callable[[tuple[Block, ...]], None]
Activation = Callable[[torch.Tensor], torch.Tensor]


class Handle(Protocol):
    """Undoes what a site attached."""

    def remove(self) -> Any: ...


class MlpSite(Protocol):
    """One layer's MLP. An adapter module has `match(mlp: nn.Module) -> MlpSite | None` that makes it.

    `match` is given a decoder layer's MLP, or the layer itself; it returns None for another's kind of MLP and raises
    `UnsupportedError` for one of its kind that it can't read. Widths are those of the whole model under ZeRO-3
    (`full_shape`).
    """

    @property
    def width(self) -> int:
        """Neurons of the layer, F; of a mixture, of all its experts."""
        ...

    @property
    def active(self) -> int:
        """Those of them that one token reaches."""
        ...

    def attach(self, value: str, report: Report) -> list[Handle]:
        """Report the layer's blocks once a forward pass, from now on.

        Args:
            value: `neuron.value`: `act_fn` or `gated`.
            report: Called from inside the pass, where ZeRO-3 has the down projection's weight gathered.

        Returns:
            Handles whose `remove` undoes it.
        """
        ...


@dataclass(frozen=True)
class NeuronSites:
    """All MLPs of a model, their widths, and the unembedding matrix [V, H] (whole or ZeRO-3-sharded).

    `layers`: the decoder layers that hold the MLPs. `widths`, `active`: see `MlpSite`.
    """

    layers: Sequence[nn.Module]
    mlps: Sequence[MlpSite]
    widths: tuple[int, ...]
    active: tuple[int, ...]
    unembedding: torch.Tensor


class UnsupportedError(Exception):
    """An MLP of the adapter's kind that it can't read; the text says why."""


def full_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """A parameter's shape, also while ZeRO-3 holds only a shard of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def first_attribute(module: nn.Module, names: Sequence[str]) -> Any:
    """The first of these attributes that the module has, or None."""
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def bare(activation: Any) -> Activation:
    """The activation as a function.

    Of a module its bare forward: calling the module once more would change the sequence of modules that ZeRO-3
    traces, so that a rank which scores and one which idles would disagree, and hang.
    """
    result: Activation = activation.forward if isinstance(activation, nn.Module) else activation
    return result


def one_block(down_HF: torch.Tensor, values_F: torch.Tensor, form: Activation) -> tuple[Block]:
    """A whole MLP as one block.

    Args:
        down_HF: Weight of the down projection, hidden size x neurons.
        values_F: [..., F], of every position.
        form: Makes neuron values of `values_F`; applied only to the rows that are asked for.
    """
    flat = values_F.reshape(-1, values_F.shape[-1])
    return (Block(0, down_HF, None, lambda rows: form(flat[rows])),)


def as_is(values: torch.Tensor) -> torch.Tensor:
    """The identity."""
    return values


def check_gating(gate_F: torch.Tensor, up_F: torch.Tensor, form: Activation, gated_F: torch.Tensor, name: str) -> None:
    """Check that the hooks stand where the values are formed.

    Args:
        gate_F: One position's output of the gate projection, [F]; `up_F` of the up projection.
        form: The activation function.
        gated_F: What the down projection was given at that position, [F].
        name: The MLP's class, for the message.

    Raises:
        UserError: The down projection's input isn't act(gate) * up.
    """
    expected, found = form(gate_F) * up_F, gated_F
    least = torch.finfo(found.dtype).eps * 1000 if found.dtype == torch.float32 else 0.05
    if not bool(found.isfinite().all()):
        return  # named where the scores are cut
    if float((expected.float() - found.float()).abs().max()) > least * float(found.abs().max()) + 1e-30:
        raise UserError(
            f"model.path: {name}'s down projection is not given act(gate) * up, so its activation can't be seen from "
            "outside: use neuron.value=gated, or set model.mlp_adapter to one of yours"
        )
