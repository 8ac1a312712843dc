"""The trained model as a folder that `transformers` and vLLM load, checked by loading it again.

Weights are gathered from the ZeRO-3 shards one parameter at a time, so rank 0 holds one file's worth and no
more. Config, tokenizer, chat template and generation config are the base model's own files. The folder gets its
name only after each rank found its own weights in the files and the reloaded model gave the engine's own
distributions, up to rounding (`nopsd.rollout.logprob_gap`). All ranks take part.
"""

from __future__ import annotations

import math
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from nopsd.config import LoraConfig
from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.engine.load_check import check_files
from nopsd.engine.lora import PlainWeight, lora_layers, plain_weights, save_adapter
from nopsd.errors import ArtefactError, UserError
from nopsd.files import read_json, write_json
from nopsd.rollout.logprob_gap import Gap, bound_of
from nopsd.train.artefacts import CARD, RECORD

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".safetensors.index.json")
ADAPTER = "adapter"
SHARD_BYTES = 4 * 2**30


def export_model(
    model: torch.nn.Module,
    base_model: Path,
    folder: Path,
    probe_ids: list[int],
    ranks: Ranks,
    facts: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    lora: LoraConfig | None = None,
) -> float:
    """Write the trained model as a Hugging Face folder, and verify it by reloading.

    With adapters the weights are merged, and the adapter itself is in `folder`/adapter as PEFT reads it.

    Args:
        model: The Hugging Face model inside a ZeRO-3 engine.
        base_model: The folder it was loaded from.
        folder: Where to; it appears whole or not at all.
        probe_ids: Token ids of a short prompt for the check.
        ranks: All that train.
        facts: What the record in the folder shall say besides.
        trust_remote_code: Code of the base model's folder may run.
        lora: Adapters as they were made; None: there are none.

    Returns:
        max |Δ logit| of the check.

    Raises:
        ArtefactError: The reloaded model differs.
    """
    part = folder.with_name(f".{folder.name}.part")
    if ranks.is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        copy_companions(base_model, part, next(model.parameters()).dtype)
    write_weights(model, part, ranks)
    if lora is not None and lora_layers(model):
        save_adapter(model, lora, str(base_model), part / ADAPTER, ranks.is_main)
    difference = verify(model, part, probe_ids, ranks, trust_remote_code)
    if ranks.is_main:
        write_json(part / RECORD, {**(facts or {}), "max_logit_difference": difference, "probe_tokens": len(probe_ids)})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    ranks.barrier()
    return difference


def copy_companions(base_model: Path, part: Path, dtype: torch.dtype) -> None:
    """Every file of the base model's folder but its weights, subfolders, model card and our own record."""
    own = (RECORD, CARD)
    for file in sorted(base_model.iterdir()):
        if (
            file.is_file()
            and not file.name.endswith(WEIGHTS)
            and file.name not in own
            and not file.name.startswith(".")
        ):
            shutil.copyfile(file, part / file.name)
    config = read_json(part / "config.json")
    config.pop("torch_dtype", None)
    write_json(part / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})


def write_weights(model: torch.nn.Module, part: Path, ranks: Ranks) -> None:
    """Safetensors files of at most SHARD_BYTES (but at least one tensor), and their index if there are several."""
    tensors = named_tensors(model)
    split = split_state_dict_into_shards_factory(
        {name: _bytes(tensor) for name, tensor in tensors.items()},
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    for filename, names in split.filename_to_tensors.items():
        gathered = {name: whole for name in names if (whole := gather(tensors[name], ranks)) is not None}
        if ranks.is_main:
            save_file(gathered, part / filename, metadata={"format": "pt"})
    if ranks.is_main and split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(part / "model.safetensors.index.json", index)


def named_tensors(model: torch.nn.Module) -> dict[str, PlainWeight | Tensor]:
    """Weights (adapters merged in), a tied one once under its first name (as `transformers` stores it), and saved
    buffers."""
    saved = model.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {w.name: w for w in plain_weights(model)} | buffers


def gather(tensor: PlainWeight | Tensor, ranks: Ranks) -> Tensor | None:
    """The whole tensor on rank 0's CPU, None on the others. Collective."""
    held: Any = tensor.whole(ranks.is_main) if isinstance(tensor, PlainWeight) else nullcontext(tensor)
    with held as whole:
        return whole.detach().cpu().clone().contiguous() if ranks.is_main else None


def _bytes(tensor: PlainWeight | Tensor) -> int:
    if isinstance(tensor, PlainWeight):
        return int(math.prod(tensor.shape) * tensor.parameter.element_size())
    return int(tensor.numel() * tensor.element_size())


def verify(
    model: torch.nn.Module, part: Path, probe_ids: list[int], ranks: Ranks, trust_remote_code: bool = False
) -> float:
    """Largest difference between the engine's logits and those of the folder loaded afresh on rank 0's CPU. Collective.

    Args:
        model: The Hugging Face model inside the engine.
        part: The folder that was written.
        probe_ids: A short prompt.
        ranks: All that train.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ArtefactError: The files hold other weights or make other distributions.
    """
    if getattr(model, "gathers_exactly", False) and not lora_layers(model):  # with adapters they are merged ones
        check_own_weights(model, part, ranks)
    own = probe_logits(model, probe_ids)
    dtype = next(model.parameters()).dtype
    return float(broadcast_from_rank0(ranks, lambda: _compare(own, part, probe_ids, dtype, trust_remote_code)))


def check_own_weights(model: torch.nn.Module, part: Path, ranks: Ranks) -> None:
    """Every rank compares the files with the weights that it holds. Collective.

    Raises:
        ArtefactError: On every rank, if one finds others.
    """
    ranks.barrier()  # rank 0 has written them
    try:
        check_files(model, part)
        found = ""
    except UserError as error:
        found = str(error)
    if differing := [text for text in ranks.all_gather_json([found]) if text != [""]]:
        raise ArtefactError(f"the exported model in {part} is not the trained one: {differing[0][0]}")


@torch.no_grad()  # type: ignore[untyped-decorator]
def probe_logits(model: torch.nn.Module, ids: list[int]) -> Tensor:
    """Float32 logits (T, V) of one sequence, on the CPU. Under ZeRO-3 all ranks must call it."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float().cpu()
    model.train(training)
    return logits


def _compare(own: Tensor, part: Path, ids: list[int], dtype: torch.dtype, trust_remote_code: bool) -> float:
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # a live ZeRO-3 configuration would shard the copy too, and wait for the other ranks
    copy, report = AutoModelForCausalLM.from_pretrained(
        part, dtype=dtype, local_files_only=True, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise ArtefactError(f"the exported model in {part} lacks or has too many weights: {', '.join(wrong[:4])}")
    reloaded = probe_logits(copy, ids)
    bound = bound_of((str(dtype).removeprefix("torch."),), copy.config.get_text_config().num_hidden_layers)
    if passed := bound.passed_by(expected_gap(own, reloaded)):
        raise ArtefactError(
            f"the exported model in {part} is not the trained one: its log-probs differ by {passed} over {len(ids)} "
            "positions"
        )
    return float((reloaded - own).abs().max())


def expected_gap(own_TV: Tensor, other_TV: Tensor) -> Gap:
    """|Δ log p| and 1−p of the tokens that the first would sample, expected at each position; the largest is `high`."""
    own, other = own_TV.double().log_softmax(-1), other_TV.double().log_softmax(-1)
    p_TV = own.exp()
    gap_T = (p_TV * (own - other).abs()).sum(-1)
    return Gap(float(gap_T.mean()), float(gap_T.max()), float((p_TV * (1 - p_TV)).sum(-1).mean()))
