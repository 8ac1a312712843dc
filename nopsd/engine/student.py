"""The trained model θ as a DeepSpeed ZeRO-3 engine: full fine-tuning with AdamW (SPEC §6.2, §10).

The weights are cut into shards while they are loaded; no rank ever holds the whole model. The learning rate
is a pure function of the step, set before each step, so that a resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nopsd.config import TrainConfig
from nopsd.engine.frozen import load_causal_lm


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step (from 0): a linear rise over `warmup` steps, then constant, or a cosine to 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_lr(engine: Any, lr: float) -> None:
    """The learning rate of the next optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def load_student(
    model_path: Path | str, dtype: str, ds_config: dict[str, Any], config: TrainConfig,
    wrap: Callable[[torch.nn.Module], torch.nn.Module], trust_remote_code: bool = False,
) -> Any:
    """The student's engine, in training mode.

    `ds_config` is filled by `load_ds_config(role="student")`. `wrap` puts the model into the module whose
    forward is the loss: under ZeRO-3 the head's weight may be read inside the engine's forward alone.
    Raises UserError if the model can't be loaded.
    """
    import deepspeed

    model = load_causal_lm(str(model_path), dtype, ds_config, trust_remote_code)
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(config.betas[0], config.betas[1]), weight_decay=config.weight_decay
    )
    engine, *_ = deepspeed.initialize(model=wrap(model), optimizer=optimizer, config=ds_config)
    engine.train()
    return engine
