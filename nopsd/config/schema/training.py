"""Keys of training: the loop that every method shares, each method's own, and what stops a run that collapses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from nopsd.config.schema.key import key

DEMO_PSD = "chosen: DemoPSD (arXiv 2607.02502), same model size, data and family of code"
STYLE_WORDS = "Therefore Thus So Hence However But Wait Hmm Okay Alternatively Let Now First Next Finally".split()


@dataclass
class LoraConfig:
    """Low-rank adapters by PEFT, in place of training all weights."""

    r: int = key(0, "rank; 0: off, all weights are trained", source="paper", ge=0)
    alpha: int = key(32, "the adapters' product counts alpha / r times", ge=1)
    dropout: float = key(0.0, "of the adapters' input", ge=0, lt=1)
    targets: list[str] = key([], "names of linear layers; empty: all but the output head")


@dataclass
class RetainConfig:
    """Questions from elsewhere in each batch, learned with the frozen base model as it answers them without
    demonstrations: what keeps the model where it was on them. No label is read."""

    share: float = key(0.0, "share of a batch's questions that are from elsewhere; 0: none", ge=0, lt=1)
    data: Optional[str] = key(
        None, "where they are from: another domain of the same data, a preset, a file, or a hub id"
    )
    limit: int = key(1000, "questions taken from there, drawn at random", ge=1)


@dataclass
class NeuronMaskConfig:
    """Which MLP neurons are learned, by the neuron sets that are stored; all of them by default."""

    learn: Optional[str] = key(
        None,
        "selected: those of the selected questions' sets alone; score, random: as many, of the largest contributions "
        "or drawn; protect: all but those of train.neurons.run's sets; null: all weights are learned",
        choices=(None, "selected", "score", "random", "protect"),
    )
    share: float = key(0.1, "least share of the questions' sets that a neuron is in, to be of them", ge=0, le=1)
    run: Optional[str] = key(None, "of protect: run folder whose pool's neuron sets are kept as they are", path=True)
    seed: int = key(0, "of random", follows="seed", ge=0)


@dataclass
class TrainConfig:
    """The training loop of every method."""

    steps: int = key(150, "optimizer steps", source="paper", ge=1)
    epochs: Optional[float] = key(
        None, "passes over the selected questions, in place of train.steps; null: train.steps counts", gt=0
    )
    batch: int = key(16, "questions of a step, over all ranks", source="paper", ge=1)
    micro: int = key(4, "sequences of a micro-batch on a rank", source="paper", ge=1)
    micro_tokens: Optional[int] = key(
        None, "tokens of a micro-batch on a rank, in place of train.micro sequences", ge=1, runtime_only=True
    )
    packing: bool = key(True, "sequences end to end in one row; false: padded on the right", runtime_only=True)
    ahead: int = key(
        0, "1: sample the next step's rollouts while this one trains; 0: strictly on-policy", source="paper", ge=0, le=1
    )
    n: int = key(1, "rollouts a question and step", source="chosen: Algorithm 1 writes one response", ge=1)
    temperature: float = key(1.0, "of the rollouts; 0: greedy", source=DEMO_PSD, ge=0)
    top_p: float = key(1.0, "nucleus sampling; 1: off", gt=0, le=1)
    top_k: int = key(-1, "-1 or 0: off", ge=-1)
    max_response: int = key(8192, "response tokens at most", ge=1)
    lr: float = key(1e-6, "learning rate after the warm-up", source=DEMO_PSD, ge=0)
    warmup: int = key(10, "steps over which the learning rate rises", source=DEMO_PSD, ge=0)
    warmup_ratio: Optional[float] = key(
        None, "share of the steps, in place of train.warmup; null: train.warmup counts", ge=0, lt=1
    )
    schedule: str = key("constant", "of the learning rate after the warm-up", choices=("constant", "cosine"))
    weight_decay: float = key(0.0, "AdamW's", ge=0)
    betas: list[float] = key([0.9, 0.999], "AdamW's two", ge=0, lt=1, size=2)
    clip: float = key(1.0, "largest norm of the gradient; larger ones are scaled down", ge=0)
    lora: LoraConfig = field(default_factory=LoraConfig)
    neurons: NeuronMaskConfig = field(default_factory=NeuronMaskConfig)
    retain: RetainConfig = field(default_factory=RetainConfig)
    gradient_checkpointing: bool = key(
        False, "keep each layer's input alone and compute the layer again in the backward pass", runtime_only=True
    )
    mlp_tile: int = key(
        0,
        "token rows of an MLP at a time (DeepSpeed's TiledMLP, arXiv 2506.13996); 0: all",
        ge=0,
        runtime_only=True,
    )
    seed: int = key(0, "of the order of questions and of the rollouts", follows="seed", ge=0)
    max_skipped: int = key(
        10,
        "steps skipped in a row, for a loss or gradient that isn't finite, that end the run",
        ge=1,
        runtime_only=True,
    )
    checkpoint_every: int = key(25, "steps between checkpoints", ge=1, runtime_only=True)
    keep_checkpoints: int = key(2, "latest checkpoints kept", ge=1, runtime_only=True)
    keep_best: int = key(
        0, "more checkpoints kept: the best by the mean of best_by since the one before", ge=0, runtime_only=True
    )
    best_by: str = key(
        "loss",
        "what the best checkpoint is best by; label-free all",
        choices=("loss", "reverse_kl", "probe/majority_share", "probe/unparsed_share"),
    )
    export: str = key(
        "last",
        "the weights that are exported and evaluated: those of the last step, of the best checkpoint (best_by), or of "
        "the step whose number this is",
        source="paper",
    )
    trace: str = key(
        "all",
        "training responses that are kept, token by token, for nopsd view: all, every N-th step's, or none",
        runtime_only=True,
    )
    trace_mib: int = key(
        2048, "MiB of a trace; over it every second step is deleted, and half as many kept", ge=1, runtime_only=True
    )
    replay: Optional[str] = key(
        None, "run folder whose recorded responses are trained on, in place of a server's; null: none", path=True
    )
    probe_every: int = key(25, "steps between label-free probes; 0: never", ge=0, runtime_only=True)
    probe_questions: int = key(32, "questions of a probe", ge=1, runtime_only=True)
    probe_samples: int = key(4, "responses a question of a probe", ge=2, runtime_only=True)
    style_words: list[str] = key(
        STYLE_WORDS,
        "words of style rather than substance, whose share of the loss is logged",
        source="chosen: privileged teachers change style first (RLCSD, arXiv 2606.11709)",
        runtime_only=True,
    )
    sync_check_every: int = key(
        1, "weight updates between comparisons of served with trained log-probs; 0: never", ge=0, runtime_only=True
    )
    sync_tolerance: Optional[float] = key(
        None,
        "nats: largest mean difference in that comparison; null: by number format and layers",
        ge=0,
        runtime_only=True,
    )

    @property
    def export_step(self) -> int | None:
        """The step whose weights are exported, where `export` is a number."""
        return int(self.export) if self.export.isdecimal() else None


@dataclass
class DistillConfig:
    """The loss of on-policy distillation."""

    divergence: str = key(
        "reverse_kl",
        "between student p and teacher q: KL(p‖q), KL(q‖p), Jensen-Shannon, or KL(p‖q) from the sampled token alone",
        source="paper, Eq. 7",
        choices=("reverse_kl", "forward_kl", "jsd", "sampled_rkl"),
        entry_points="nopsd.divergences",
    )
    beta: float = key(0.5, "of jsd: the teacher's weight in the mixture; 0: forward KL, 1: reverse KL", ge=0, le=1)
    support: str = key(
        "full",
        "ids that the divergence is over: the vocabulary, or the top-k",
        choices=("full", "topk"),
        source="paper, Eq. 10",
    )
    topk: int = key(100, "ids of support=topk", source="chosen: SDPO", ge=1)
    topk_of: str = key(
        "student", "whose top-k: SDPO's is the student's, verl's the teacher's", choices=("student", "teacher")
    )
    tail: str = key(
        "bucket",
        "the mass outside the top-k: one more class, renormalised away, a constant in the gradient, or left out",
        choices=("bucket", "renorm", "stopgrad", "none"),
    )
    pointwise_clip: Optional[float] = key(
        None, "nats: cap of each vocabulary term (OPSD's: 0.05); null: none", source="paper", gt=0
    )
    token_clip: Optional[float] = key(None, "nats: cap of a token's loss; null: none", source="paper", gt=0)
    is_clip: Optional[float] = key(
        None, "cap of the importance ratio to the sampling policy (SDPO's: 2); null: no ratio", source="paper", gt=0
    )
    mask_high_entropy: Optional[float] = key(
        None, "nats: no loss where the student's entropy is above; null: everywhere", source="paper", gt=0
    )
    target: str = key(
        "teacher",
        "what the student learns: the teacher's distribution, its PMI form, or its barycenter with the student's",
        source="paper",
        choices=("teacher", "pmi", "barycenter"),
    )
    pmi_clip: float = key(10.0, "of target=pmi: nats at which the log-ratio saturates", source="Purified OPSD", gt=0)
    pmi_beta: float = key(1.0, "of target=pmi: temperature of the log-ratio", source="Purified OPSD", gt=0)
    barycenter_alpha: float = key(
        0.15, "of target=barycenter: largest weight of the student", source="DemoPSD", gt=0, le=1
    )
    barycenter_beta: float = key(
        25.0, "of target=barycenter: how fast the weight rises with the divergence; 25 to 100", source="DemoPSD", gt=0
    )
    contrast: Optional[str] = key(
        None,
        "less the log-ratio under control demonstrations (RLCSD): random ones of the pool, those of another domain "
        "(distill.contrast_run), or responses at odds with their question's vote; null: none",
        source="paper",
        choices=(None, "random_ctx", "other_domain", "at_odds"),
    )
    contrast_run: Optional[str] = key(
        None, "of contrast=other_domain: run folder whose pool and answers are shown as control", path=True
    )
    kl_base_coef: float = key(0.0, "coefficient of KL(student ‖ base model)", source="paper", ge=0)
    aggregation: str = key(
        "token_mean",
        "how tokens' losses become one; seq_mean_token_sum is Eq. 10 as written",
        source="chosen: verl's and SDPO's default",
        choices=("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"),
    )
    position_weight: Optional[str] = key(
        None,
        "weights of a response's tokens: rising with the position, or falling with how far the response has drifted "
        "from the teacher; null: all alike",
        source="chosen; after arXiv 2605.21606 and 2606.22600",
        choices=(None, "rising", "drift"),
    )
    drift_scale: float = key(
        10.0, "of position_weight=drift: nats of log p − log q, added up, at which a weight is 1/e", gt=0
    )
    temperature: float = key(1.0, "of both softmaxes", source="paper", gt=0)
    skip_first_tokens: int = key(0, "tokens at a response's start without loss", source="paper", ge=0)
    max_loss_tokens: Optional[int] = key(None, "first tokens of a response with loss; null: all", source="paper", ge=1)
    logit_chunk: Optional[int] = key(
        None, "positions whose logits are in memory at once; null: 128 on CPUs, 512 on GPUs", ge=1
    )
    kernel: str = key(
        "auto",
        "of the loss's element-wise part; auto: the fastest that has the objective",
        choices=("auto", "torch", "numba", "triton"),
        runtime_only=True,
    )


@dataclass
class TeacherConfig:
    """The teacher of on-policy distillation (the paper's Eq. 9)."""

    kind: str = key(
        "frozen",
        "weights of the teacher: the base model's, an average over steps, the student's, or a mixture of logits",
        source="chosen: the default of OPSD and SDFT; the paper's is ema, as in its presets",
        choices=("frozen", "ema", "live", "trust_region"),
    )
    rate: float = key(0.01, "of ema: the new weights' share in an update", source="paper, Appendix A", gt=0, le=1)
    every: int = key(1, "of ema: steps between updates", source="paper, Algorithm 1", ge=1)
    mix: float = key(0.5, "of trust_region: the live model's share of the logits", gt=0, le=1)
    context_mib: int = key(
        1024,
        "of frozen: a rank's memory for its prompts' keys and values over steps; 0: none",
        ge=0,
        runtime_only=True,
    )
    early: Optional[bool] = key(
        None,
        "compute the prompts that context_mib has room for while a step's responses are being sampled, in place of "
        "afterwards; null: on GPUs, if the server doesn't sleep (on CPUs the server wants the same cores)",
        runtime_only=True,
    )


@dataclass
class GuardConfig:
    """Signs of collapse, measured on each step's own rollouts without labels (`nopsd.train.guards`).

    A limit that is null is not watched. The first time that one is passed warns; `patience` times in a row stop the
    run, and the best checkpoint from before is exported. "First steps": the first `baseline_steps`.
    """

    patience: int = key(5, "steps, or probes where a probe gives the number, that stop a run", ge=1)
    stop: bool = key(True, "false: warn only")
    baseline_steps: int = key(5, "first steps, which the ratios are to", ge=1)
    min_length_ratio: Optional[float] = key(0.2, "least mean response length against the first steps'", ge=0)
    max_length_ratio: Optional[float] = key(5.0, "largest mean response length against the first steps'", gt=0)
    min_entropy: Optional[float] = key(
        1e-4, "nats: least mean entropy of the student's tokens", source="chosen: healthy lab models have 4e-3", ge=0
    )
    max_entropy_ratio: Optional[float] = key(
        10.0, "largest mean entropy against the first steps' (counted as 0.1 nats or more)", gt=0
    )
    max_repeated: Optional[float] = key(0.5, "largest mean share of a response's 4-grams that it repeats", ge=0, le=1)
    max_unparsed: Optional[float] = key(
        0.9, "largest share of a probe's answers that can't be read, if the first can", ge=0, le=1
    )
    max_kl_ratio: Optional[float] = key(
        10.0, "largest KL(student ‖ teacher) against the first steps' (counted as 0.1 nats or more)", gt=0
    )
    max_kl_base: Optional[float] = key(
        None, "nats: largest KL to the base model a token, where distill.kl_base_coef measures it", ge=0
    )


@dataclass
class TrackingConfig:
    """Where training numbers are shown, besides metrics.jsonl."""

    to: list[str] = key(
        ["tensorboard"],
        "of tensorboard, wandb, trackio and mlflow, each an extra of its own name but the first; empty: nowhere",
        runtime_only=True,
    )
    project: str = key("nopsd", "project (of MLflow: experiment) that the run belongs to", runtime_only=True)
    name: Optional[str] = key(None, "the run's name there; null: the run folder's", runtime_only=True)
