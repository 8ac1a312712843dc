"""Whether a model's family computes what training takes for granted; tried on the family in small before a run.

In: a model's config. Out: `FamilyLimits`. What a decoder does with positions, masks and neighbouring tokens is its own
code (sliding windows, ALiBi, learned positions, RoPE that depends on the longest sequence, convolutions, recurrences),
and no key of its config says whether it heeds `segments`. So each form in which sequences are run is compared with one
sequence at a time, under Transformers' plain attention:

    padded   sequences in a rectangle, filled up on the right, without a mask (train.packing=false, scoring)
    packed   sequences end to end in one row, and behind stored contexts (train.packing=true)
    split    one sequence over several ranks (dist.sequence_parallel)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nopsd.config import Config
from nopsd.config.layers import chosen_layers
from nopsd.engine.lora import add_lora
from nopsd.engine.packed_attention import Context, Segments, inputs_of, packed_attention, use_packed_attention
from nopsd.engine.sequence_parallel import check_heads, heads_of
from nopsd.engine.tiny import VOCABULARY, tiny_model
from nopsd.errors import ConfigError, UserError

LENGTHS = (5, 1, 13, 7)  # some longer than a tiny model's windows, some shorter
CUTS = (3, 0, 6, 5)  # what stands in a stored context
# Of the largest logit. Float32 gives 1e-6, rarely 1e-3; a window, mask or position that is not heeded 0.2 and more.
TOLERANCE = 1e-2
NOTING = "nopsd_noting_shapes"


@dataclass(frozen=True)
class FamilyLimits:
    """Why the family can't be run padded, packed or split, or trained at all: "" where it can.

    `attention`: the implementation that is right where Transformers' usual one isn't; None for the usual one. `tried`:
    False for a family that could not be built in small.
    """

    family: str
    padded: str = ""
    packed: str = ""
    split: str = ""
    trained: str = ""
    attention: str | None = None
    tried: bool = True


def check_scoring(model_path: Path | str, config: Config) -> None:
    """ConfigError naming the family if it can't be read in rectangles without a mask, or a layer that it lacks."""
    text = config_of(str(model_path), config.model.trust_remote_code).get_text_config()
    chosen_layers(config.neuron.layers, text.num_hidden_layers)
    limits = _limits_for(model_path, config)
    if limits.padded:
        raise ConfigError(
            f"model.path={model_path}: sequences of {limits.family} can't be computed in a batch, padded on the right "
            f"({limits.padded}): choose another model"
        )


def check_training(model_path: Path | str, config: Config) -> None:
    """ConfigError naming family and remedy if it is wrong as it would be trained. Reads the model's config alone."""
    check_scoring(model_path, config)
    limits, parallel = _limits_for(model_path, config), config.dist.sequence_parallel
    if limits.trained:
        raise ConfigError(
            f"model.path={model_path}: {limits.family} can't be trained ({limits.trained}): choose another model"
        )
    if config.train.packing and limits.packed:
        raise ConfigError(
            f"model.path={model_path}: sequences of {limits.family} can't be packed ({limits.packed}): "
            "set train.packing=false"
        )
    if config.train.lora.r and limits.tried:
        _check_adapters(model_path, config)
    if parallel > 1:
        check_heads(config_of(str(model_path), config.model.trust_remote_code), parallel)
        if limits.split:
            raise ConfigError(
                f"dist.sequence_parallel={parallel}: sequences of {limits.family} can't be split over ranks "
                f"({limits.split}): set it to 1"
            )


def _check_adapters(model_path: Path | str, config: Config) -> None:
    """ConfigError if the family in small doesn't run with the adapters of train.lora."""
    lm = tiny_model(config_of(str(model_path), config.model.trust_remote_code))
    add_lora(lm, config.train.lora, seed=0)
    try:
        lm(input_ids=torch.arange(1, 9)[None], use_cache=False)
    except Exception as error:  # PEFT takes layers for plain ones that a family calls otherwise
        raise ConfigError(
            f"train.lora: {lm.config.model_type} doesn't run with adapters on all these layers ({_first_line(error)}): "
            "name others in train.lora.targets, or set train.lora.r=0"
        ) from error


def _limits_for(model_path: Path | str, config: Config) -> FamilyLimits:
    """What is wrong with sequences as long as a run's can get: what the server samples, what the teacher reads."""
    longest = max(config.server.max_model_len, config.context.max_prompt + config.train.max_response)
    return family_limits(str(model_path), config.model.trust_remote_code, longest=longest)


def config_of(model_path: str, trust_remote_code: bool, revision: str | None = None) -> Any:
    """The Transformers config of a model's folder or hub id. UserError if there is none that Transformers knows."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model_path} can't be loaded: {str(error).strip().splitlines()[0]}") from error


@cache
def family_limits(
    model_path: str, trust_remote_code: bool, revision: str | None = None, longest: int | None = None
) -> FamilyLimits:
    """What is wrong with a model's family, by folder or hub id; `longest`: of the longest sequence, None: any."""
    limits: FamilyLimits = judge(config_of(model_path, trust_remote_code, revision), longest)
    return limits


