"""A frozen model, ZeRO-3-sharded from the moment it is loaded (the base model to score, the frozen teacher).

In: a model folder or hub id and a DeepSpeed configuration. Out: a DeepSpeed engine in eval mode, without
optimizer and gradients. Every rank calls it; with stage 3 no rank ever holds the whole model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nopsd.engine.ds_config import zero_stage
from nopsd.engine.family_check import family_limits
from nopsd.engine.load_check import buffers_kept, match_unsharded
from nopsd.engine.packed_attention import use_packed_attention
from nopsd.errors import UserError
from nopsd.heap import give_back_freed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_frozen(
    model_path: str,
    dtype: str,
    ds_config: dict[str, Any],
    trust_remote_code: bool = False,
    revision: str | None = None,
    packing: bool = False,
    prepare: Callable[[Any], None] | None = None,
) -> Any:
    """A DeepSpeed engine over a causal language model: eval mode, no gradients, sharded as configured.

    Args:
        model_path: Folder or hub id.
        dtype: `float32` or `bfloat16`.
        ds_config: Filled by `load_ds_config(role="teacher")`.
        trust_remote_code: Run code that comes with the model.
        revision: The hub's.
        packing: It takes `segments`: sequences end to end in one row.
        prepare: Called on the model before DeepSpeed wraps it.

    Raises:
        UserError: The model can't be loaded.
        RuntimeError: Stage 3 was asked for and a parameter is not sharded.
    """
    import deepspeed

    model = load_causal_lm(model_path, dtype, ds_config, trust_remote_code, revision)
    model.requires_grad_(False).eval()
    if packing:
        use_packed_attention(model)
    if prepare is not None:
        prepare(model)
    with buffers_kept(model):
        engine, *_ = deepspeed.initialize(model=model, config=ds_config)
    engine.eval()
    give_back_freed()
    return engine


def load_causal_lm(
    model_path: str,
    dtype: str,
    ds_config: dict[str, Any],
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Any:
    """The Hugging Face model, its parameters already sharded if `ds_config` asks for stage 3."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    try:
        attention = family_limits(model_path, trust_remote_code, revision).attention
        # transformers holds this by a weak reference: without a name it dies at once and nothing is sharded.
        live_config = HfDeepSpeedConfig(ds_config) if zero_stage(ds_config) == 3 else None
        model = AutoModelForCausalLM.from_pretrained(
            model_path,
            dtype=DTYPES[dtype],
            trust_remote_code=trust_remote_code,
            revision=revision,
            attn_implementation=attention,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.path={model_path} can't be loaded: {reason}") from error
    if live_config is not None:
        unset_hf_deepspeed_config()  # what is loaded from now on is not sharded
        assert_sharded(model, DTYPES[dtype])
        match_unsharded(model, DTYPES[dtype], Path(model_path))
        # What a gather gives is what the shards hold, bit by bit (`nopsd.train.export` compares them).
        model.gathers_exactly = not ds_config["zero_optimization"].get("zero_quantized_weights", False)
    return model


def assert_sharded(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """RuntimeError naming the first parameter that ZeRO-3 does not own, or holds in another dtype."""
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "ds_id"):
            raise RuntimeError(f"ZeRO-3 was asked for, but {name} of the model is not sharded")
        if parameter.ds_tensor.dtype != dtype:  # DeepSpeed goes by bf16.enabled alone
            raise RuntimeError(f"model.dtype is {dtype}, but ZeRO-3 holds {name} in {parameter.ds_tensor.dtype}")
