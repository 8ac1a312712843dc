"""Low-rank adapters by PEFT inside the student's engine (Hu et al. 2021, arXiv 2106.09685).

In: the Hugging Face model, its parameters sharded or not, before `deepspeed.initialize`. Out: the same object with
PEFT's layers injected, so that it keeps its class and its output head. Adapter `default` is trained; adapter
`teacher`, if asked for, has no gradient and holds the moving average. With the adapters off the model is the base.

`plain_weights` gives any model's weights as its Hugging Face checkpoint names them, adapters merged in one weight
at a time: W + (α/r)·B·A. Nothing here is imported from PEFT unless adapters are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nopsd.config import LoraConfig
from nopsd.errors import ConfigError

STUDENT, TEACHER = "default", "teacher"  # PEFT calls the first adapter "default"


def add_lora(lm: nn.Module, config: LoraConfig, seed: int, with_teacher: bool = False) -> None:
    """Inject adapters in place: only the student's are left trainable. Equal on all ranks by `seed`.

    Args:
        lm: The model.
        config: Rank, scale and targets: names of linear layers, empty for all but the output head.
        seed: Of the adapters' first weights.
        with_teacher: Add an adapter that a moving average writes to.

    Raises:
        ConfigError: No target fits, or one is the head or an embedding: the fused loss computes with the head's plain
            weight.
    """
    from peft import inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in (STUDENT, TEACHER) if with_teacher else (STUDENT,):
            try:
                inject_adapter_in_model(peft_config(config), lm, adapter_name=name)
            except ValueError as error:
                raise ConfigError(f"train.lora.targets={config.targets}: {str(error).splitlines()[0]}") from error
    _refuse_embeddings(lm)
    for layer in lora_layers(lm).values():
        layer._active_adapter = [STUDENT]
    lm.requires_grad_(False)
    student = adapter_parameters(lm, STUDENT)
    for parameter in student.values():
        parameter.requires_grad_(True)
    with torch.no_grad():
        for name, kept in adapter_parameters(lm, TEACHER).items():
            kept.copy_(student[name])


def peft_config(config: LoraConfig, base_model: str | None = None) -> Any:
    """Our section as PEFT's."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=list(config.targets) or "all-linear",
        base_model_name_or_path=base_model,
    )


def lora_layers(lm: nn.Module) -> dict[str, Any]:
    """PEFT's layers by module name; empty for a model without adapters."""
    return {name: m for name, m in lm.named_modules() if hasattr(m, "lora_A") and hasattr(m, "get_delta_weight")}


def adapter_parameters(lm: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, as "<module>.lora_A.weight" and "<module>.lora_B.weight"."""
    return {
        f"{name}.{side}.weight": getattr(layer, side)[adapter].weight
        for name, layer in lora_layers(lm).items()
        for side in ("lora_A", "lora_B")
        if adapter in getattr(layer, side)
    }


@contextmanager
def computing_with(lm: nn.Module, adapter: str | None) -> Iterator[None]:
    """The model computes with `adapter`, or with the base weights alone (None), for as long as the block lasts.

    PEFT's own switches also turn `requires_grad` on and off, on which ZeRO-3's hooks hang: so they aren't used.
    """
    layers = list(lora_layers(lm).values())
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    for layer in layers:
        layer._disable_adapters, layer._active_adapter = adapter is None, [adapter or STUDENT]
    try:
        yield
    finally:
        for layer, (off, active) in zip(layers, before):
            layer._disable_adapters, layer._active_adapter = off, active


def gathered(parameters: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """The parameters whole for as long as the block lasts: a collective under ZeRO-3, nothing otherwise."""
    sharded = [p for p in parameters if hasattr(p, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PlainWeight:
    """A weight of the model as its checkpoint holds it. `layer`: PEFT's, if an adapter is to be merged in."""

    name: str
    parameter: nn.Parameter
    layer: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.parameter, "ds_shape", self.parameter.shape))

    @contextmanager
    def whole(self, wanted: bool = True) -> Iterator[Tensor | None]:
        """The whole tensor, valid inside the block; None where it isn't `wanted`. Collective under ZeRO-3."""
        parts = [] if self.layer is None else [getattr(self.layer, s)[STUDENT].weight for s in ("lora_B", "lora_A")]
        with gathered([self.parameter, *parts]), torch.no_grad():
            if not wanted:
                yield None
            elif self.layer is None:
                yield self.parameter.data
            else:
                # Not PEFT's own merge: it rounds B·A to the weight's dtype before the sum, and bfloat16 loses twice.
                up, down = (p.float() for p in parts)
                change = torch.mm(up, down).mul_(self.layer.scaling[STUDENT])
                change = change.T if self.layer.fan_in_fan_out else change
                yield change.add_(self.parameter.data).to(self.parameter.dtype)


def plain_weights(module: nn.Module) -> list[PlainWeight]:
    """Every weight in the order of `named_parameters`, tied ones once, without adapters' own tensors."""
    layers = list(lora_layers(module).values())
    own = {id(p) for layer in layers for side in ("lora_A", "lora_B") for p in getattr(layer, side).parameters()}
    changed = {id(layer.get_base_layer().weight): layer for layer in layers}
    return [
        PlainWeight(name.replace(".base_layer.", ".") if layers else name, parameter, changed.get(id(parameter)))
        for name, parameter in module.named_parameters()
        if id(parameter) not in own
    ]


@torch.no_grad()  # type: ignore[untyped-decorator]
def squared_change(lm: nn.Module) -> float:
    """‖W + (α/r)·B·A − W‖² summed over the adapted layers, from r×r products. Collective under ZeRO-3."""
    total = 0.0
    for layer in lora_layers(lm).values():
        a, b = layer.lora_A[STUDENT].weight, layer.lora_B[STUDENT].weight
        with gathered([a, b]):
            down, up = a.double(), b.double()
            total += layer.scaling[STUDENT] ** 2 * float(((up.T @ up) * (down @ down.T)).sum())
    return total


def save_adapter(lm: nn.Module, config: LoraConfig, base_model: str, folder: Path, is_main: bool) -> None:
    """The student's adapter as `peft.PeftModel.from_pretrained` reads it; rank 0 writes. Collective under ZeRO-3."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, parameter in adapter_parameters(lm, STUDENT).items():
        with gathered([parameter]):
            if is_main:
                tensors[f"base_model.model.{name}"] = parameter.detach().cpu().clone().contiguous()
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        stored = peft_config(config, base_model)
        stored.target_modules = sorted(lora_layers(lm))
        stored.inference_mode = True
        stored.save_pretrained(str(folder))


def _refuse_embeddings(lm: Any) -> None:
    for found in (lm.get_output_embeddings(), lm.get_input_embeddings()):
        if hasattr(found, "get_delta_weight"):
            raise ConfigError("train.lora.targets names the output head or the embedding: leave them out")