@torch.no_grad()  # type: ignore[untyped-decorator]
def judge(config: Any, longest: int | None = None) -> FamilyLimits:
    """What is wrong with a config's family, for sequences of up to `longest` tokens."""
    family = str(config.model_type)
    draws = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, VOCABULARY, (n,), generator=draws) for n in LENGTHS]
    try:
        model = tiny_model(config, longest)
        usual = model.config._attn_implementation
        model.set_attn_implementation("eager")
        alone = [_logits(model, {"input_ids": ids[None], "use_cache": False}) for ids in sequences]
    except Exception as error:  # a family's own code raises anything
        reason = f"it can't be tried in small: {_first_line(error)}"
        return FamilyLimits(family, packed=reason, split=reason, tried=False)
    attention = None
    model.set_attn_implementation(usual)
    if padded := _fault(alone, lambda: _padded(model, sequences)):
        model.set_attn_implementation("eager")
        if _fault(alone, lambda: _padded(model, sequences)):
            return FamilyLimits(family, padded, padded, padded, padded)
        attention = "eager"
    trained = _hidden_states(model)
    use_packed_attention(model)
    packed = _fault(alone, lambda: _packed(model, sequences))
    packed = packed or _fault(alone, lambda: _behind_contexts(model, sequences))
    return FamilyLimits(family, "", packed, packed or _unlike_heads(model), trained, attention)


def _logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    """[B·S, V], rows in turn."""
    logits: Tensor = model(**inputs).logits
    return logits.flatten(0, 1)


def _hidden_states(model: Any) -> str:
    """Why training can't take the model's last hidden states on the way to its head; "" if it can."""
    caught: list[Any] = []
    hook = model.base_model.register_forward_hook(lambda _module, _args, output: caught.append(output))
    ids, nothing = torch.ones(1, 2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    try:
        model(input_ids=ids, use_cache=False, logits_to_keep=nothing)
    except Exception as error:  # a family's own code raises anything
        return _first_line(error)
    finally:
        hook.remove()
    if not caught or getattr(caught[0], "last_hidden_state", None) is None:
        return "its head reads something else than its base model's hidden states"
    return ""


def _padded(model: Any, sequences: Sequence[Tensor]) -> list[Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    rows = _logits(model, {"input_ids": ids, "use_cache": False}).unflatten(0, ids.shape)
    return [row[: len(sequence)] for row, sequence in zip(rows, sequences)]


def _packed(model: Any, sequences: Sequence[Tensor]) -> list[Tensor]:
    row = _logits(model, inputs_of(torch.cat(list(sequences))[None], Segments(LENGTHS)))
    return list(row.split(LENGTHS))


def _behind_contexts(model: Any, sequences: Sequence[Tensor]) -> list[Tensor]:
    """The first tokens of each sequence in one pass, which stores their keys and values, the others in a second."""
    kept = [Context() for cut in CUTS if cut]
    heads = torch.cat([ids[:cut] for ids, cut in zip(sequences, CUTS)])
    first = _logits(model, inputs_of(heads[None], Segments(tuple(c for c in CUTS if c), recorded=tuple(kept))))
    stored = iter(kept)
    tails = tuple(length - cut for length, cut in zip(LENGTHS, CUTS))
    segments = Segments(tails, contexts=tuple(next(stored) if cut else None for cut in CUTS))
    second = _logits(model, inputs_of(torch.cat([ids[cut:] for ids, cut in zip(sequences, CUTS)])[None], segments))
    return [torch.cat(parts) for parts in zip(first.split(CUTS), second.split(tails))]


def _fault(alone: Sequence[Tensor], compute: Callable[[], list[Tensor]]) -> str:
    """How what `compute` gives differs from the sequences' own logits `alone`; "" where it is the same."""
    try:
        found = compute()
    except Exception as error:  # a family's own code raises anything
        return _first_line(error)
    size = max(float(logits.abs().max()) for logits in alone)
    worst = max(float((a - b).abs().max()) for a, b in zip(alone, found, strict=True)) / size
    return "" if worst <= TOLERANCE else f"logits are off by {worst:.2g} of the largest"  # a NaN isn't within


def _unlike_heads(model: Any) -> str:
    """Why DeepSpeed can't exchange the heads of the model's attention; "" if it can."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    shapes: set[tuple[int, int, int, int, int]] = set()

    def noting(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any) -> Any:
        shapes.add((query.shape[1], key.shape[1], query.shape[3], key.shape[3], value.shape[3]))
        return packed_attention(module, query, key, value, attention_mask, **options)

    ALL_ATTENTION_FUNCTIONS.register(NOTING, noting)
    model.set_attn_implementation(NOTING)
    _logits(model, {"input_ids": torch.ones(1, 2, dtype=torch.int64), "use_cache": False})
    try:
        heads, kv_heads, width = heads_of(model.config)
    except Exception as error:  # layers that differ, or names of its own
        return _first_line(error)
    if shapes == {(heads, kv_heads, width, width, width)}:
        return ""
    return f"its layers' heads are not all {heads} of queries, {kv_heads} of keys and values, of one width"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error).strip() else ''}"
