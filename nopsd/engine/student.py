"""The trained model θ as a DeepSpeed ZeRO-3 engine: all weights, or LoRA's alone, with AdamW.

The weights are sharded while they are loaded; no rank ever holds the whole model. The learning rate is set by the
loop before each step, a pure function of the step, so that a resumed run needs no scheduler state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nopsd.config import TrainConfig
from nopsd.engine.frozen import load_causal_lm
from nopsd.engine.load_check import buffers_kept
from nopsd.engine.lora import add_lora
from nopsd.engine.memory import save_memory
from nopsd.engine.packed_attention import use_packed_attention
from nopsd.heap import give_back_freed


def load_student(
    model_path: Path | str,
    dtype: str,
    ds_config: dict[str, Any],
    config: TrainConfig,
    wrap: Callable[[torch.nn.Module], torch.nn.Module],
    trust_remote_code: bool = False,
    seed: int = 0,
    with_teacher_adapter: bool = False,
) -> Any:
    """The student's engine, in training mode.

    Args:
        model_path: Folder or hub id.
        dtype: `float32` or `bfloat16`.
        ds_config: Filled by `load_ds_config(role="student")`.
        config: Optimizer, memory, and adapters if `lora.r` is above 0: then nothing else is trained.
        wrap: Puts the model into the module whose forward is the loss: under ZeRO-3 the head's weight may be read
            inside the engine's forward alone.
        trust_remote_code: Run code that comes with the model.
        seed: Of the adapters' first weights.
        with_teacher_adapter: Add the adapter that a moving average writes to.

    Raises:
        UserError: The model can't be loaded.
        ConfigError: Targets of the adapters don't fit.
    """
    import deepspeed

    model = load_causal_lm(str(model_path), dtype, ds_config, trust_remote_code)
    model.config.use_cache = False
    if config.packing:
        use_packed_attention(model)
    if config.lora.r:
        add_lora(model, config.lora, seed, with_teacher_adapter)
    save_memory(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.lr, betas=(config.betas[0], config.betas[1]), weight_decay=config.weight_decay, fused=True
    )
    with buffers_kept(model):
        engine, *_ = deepspeed.initialize(model=wrap(model), optimizer=optimizer, config=ds_config)
    share_master_weights(engine.optimizer)
    engine.train()
    give_back_freed()
    return engine


def share_master_weights(optimizer: Any) -> None:
    """Float32 training: let the optimizer's master copy be the weights themselves, one copy of the model less.

    DeepSpeed 0.19.8 means to (stage3.py, `_create_fp32_partitions`), but compares a device with its name, which
    is never equal. Nothing is done to other dtypes, or to what is offloaded.
    """
    for weights, master in zip(optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat):
        if weights is not None and (weights.dtype, weights.device) == (master.dtype, master.device):
            master.data = weights.data
