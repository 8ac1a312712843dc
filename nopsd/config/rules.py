"""What the types of the schema can't say: which values a key may take, and which keys contradict each other."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

from omegaconf import OmegaConf

from nopsd.config.distill_rules import check_distill
from nopsd.config.method_rules import check_method
from nopsd.config.methods import METHODS
from nopsd.config.schema import Config
from nopsd.errors import ConfigError

# Keys of `train` that don't change what is trained: a run may be continued with others.
TRAIN_CONDUCT = (
    "max_skipped",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "probe_every",
    "probe_questions",
    "probe_samples",
    "style_words",
    "gradient_checkpointing",
    "mlp_tile",
    "packing",
    "micro_tokens",
    "sync_check_every",
    "sync_tolerance",
)
TEACHER_CONDUCT = ("context_mib",)  # the same of `teacher`
DISTILL_CONDUCT = ("kernel",)  # and of `distill`
# Values of the keys that name a choice.
CHOICES: dict[str, tuple[str, ...]] = {
    "method": tuple(METHODS),
    "model.dtype": ("float32", "bfloat16"),
    "data.name": ("lab", "sciknoweval", "mmlu_pro", "edu_feedback", "file", "instructions"),
    "server.weight_sync": ("auto", "gloo", "nccl", "disk"),
    "neuron.value": ("act_fn", "gated"),
    "neuron.align": ("predict", "self"),
    "neuron.count_mode": ("pairs", "chunk_topk", "token_topk"),
    "neuron.chunk_merge": ("union", "exact"),
    "select.selector": (
        "neuron_count",
        "neuron_count_top",
        "random",
        "majority_conf",
        "token_entropy",
        "self_certainty",
        "seq_nll",
        "length",
        "nad_agreement",
        "dual_neufs",
        "neuron_density",
        "nait",
        "belief_shift",
        "all",
    ),
    "select.ties": ("include", "exact"),
    "select.length_control": ("none", "residual"),
    "context.retriever": ("neuron_jaccard", "random", "embedding_cos", "same_prompt_rollout", "none"),
    "context.filter": ("none", "majority", "s_below_median"),
    "context.pool": ("all", "selected"),
    "context.order": ("nearest_last", "nearest_first", "random"),
    "context.solution": ("final", "full", "answer_only"),
    "train.schedule": ("constant", "cosine"),
    "train.best_by": ("loss", "kl_reverse", "probe/majority_share", "probe/unparsed_share"),
    "train.export": ("last", "best"),
    "distill.divergence": ("reverse_kl", "forward_kl", "jsd", "sampled_rkl"),
    "distill.support": ("full", "topk"),
    "distill.topk_of": ("student", "teacher"),
    "distill.tail": ("bucket", "renorm", "stopgrad", "none"),
    "distill.target": ("teacher", "pmi", "barycenter"),
    "distill.kernel": ("auto", "torch", "numba", "triton"),
    "distill.aggregation": ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"),
    "grpo.reward": ("majority", "self_certainty"),
    "grpo.old_policy": ("served", "trained"),
    "teacher.kind": ("frozen", "ema", "live", "trust_region"),
    "eval.extract": ("strict", "lenient"),
    "dist.launcher": ("pdsh", "openmpi", "mpich", "slurm", "no_ssh"),
    "dist.shard": ("sample", "layer", "neuron", "position"),
    "dist.topk_search": ("bisect", "gather"),
    "dist.context_exchange": ("auto", "queries_only", "gather_all"),
}
# Keys that also take a user's own code: `module:attribute`, or the name of an entry point of this group.
IMPORTABLE = {"select.selector": "nopsd.selectors", "context.retriever": "nopsd.retrievers"}
# Inclusive lower bounds of numbers.
MINIMA: dict[str, float] = {
    "rollout_zs.n": 1,
    "rollout_zs.max_new": 1,
    "rollout_zs.temperature": 0,
    "neuron.per_layer": 1,
    "neuron.k": 1,
    "neuron.chunk": 1,
    "neuron.max_batch_tokens": 1,
    "signal.max_batch_tokens": 1,
    "signal.logit_chunk": 1,
    "signal.belief_samples": 2,
    "signal.reference_limit": 2,
    "context.m": 0,
    "context.max_prompt": 1,
    "train.steps": 1,
    "train.batch": 1,
    "train.micro": 1,
    "train.mlp_tile": 0,
    "train.ahead": 0,
    "train.n": 1,
    "train.max_response": 1,
    "train.max_skipped": 1,
    "train.lr": 0,
    "train.warmup": 0,
    "train.clip": 0,
    "train.lora.r": 0,
    "train.lora.alpha": 1,
    "train.checkpoint_every": 1,
    "train.probe_every": 0,
    "train.probe_questions": 1,
    "train.probe_samples": 2,
    "train.keep_checkpoints": 1,
    "train.keep_best": 0,
    "distill.skip_first_tokens": 0,
    "distill.topk": 1,
    "distill.kl_base_coef": 0,
    "teacher.every": 1,
    "teacher.context_mib": 0,
    "sft.per_question": 0,
    "grpo.clip": 0,
    "grpo.kl_coef": 0,
    "grpo.epsilon": 0,
    "guard.patience": 1,
    "guard.baseline_steps": 1,
    "eval.n": 1,
    "eval.max_new": 1,
    "eval.ece_bins": 1,
    "eval.bootstrap": 0,
    "rollout.servers_per_host": 1,
    "dist.heartbeat_s": 0,
    "dist.ranks": 1,
    "dist.sequence_parallel": 1,
    "dist.threads": 1,
    "dist.block_mib": 1,
    "server.max_model_len": 1,
    "server.kv_cache_mib": 1,
    "server.stall_timeout_s": 0,
}
FRACTIONS = (
    "data.test_ratio",
    "select.fraction",
    "select.tau",
    "teacher.rate",
    "teacher.mix",
    "server.gpu_memory_utilization",
    "distill.beta",
    "distill.barycenter_alpha",
)
# Choices that compare several answers of one question.
NEED_SAMPLES = {
    "select.selector": ("majority_conf", "nad_agreement", "belief_shift"),
    "context.retriever": ("same_prompt_rollout",),
    "context.filter": ("majority",),
}


def validate(config: Config) -> None:
    """Refuse values that are typed right and still can't be meant."""
    tree = OmegaConf.structured(config)
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(tree, key)
        if value not in allowed and not _own_code(key, str(value)):
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{key}={value}: use one of {', '.join(allowed)}{hint}")
    for key, least in MINIMA.items():
        if OmegaConf.select(tree, key) < least:
            raise ConfigError(f"{key}={OmegaConf.select(tree, key)}: must be at least {least:g}")
    for key in FRACTIONS:
        if not 0 < OmegaConf.select(tree, key) <= 1:
            raise ConfigError(f"{key}={OmegaConf.select(tree, key)}: must be above 0 and at most 1")
    for key, choices in NEED_SAMPLES.items():
        if OmegaConf.select(tree, key) in choices and config.rollout_zs.n < 2:
            raise ConfigError(
                f"{key}={OmegaConf.select(tree, key)} compares several answers of one question, and "
                f"rollout_zs.n={config.rollout_zs.n}: set rollout_zs.n=8, say"
            )
    if config.select.selector == "nait" and not config.signal.reference:
        raise ConfigError("select.selector=nait needs signal.reference: a JSONL of the target ability's examples")
    train = config.train
    if train.export == "best" and not train.keep_best:
        raise ConfigError("train.export=best needs a best checkpoint: set train.keep_best=1")
    if train.keep_best and train.best_by.startswith("probe/") and not 0 < train.probe_every <= train.checkpoint_every:
        raise ConfigError(
            f"train.best_by={train.best_by} needs a probe before each checkpoint: set train.probe_every (now "
            f"{train.probe_every}) to at most train.checkpoint_every={train.checkpoint_every}"
        )
    if not 0 <= config.train.lora.dropout < 1:
        raise ConfigError(f"train.lora.dropout={config.train.lora.dropout}: must be at least 0 and below 1")
    check_distill(config)
    check_method(config)
    if train.micro_tokens is not None and train.micro_tokens < 1:
        raise ConfigError(f"train.micro_tokens={train.micro_tokens}: must be at least 1, or null")
    _check_sharing(config)
    _check_servers(config)


