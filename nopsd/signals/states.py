"""The hidden states that an answer starts and ends with, layer by layer, and what is made of them.

    s, e                  means over the L layers of the block outputs at the response's first and last token, [H]
    representation        [s; e − s], [2H]                       (SHIFT, arXiv 2605.28631)
    representation_shift  ‖e − s‖
    trajectory            each layer's state at the last token times a fixed sign matrix [H, 64] / 8, at unit length,
                          [L · 64]                               (INFLOW, arXiv 2609.36695)

A response without a token: zeros, and no shift (NaN).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from nopsd.rollout.types import Rollout

WIDTH, SEED = 64, 42  # of a trajectory's layer; INFLOW's


class Way:
    """Collects the end states of a batch's responses, a layer after another."""

    def __init__(self, members: Sequence[Rollout]) -> None:
        self.members = members
        self.layers: list[np.ndarray] = []  # [B, 2, H] float64 each: first and last token

    def see(self, states_BTH: torch.Tensor) -> None:
        """Keep what one layer puts out at both ends of each response."""
        ends = np.zeros((len(self.members), 2, states_BTH.shape[2]))
        for row, rollout in enumerate(self.members):
            if rollout.response_ids:
                first = len(rollout.prompt_ids)
                places = [first, first + len(rollout.response_ids) - 1]
                ends[row] = states_BTH[row, places].float().double().cpu().numpy()
        self.layers.append(ends)

    def column(self, name: str) -> np.ndarray:
        """The column of this name, [B, ...]."""
        ends_LB2H = np.stack(self.layers)
        if name == "trajectory":
            return trajectory(ends_LB2H[:, :, 1])
        start, end = ends_LB2H.mean(axis=0).transpose(1, 0, 2)
        if name == "representation":
            return np.concatenate([start, end - start], axis=1)
        empty = np.array([not rollout.response_ids for rollout in self.members])
        return np.where(empty, np.nan, np.sqrt(((end - start) ** 2).sum(axis=1)))


def trajectory(states_LBH: np.ndarray) -> np.ndarray:
    """The way of one token through the layers.

    Args:
        states_LBH: Its hidden state after each layer.

    Returns:
        [B, L · 64]: each layer's projection at unit length; zeros stay.
    """
    projected = states_LBH @ signs(states_LBH.shape[2])
    norm = np.sqrt((projected**2).sum(axis=2, keepdims=True))
    unit = np.divide(projected, norm, out=np.zeros_like(projected), where=norm > 0)
    result: np.ndarray = unit.transpose(1, 0, 2).reshape(states_LBH.shape[1], -1)
    return result


def signs(hidden: int) -> np.ndarray:
    """The fixed Rademacher matrix [H, 64] of ±1/8, the same on every machine."""
    draws = np.random.Generator(np.random.Philox(SEED)).integers(0, 2, (hidden, WIDTH))
    result: np.ndarray = (2.0 * draws - 1.0) / np.sqrt(WIDTH)
    return result


@contextmanager
def watch_ends(layers: Sequence[nn.Module], way: Way) -> Iterator[None]:
    """While open, `way` sees what every layer puts out."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        way.see((output[0] if isinstance(output, tuple) else output).detach())

    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
