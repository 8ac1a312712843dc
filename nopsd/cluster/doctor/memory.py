"""What a run needs on each device and host, estimated from the config and the model's own configuration.

In: the run's config, the model's `config.json` (no weights), the number of training ranks. Out: bytes by part, for a
device and for its host. States follow DeepSpeed's ZeRO-3 (its own `estimate_zero3_model_states_mem_needs`: 18 bytes a
parameter in bf16 with gradients gathered in float32); activations are an estimate from the layers' shapes.

Shapes: P parameters, N ranks, S tokens of a micro-batch, L layers, H hidden, F MLP width, A and K heads of width D,
V vocabulary, b bytes a number of `model.dtype`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nopsd.config import METHODS, Config

FLOAT = 4
PUBLISHED = Path(__file__).parent / "published"  # OWNER/NAME/config.json of models on the hub that presets name
MIB, GIB = 2**20, 2**30
BYTES = {"float32": 4, "bfloat16": 2}
LARGEST_CHUNK = 512  # positions of a tile where distill.logit_chunk leaves it to the device
# A step's own: it is free while the server is awake.
TRANSIENT = ("activations", "loss")
TILE_BUFFERS = 3  # vocabulary-sized tiles of the fused loss: both sides' logits and one to work in


@dataclass(frozen=True)
class ModelShape:
    """Sizes that memory depends on. `parameters`: tied weights once; `linears`: (in, out) of a layer's matrices."""

    parameters: int
    largest_layer: int
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    linears: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Needs:
    """Bytes by part. `device`: one training rank's; `host`: its share of the host's memory (offload)."""

    device: dict[str, int]
    host: dict[str, int]
    kv_bytes_per_token: int  # of the rollout server, on each of its devices
    server_weights: int  # likewise

    @property
    def total(self) -> int:
        return sum(self.device.values())

    @property
    def resting(self) -> int:
        """What of a rank stays on its device between steps."""
        return self.total - sum(self.device.get(part, 0) for part in TRANSIENT)


def shape_of(folder: str, trust_remote_code: bool = False) -> ModelShape:
    """Sizes of the model in a folder, from its config alone: no weight is allocated."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in lm.base_model.layers]
    head = lm.get_output_embeddings().weight
    matrices = [m for m in lm.base_model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    return ModelShape(
        parameters=sum(p.numel() for p in lm.parameters()),
        largest_layer=max([*sizes, head.numel()]),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary=head.shape[0],
        linears=tuple((m.in_features, m.out_features) for m in matrices),
    )


def needs_of(
    config: Config, shape: ModelShape, ranks: int, student: Mapping[str, Any], teacher: Mapping[str, Any]
) -> Needs:
    """Memory of each part of training on a rank, estimated.

    Args:
        config: The run's.
        shape: Sizes of the model.
        ranks: Of all hosts.
        student: The student's DeepSpeed configuration.
        teacher: The teacher's.
    """
    config = _as_trained(config)
    b, lora = BYTES[config.model.dtype], config.train.lora
    trained = shape.layers * sum(lora.r * (i + o) for i, o in shape.linears) if lora.r else shape.parameters
    adapters = trained if lora.r else 0
    kind = config.teacher.kind
    second = 0 if lora.r or kind == "live" else shape.parameters
    device = {
        "student weights": _shard(b * (shape.parameters + adapters), ranks),
        "gradients": _shard(_gradient_bytes(student, b) * trained, ranks),
        "optimizer": _shard(3 * FLOAT * trained, ranks),  # float32 master, two moments
        "teacher weights": _shard(b * second, ranks),
        "second copies (hpZ)": _second_copies(shape, b, ranks, student)
        + (second and _second_copies(shape, b, ranks, teacher)),
        "EMA master": _shard(FLOAT * trained, ranks) if kind == "ema" else 0,
        "gathered layers": _gathered(shape, b, student) + (_gathered(shape, b, teacher) if second else 0),
        "buckets": b * 2 * _zero(student).get("reduce_bucket_size", 0),
        "loss": _loss(config, shape, b),
        "activations": activations(config, shape, b),
        "teacher contexts": config.teacher.context_mib * MIB if kind in ("frozen", "trust_region") else 0,
    }
    host = {name: device.pop(name) for name in _offloaded(student, teacher, "cpu") if name in device}
    if _zero(student).get("offload_optimizer", {}).get("device") in ("cpu", "nvme"):  # beside the master weights
        host["EMA master"] = device.pop("EMA master")
    for name in _offloaded(student, teacher, "nvme"):
        device.pop(name, None)
    kv = 2 * shape.layers * shape.kv_heads * shape.head_width * BYTES[config.server.dtype or config.model.dtype]
    split = config.server.tensor_parallel
    served = BYTES[config.server.dtype or config.model.dtype] * shape.parameters // split
    return Needs(device, host, max(1, kv // min(split, shape.kv_heads)), served)


def _as_trained(config: Config) -> Config:
    """The config as the memory estimate takes it: other trainers have no teacher, but GRPO's KL a frozen base."""
    trainer = METHODS[config.method].trainer
    if trainer == "distill":
        return config
    frozen = trainer == "grpo" and config.grpo.kl_coef > 0
    return replace(config, teacher=replace(config.teacher, kind="frozen" if frozen else "live", context_mib=0))


