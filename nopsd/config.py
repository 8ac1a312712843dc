"""The one typed configuration of a run (SPEC §10.1), as OmegaConf structured dataclasses.

Load with `load_config(preset, overrides)`: defaults here, then a YAML preset of `nopsd/presets` (or a
YAML file), then `key=value` overrides. Unknown and ill-typed keys are refused, with the nearest
valid name. Where a default comes from stands behind it: [P] the paper, [A] its companion code,
(chosen) ours, with SPEC's section.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nopsd.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"

STYLE_WORDS = tuple(
    "Therefore Thus So Hence However But Wait Hmm Okay Alternatively Let Now First Next Finally".split()
)


@dataclass
class ModelConfig:
    path: str = "lab"  # folder, hub id, or `lab` for the embedded model
    revision: Optional[str] = None
    dtype: str = "float32"  # float32|bfloat16; of the trainer and, unless server.dtype says else, the server
    trust_remote_code: bool = False


@dataclass
class DataConfig:
    name: str = "lab"  # lab|sciknoweval|mmlu_pro|edu_feedback|file
    path: Optional[str] = None  # local file or folder, or hub id; null: the data set's own hub id
    domain: str = "biology"  # the pool's domain; a file's questions without one get this name
    types: list[str] = field(default_factory=lambda: ["mcq-4-choices"])  # SciKnowEval types [R] §2.2
    levels: list[str] = field(default_factory=list)  # SciKnowEval levels; empty: all [R]
    test_ratio: float = 0.1  # [R] §2.2 for SciKnowEval; MMLU-Pro preset 0.2 [P]
    seed: int = 42  # (chosen) §2.2
    pool_limit: Optional[int] = None  # keep the first N pool questions after the split; null: all
    id_column: str = "id"  # `file` only
    question_column: str = "question"  # `file` only
    options_column: str = "options"  # `file` only; a list of texts, or a mapping label -> text
    answer_column: str = "answer"  # read by evaluation alone


@dataclass
class PromptConfig:
    enable_thinking: Optional[bool] = None  # passed to the chat template; null: the template's own default


@dataclass
class SamplingConfig:
    n: int = 1
    temperature: float = 0.6  # (chosen) §3.1, Qwen's recommendation and the paper's evaluation
    top_p: float = 0.95  # (chosen)
    top_k: int = 20  # (chosen); -1: off
    max_new: int = 8192  # (chosen)


@dataclass
class ServerConfig:
    url: Optional[str] = None  # a vLLM server already running; null: the launcher starts one
    api_key: Optional[str] = None  # of the server at `url`; or in the environment as NOPSD_SERVER_KEY
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    dtype: Optional[str] = None  # null: model.dtype
    max_model_len: int = 4096
    max_num_seqs: int = 128
    kv_cache_mib: int = 256  # CPU build only: vLLM's --kv-cache-memory-bytes
    gpu_memory_utilization: float = 0.45  # GPU only; the trainer shares the device by default
    tensor_parallel: int = 1
    seed: int = 0
    startup_timeout_s: float = 600.0
    request_timeout_s: float = 600.0
    weight_sync: str = "auto"  # auto|gloo|nccl|disk; auto: nccl to a GPU server on another host, else gloo
    sync_bucket_mib: int = 256
    sync_timeout_s: float = 300.0


@dataclass
class NeuronConfig:
    value: str = "act_fn"  # act_fn|gated; G10 [P][A]
    align: str = "predict"  # predict|self; G9 [A]
    per_layer: int = 2000  # top (position, neuron) pairs per layer and chunk [P App. A]
    k: int = 5000  # neurons kept for comparison [P]
    count_mode: str = "pairs"  # pairs|chunk_topk|token_topk; G1 [A]
    chunk: int = 1024  # response positions; G2 (chosen)
    chunk_merge: str = "union"  # union|exact; G2 [P App. A]
    positive_only: bool = True  # [A]
    drop_last_position: bool = False  # G11 (chosen)
    include_thinking: bool = True  # (chosen)
    scale_with_width: bool = False  # per_layer and k by the paper's ratios to the model's width, §3.3
    max_batch_tokens: int = 8192  # token budget of a scoring batch


@dataclass
class SelectConfig:
    selector: str = "neuron_count"  # neuron_count|neuron_count_top|random|all
    fraction: float = 0.20  # [P]
    ties: str = "include"  # include (Alg. 1)|exact
    length_control: str = "none"  # none|residual
    exclude_truncated: bool = False  # (chosen)
    seed: int = 0


@dataclass
class ContextConfig:
    retriever: str = "neuron_jaccard"  # neuron_jaccard|random|none
    m: int = 10  # demonstrations [P]
    pool: str = "all"  # all [P Eq. 6]|selected
    order: str = "nearest_last"  # nearest_last|nearest_first|random (chosen) G5
    solution: str = "final"  # final|full|answer_only (chosen) G5
    max_prompt: int = 10240  # teacher prompt tokens; (chosen) §5
    dedup_text: bool = True  # (chosen) §5
    seed: int = 0


@dataclass
class TrainConfig:
    steps: int = 150  # [P]
    batch: int = 16  # prompts a step, over all ranks [P]
    micro: int = 4  # sequences a micro-batch on a rank [P]
    n: int = 1  # rollouts per prompt (chosen) G4
    temperature: float = 1.0  # (chosen) G4
    top_p: float = 1.0  # (chosen)
    top_k: int = -1
    max_response: int = 8192  # (chosen)
    lr: float = 1e-6  # (chosen) G4, DemoPSD
    warmup: int = 10  # (chosen) G4
    schedule: str = "constant"  # constant|cosine (chosen)
    weight_decay: float = 0.0  # (chosen)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float = 1.0  # (chosen)
    seed: int = 0
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    probe_every: int = 25  # label-free probe (§9.5) every so many steps; 0: never
    probe_questions: int = 32
    probe_samples: int = 4
    # Words of style rather than substance, whose share of the loss is logged; (chosen) after §11 F1.
    style_words: list[str] = field(default_factory=lambda: list(STYLE_WORDS))
    sync_check_every: int = 1  # verify served against trained log-probs every so many syncs; 0: never
    sync_tolerance: float = 1e-4  # float32; bfloat16 presets raise it


@dataclass
class DistillConfig:
    divergence: str = "reverse_kl"  # reverse_kl [P]|forward_kl|jsd
    beta: float = 0.5  # jsd only
    aggregation: str = "token_mean"  # token_mean (chosen)|seq_mean_token_mean|seq_mean_token_sum
    temperature: float = 1.0  # §6.1
    skip_first_tokens: int = 0
    max_loss_tokens: Optional[int] = None
    logit_chunk: int = 512  # positions a chunk; (chosen) §6.4


@dataclass
class TeacherConfig:
    kind: str = "frozen"  # frozen (product default, §6.5)|ema (paper presets)
    rate: float = 0.01  # [P]
    every: int = 1


@dataclass
class EvalConfig:
    n: int = 8  # [P]
    temperature: float = 0.6  # [P]
    top_p: float = 0.95  # (chosen)
    top_k: int = 20  # (chosen)
    max_new: int = 16384  # (chosen)
    ece_bins: int = 15  # [P]
    extract: str = "lenient"  # strict|lenient (chosen)
    targets: list[str] = field(default_factory=list)  # domains besides the pool's; empty: every one the source has
    limit: Optional[int] = None  # first N test questions a domain
    bootstrap: int = 1000  # resamples for the intervals
    seed: int = 0


@dataclass
class DistConfig:
    ranks: int = 1  # processes on this host
    threads: int = 1  # torch threads a rank on CPU
    timeout_s: float = 900.0  # process-group timeout
    student_config: Optional[str] = None  # DeepSpeed JSON; null: ds_configs' for this device
    teacher_config: Optional[str] = None
    shard: str = "sample"  # sample (§13.1)
    context_exchange: str = "queries_only"  # queries_only|gather_all


@dataclass
class Config:
    run_dir: str = "runs/run"
    seed: int = 0  # base of rollout, selection and training seeds where those are 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    rollout_zs: SamplingConfig = field(default_factory=SamplingConfig)
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    dist: DistConfig = field(default_factory=DistConfig)


# Keys of `train` that don't change what is trained: a run may be continued with others.
TRAIN_CONDUCT = (
    "checkpoint_every",
    "keep_checkpoints",
    "probe_every",
    "probe_questions",
    "probe_samples",
    "style_words",
    "sync_check_every",
    "sync_tolerance",
)
# Values of the keys that name a choice.
CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": ("float32", "bfloat16"),
    "data.name": ("lab", "sciknoweval", "mmlu_pro", "edu_feedback", "file"),
    "server.weight_sync": ("auto", "gloo", "nccl", "disk"),
    "neuron.value": ("act_fn", "gated"),
    "neuron.align": ("predict", "self"),
    "neuron.count_mode": ("pairs", "chunk_topk", "token_topk"),
    "neuron.chunk_merge": ("union", "exact"),
    "select.selector": ("neuron_count", "neuron_count_top", "random", "all"),
    "select.ties": ("include", "exact"),
    "select.length_control": ("none", "residual"),
    "context.retriever": ("neuron_jaccard", "random", "none"),
    "context.pool": ("all", "selected"),
    "context.order": ("nearest_last", "nearest_first", "random"),
    "context.solution": ("final", "full", "answer_only"),
    "train.schedule": ("constant", "cosine"),
    "distill.divergence": ("reverse_kl", "forward_kl", "jsd"),
    "distill.aggregation": ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"),
    "teacher.kind": ("frozen", "ema"),
    "eval.extract": ("strict", "lenient"),
    "dist.shard": ("sample",),
    "dist.context_exchange": ("queries_only", "gather_all"),
}
# Inclusive lower bounds of numbers.
MINIMA: dict[str, float] = {
    "rollout_zs.n": 1,
    "rollout_zs.max_new": 1,
    "rollout_zs.temperature": 0,
    "neuron.per_layer": 1,
    "neuron.k": 1,
    "neuron.chunk": 1,
    "neuron.max_batch_tokens": 1,
    "context.m": 0,
    "context.max_prompt": 1,
    "train.steps": 1,
    "train.batch": 1,
    "train.micro": 1,
    "train.n": 1,
    "train.max_response": 1,
    "train.lr": 0,
    "train.warmup": 0,
    "train.clip": 0,
    "train.checkpoint_every": 1,
    "train.probe_every": 0,
    "train.probe_questions": 1,
    "train.probe_samples": 2,
    "train.keep_checkpoints": 1,
    "distill.logit_chunk": 1,
    "distill.skip_first_tokens": 0,
    "teacher.every": 1,
    "eval.n": 1,
    "eval.max_new": 1,
    "eval.ece_bins": 1,
    "eval.bootstrap": 0,
    "dist.ranks": 1,
    "dist.threads": 1,
    "server.max_model_len": 1,
    "server.kv_cache_mib": 1,
}
FRACTIONS = ("data.test_ratio", "select.fraction", "teacher.rate", "server.gpu_memory_utilization", "distill.beta")


def all_keys(node: DictConfig | None = None, prefix: str = "") -> list[str]:
    """Every dotted leaf key of the configuration."""
    node = OmegaConf.structured(Config) if node is None else node
    keys: list[str] = []
    for name in node:
        child = node._get_node(name)
        dotted = f"{prefix}{name}"
        keys += all_keys(child, dotted + ".") if isinstance(child, DictConfig) else [dotted]
    return keys


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    valid = all_keys()
    sections = {k.split(".")[0] for k in valid if "." in k}
    for key in keys:
        if key in valid or key in sections:
            continue
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        near = near or [k for k in valid if k.split(".")[-1] == key.split(".")[-1]][:1]
        hint = f"; did you mean {near[0]}?" if near else "; `nopsd config` lists every key"
        raise ConfigError(f"{where}: unknown key {key}{hint}")


def _flat(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [k for name, child in node.items() for k in _flat(child, f"{prefix}{name}.")]


def _merge(base: DictConfig, layer: DictConfig, where: str) -> DictConfig:
    plain = OmegaConf.to_container(layer)
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: the top level must be a mapping of keys")
    _refuse_unknown(_flat(plain), where)
    try:
        return OmegaConf.merge(base, layer)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from error


def preset_names() -> list[str]:
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def _preset_path(preset: str) -> Path:
    path = Path(preset)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"preset file {preset} does not exist")
        return path
    if preset not in preset_names():
        near = difflib.get_close_matches(preset, preset_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(preset_names())}"
        raise ConfigError(f"unknown preset {preset}; {hint}")
    return PRESETS / f"{preset}.yaml"


def load_config(preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """The validated configuration: defaults < preset < overrides. Raises ConfigError."""
    config = OmegaConf.structured(Config)
    if preset:
        path = _preset_path(preset)
        try:
            layer = OmegaConf.load(path)
        except Exception as error:  # yaml's errors share no base class with OmegaConf's
            raise ConfigError(f"{path}: not readable as YAML: {str(error).splitlines()[0]}") from error
        config = _merge(config, layer, str(path))  # type: ignore[arg-type]
    overrides = list(overrides)
    for item in overrides:
        if "=" not in item:
            raise ConfigError(f"override {item!r}: write key=value")
    config = _merge(config, OmegaConf.from_dotlist(overrides), "command line")
    typed: Config = OmegaConf.to_object(config)  # type: ignore[assignment]
    validate(typed)
    return typed


def validate(config: Config) -> None:
    """Refuse values that are typed right and still can't be meant."""
    tree = OmegaConf.structured(config)
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(tree, key)
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{key}={value}: use one of {', '.join(allowed)}{hint}")
    for key, least in MINIMA.items():
        if OmegaConf.select(tree, key) < least:
            raise ConfigError(f"{key}={OmegaConf.select(tree, key)}: must be at least {least:g}")
    for key in FRACTIONS:
        if not 0 < OmegaConf.select(tree, key) <= 1:
            raise ConfigError(f"{key}={OmegaConf.select(tree, key)}: must be above 0 and at most 1")
    if config.train.batch * config.train.n % config.dist.ranks:
        raise ConfigError(
            f"train.batch={config.train.batch} x train.n={config.train.n} sequences can't be shared evenly by "
            f"dist.ranks={config.dist.ranks}: make the product a multiple of the ranks"
        )


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_plain(config: Any) -> dict[str, Any]:
    """A config section (or the whole) as plain dictionaries and lists."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return plain
