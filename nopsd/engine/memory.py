"""Less activation memory for the trained model, by DeepSpeed's and Transformers' own means.

In: the loaded model, before `deepspeed.initialize`, and `TrainConfig`. Out: the same model, changed in place; losses
and gradients stay what they were. Where weights, gradients and optimizer states live is the DeepSpeed JSON's
matter: `ds_configs/`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nopsd.config import TrainConfig
from nopsd.errors import ConfigError


def save_memory(model: nn.Module, config: TrainConfig) -> None:
    """What `train.gradient_checkpointing` and `train.mlp_tile` ask for, on a Hugging Face model (PEFT's too).

    Call it before `deepspeed.initialize`. ConfigError if the model can't do it.
    """
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    if config.mlp_tile:
        tile_mlps(model, config.mlp_tile)


def checkpoint_activations(model: Any) -> None:
    """Keep each layer's input alone and compute the layer again in the backward (Chen et al., arXiv 1604.06174).

    ConfigError if the model's class doesn't support it.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(f"train.gradient_checkpointing: {type(model).__name__} doesn't support it: set it to false")
    # The reentrant kind needs an input that requires a gradient: with LoRA there is none.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def tile_mlps(model: nn.Module, tile: int) -> int:
    """Compute each dense MLP some token rows at a time, forward and backward, with DeepSpeed's TiledMLP.

    The [tokens, intermediate] activations are never whole.

    Args:
        model: A Hugging Face model.
        tile: Token rows at a time.

    Returns:
        How many MLPs were changed.

    Raises:
        ConfigError: The model has none (mixtures keep their experts' weights in one tensor, without an MLP module), or
            drops out values in them (LoRA's dropout).

    Source:
        Arctic Long Sequence Training, arXiv 2506.13996, Section 3.1.1.
    """
    mlps = [m for m in model.modules() if _is_mlp(m)]
    if not mlps:
        raise ConfigError(f"train.mlp_tile: {type(model).__name__} has no dense MLP (up_proj, down_proj): set it to 0")
    if any(isinstance(m, nn.Dropout) and m.p for mlp in mlps for m in mlp.modules()):
        raise ConfigError("train.mlp_tile computes an MLP twice, and dropout in it would differ: set one of both to 0")
    for mlp in mlps:
        mlp.forward = types.MethodType(_tiled(type(mlp).forward, tile), mlp)
    return len(mlps)


def tiles_of(rows: int, tile: int) -> int:
    """Tiles of at most `tile` rows, at least one."""
    return max(1, -(-rows // tile))


def _is_mlp(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in ("up_proj", "down_proj"))


def _tiled(whole: Callable[[Any, Tensor], Tensor], tile: int) -> Callable[[Any, Tensor], Tensor]:
    """An MLP's forward over tiles; `whole` is the forward of its class."""

    def forward(mlp: nn.Module, hidden_BTH: Tensor) -> Tensor:
        from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP

        rows_NH = hidden_BTH.flatten(0, -2)
        tiles = _same_on_all_ranks(tiles_of(rows_NH.shape[0], tile), hidden_BTH.device)
        # torch.chunk may give fewer pieces than asked for, and TiledMLP then never passes its gradient to ZeRO.
        missing = -rows_NH.shape[0] % tiles
        padded_NH = nn.functional.pad(rows_NH, (0, 0, 0, missing))
        out_NH = TiledMLP.apply(whole, mlp, padded_NH, tiles, list(mlp.parameters()))
        return out_NH[: rows_NH.shape[0]].view_as(hidden_BTH)

    return forward


def _same_on_all_ranks(count: int, device: torch.device) -> int:
    """The largest count: ZeRO-3 gathers the weights once a tile, so every rank must have as many."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return count
    largest = torch.tensor([count], device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)