def activations(config: Config, shape: ModelShape, b: int) -> int:
    """What one micro-batch's forward keeps for its backward: an estimate.

    A layer keeps, of each token, about 4 H (inputs of its two norms and of its two blocks), the norms' float32
    copies, queries, keys, values and the attention's output, and 4 F of a gated MLP (gate, activation, up, product).

    Args:
        config: The run's.
        shape: The model's.
        b: Bytes of an activation.

    Returns:
        Bytes.
    """
    tokens = longest_micro_batch(config) // config.dist.sequence_parallel
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_width
    mlp = 4 * shape.mlp if not config.train.mlp_tile else 0
    layer = b * (4 * shape.hidden + attention + mlp) + 2 * FLOAT * shape.hidden
    tile = b * 4 * shape.mlp * min(tokens, config.train.mlp_tile)
    if config.train.gradient_checkpointing:
        return tokens * (shape.layers * b * shape.hidden + layer) + tile
    return tokens * shape.layers * layer + tile


def longest_micro_batch(config: Config) -> int:
    """The most tokens that the student's or the teacher's forward gets at a time."""
    train = config.train
    if train.micro_tokens is not None:
        return max(train.micro_tokens, config.context.max_prompt + train.max_response)
    return train.micro * (config.context.max_prompt + train.max_response)


def _shard(nbytes: int, ranks: int) -> int:
    return -(-nbytes // ranks)


def _zero(ds_config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ds_config.get("zero_optimization", {})
    return found


def _second_copies(shape: ModelShape, b: int, ranks: int, ds_config: Mapping[str, Any]) -> int:
    """The copy of the weights that the ranks of a host share (ZeRO++ hpZ); none where it would be the first again."""
    size = int(_zero(ds_config).get("zero_hpz_partition_size", 1))
    return _shard(b * shape.parameters, size) if 1 < size < ranks else 0


def _gradient_bytes(ds_config: Mapping[str, Any], b: int) -> int:
    """Per gradient: DeepSpeed gathers them in the model's type unless set otherwise."""
    return FLOAT if ds_config.get("data_types", {}).get("grad_accum_dtype") == "fp32" else b


def _gathered(shape: ModelShape, b: int, ds_config: Mapping[str, Any]) -> int:
    """Whole parameters alive at once: what ZeRO-3 may keep, but at least the largest layer."""
    live = min(int(_zero(ds_config).get("stage3_max_live_parameters", 1e9)), shape.parameters)
    ahead = min(int(_zero(ds_config).get("stage3_prefetch_bucket_size", 5e7)), shape.parameters)
    return b * max(live, shape.largest_layer + ahead)


def _loss(config: Config, shape: ModelShape, b: int) -> int:
    """The fused loss: the teacher's whole output weight, the gradient of the student's, and its tiles."""
    head = shape.vocabulary * shape.hidden
    whole = 0 if config.train.lora.r or config.teacher.kind == "live" else b * head
    chunk = config.distill.logit_chunk or LARGEST_CHUNK
    return whole + FLOAT * head + TILE_BUFFERS * FLOAT * chunk * shape.vocabulary


def _offloaded(student: Mapping[str, Any], teacher: Mapping[str, Any], to: str) -> list[str]:
    parts = []
    if _zero(student).get("offload_optimizer", {}).get("device") == to:
        parts += ["optimizer", "gradients"]
    if _zero(student).get("offload_param", {}).get("device") == to:
        parts.append("student weights")
    if _zero(teacher).get("offload_param", {}).get("device") == to:
        parts.append("teacher weights")
    return parts