def _check_sharing(config: Config) -> None:
    """ConfigError for ranks that no sequence, or no whole group of ranks, would come to."""
    dist, sequences = config.dist, config.train.batch * config.train.n
    if dist.hostfile is None and dist.ranks % dist.sequence_parallel:
        raise ConfigError(
            f"dist.sequence_parallel={dist.sequence_parallel} doesn't divide dist.ranks={dist.ranks}: "
            "make one a multiple of the other"
        )
    lanes = max(1, dist.ranks // dist.sequence_parallel)
    if sequences < lanes:
        raise ConfigError(
            f"train.batch={config.train.batch} x train.n={config.train.n} sequences are fewer than the {lanes} groups "
            f"of dist.sequence_parallel={dist.sequence_parallel} ranks: some would always be idle; raise train.batch, "
            "or lower dist.ranks"
        )


def _check_servers(config: Config) -> None:
    """ConfigError if servers are said to be in two places."""
    rollout = config.rollout
    given = {"server.url": config.server.url, "rollout.urls": rollout.urls, "rollout.hosts": rollout.hosts}
    named = [key for key, value in given.items() if value]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} both say where the rollout servers are: keep one")
    if rollout.hedge_s is not None and rollout.hedge_s <= 0:
        raise ConfigError(f"rollout.hedge_s={rollout.hedge_s:g}: must be above 0, or null")
    bucket = config.server.sync_bucket_mib
    if bucket is not None and bucket < 1:
        raise ConfigError(f"server.sync_bucket_mib={bucket}: must be at least 1, or null")


def _own_code(key: str, value: str) -> bool:
    """Only named here, and loaded by nopsd.selection.names.check_names."""
    return key in IMPORTABLE and (":" in value or bool(entry_points(group=IMPORTABLE[key], name=value)))
