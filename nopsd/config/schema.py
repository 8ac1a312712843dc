"""Every key of a run, typed, with its default (SPEC §10.1).

Where a default comes from stands behind it: [P] the paper, [A] its companion code, [R] reckoned from
published numbers, (chosen) ours, with SPEC's section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

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
    name: str = "lab"  # lab|sciknoweval|mmlu_pro|edu_feedback|file|instructions
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
    response_column: str = "output"  # `instructions` only: the given response, in place of a rollout


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
    stall_timeout_s: float = 120.0  # a server that gives no token for so long is lost; 0: never
    weight_sync: str = "auto"  # auto|gloo|nccl|disk; auto: nccl to a GPU server on another host, else gloo
    sync_bucket_mib: Optional[int] = None  # bytes sent, or written, at a time; null: 8 by gloo, 256 by nccl and disk
    sync_folder: Optional[str] = None  # weight_sync=disk: a folder that servers on other hosts see too
    sync_timeout_s: float = 300.0


@dataclass
class RolloutConfig:
    """Where rollouts come from when one server on this host isn't all (issue 5)."""

    hosts: list[str] = field(default_factory=list)  # hosts whose devices serve rollouts alone; empty: this host
    servers_per_host: int = 1  # data-parallel servers on each of them, each of server.tensor_parallel devices
    urls: list[str] = field(default_factory=list)  # servers already running, all with one key; instead of `hosts`
    hedge_s: Optional[float] = None  # seconds until an unanswered request goes to a second server too; null: never


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
class SignalConfig:
    """Stage `signals`: what selectors and retrievers other than the paper's go by. Nothing is computed unasked."""

    max_batch_tokens: int = 8192  # token budget of a forward pass
    logit_chunk: int = 512  # positions whose logits are in memory at once
    belief_samples: int = 8  # responses with demonstrations per question, for belief_shift (chosen)
    reference: Optional[str] = None  # nait: JSONL of the target ability's examples (prompt, response)
    reference_limit: int = 512  # nait: first N examples of it (chosen)


@dataclass
class SelectConfig:
    selector: str = "neuron_count"  # a name of the registry (SPEC §4), or `module:attribute` of your own
    fraction: float = 0.20  # [P]
    ties: str = "include"  # include (Alg. 1)|exact
    length_control: str = "none"  # none|residual
    exclude_truncated: bool = False  # (chosen)
    tau: float = 0.5  # dual_neufs: weight of quality against diversity [K:NeuFS]
    seed: int = 0


@dataclass
class ContextConfig:
    # neuron_jaccard [P]|random|embedding_cos|same_prompt_rollout|none, or `module:attribute` of your own
    retriever: str = "neuron_jaccard"
    m: int = 10  # demonstrations [P]
    pool: str = "all"  # all [P Eq. 6]|selected
    filter: str = "none"  # none [P]|majority|s_below_median: which answers may be demonstrations, §5
    order: str = "nearest_last"  # nearest_last|nearest_first|random (chosen) G5
    solution: str = "final"  # final|full|answer_only (chosen) G5
    max_prompt: int = 10240  # teacher prompt tokens; (chosen) §5
    dedup_text: bool = True  # (chosen) §5
    seed: int = 0


@dataclass
class LoraConfig:
    """Low-rank adapters by PEFT in place of full fine-tuning (§10.1's table: r 16, alpha 32, dropout 0)."""

    r: int = 0  # rank; 0: off, all weights are trained [P]
    alpha: int = 32  # the adapters' product counts alpha / r times
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)  # names of linear layers; empty: all but the output head


@dataclass
class TrainConfig:
    steps: int = 150  # [P]
    epochs: Optional[float] = None  # passes over the selected questions, in place of `steps`; null: `steps` counts
    batch: int = 16  # prompts a step, over all ranks [P]
    micro: int = 4  # sequences a micro-batch on a rank [P]
    micro_tokens: Optional[int] = None  # token budget of a micro-batch on a rank, in place of `micro` sequences
    packing: bool = True  # sequences end to end in one row; false: rectangles, padded on the right
    ahead: int = 0  # 0: strictly on-policy [P]; 1: the next step's rollouts are sampled while this one trains
    n: int = 1  # rollouts per prompt (chosen) G4
    temperature: float = 1.0  # (chosen) G4
    top_p: float = 1.0  # (chosen)
    top_k: int = -1
    max_response: int = 8192  # (chosen)
    lr: float = 1e-6  # (chosen) G4, DemoPSD
    warmup: int = 10  # steps; (chosen) G4
    warmup_ratio: Optional[float] = None  # share of the steps, in place of `warmup`; null: `warmup` counts
    schedule: str = "constant"  # constant|cosine (chosen)
    weight_decay: float = 0.0  # (chosen)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float = 1.0  # (chosen)
    lora: LoraConfig = field(default_factory=LoraConfig)
    gradient_checkpointing: bool = False  # keep each layer's input alone, compute the layer again in the backward
    mlp_tile: int = 0  # token rows of an MLP at a time (DeepSpeed's TiledMLP, arXiv 2506.13996); 0: all
    seed: int = 0
    max_skipped: int = 10  # steps skipped in a row (a loss or gradient not finite) that end the run; (chosen)
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    keep_best: int = 0  # so many more checkpoints, the best by the mean of `best_by` since the one before; (chosen)
    best_by: str = "loss"  # loss|kl_reverse|probe/majority_share|probe/unparsed_share: all label-free; (chosen)
    export: str = "last"  # last [P]|best: the weights that are exported and evaluated
    probe_every: int = 25  # label-free probe (§9.5) every so many steps; 0: never
    probe_questions: int = 32
    probe_samples: int = 4
    # Words of style rather than substance, whose share of the loss is logged; (chosen) after §11 F1.
    style_words: list[str] = field(default_factory=lambda: list(STYLE_WORDS))
    sync_check_every: int = 1  # verify served against trained log-probs every so many syncs; 0: never
    sync_tolerance: float = 1e-4  # float32; bfloat16 presets raise it


@dataclass
class DistillConfig:
    divergence: str = "reverse_kl"  # reverse_kl [P]|forward_kl|jsd|sampled_rkl, §6.3
    beta: float = 0.5  # jsd only
    support: str = "full"  # full (chosen)|topk
    topk: int = 100  # ids of support=topk, §10.1
    topk_of: str = "student"  # student (SDPO)|teacher (verl): whose top-k
    tail: str = "bucket"  # bucket|renorm|stopgrad|none: the mass outside the top-k, §6.3
    pointwise_clip: Optional[float] = None  # nats: cap of each vocabulary term (OPSD .05)
    token_clip: Optional[float] = None  # nats: cap of a token's loss
    is_clip: Optional[float] = None  # cap of the importance ratio to the rollout policy (SDFT 2)
    mask_high_entropy: Optional[float] = None  # nats: no loss where the student's entropy is above; (chosen) form, F4
    target: str = "teacher"  # teacher [P]|pmi|barycenter, §11 F2
    pmi_clip: float = 10.0  # F2
    pmi_beta: float = 1.0  # F2
    barycenter_alpha: float = 0.15  # F2
    barycenter_beta: float = 25.0  # F2: 25 to 100
    contrast: Optional[str] = None  # random_ctx: less the log-ratio under random demonstrations, F1
    kl_base_coef: float = 0.0  # coefficient of KL(p‖p_0), F9
    aggregation: str = "token_mean"  # token_mean (chosen)|seq_mean_token_mean|seq_mean_token_sum
    temperature: float = 1.0  # §6.1
    skip_first_tokens: int = 0
    max_loss_tokens: Optional[int] = None
    logit_chunk: Optional[int] = None  # positions a chunk; null (chosen): 128 on CPUs, 512 on GPUs; §6.4
    kernel: str = "auto"  # auto|torch|numba|triton: the loss's element-wise part; auto: the fastest there is for it


@dataclass
class TeacherConfig:
    kind: str = "frozen"  # frozen (product default, §6.5)|ema (paper presets)|live|trust_region
    rate: float = 0.01  # [P]
    every: int = 1
    mix: float = 0.5  # trust_region: c of lerp(frozen logits, live logits, c), §6.5; (chosen)
    context_mib: int = 1024  # frozen teacher: a rank's memory for its prompts' keys and values over steps; (chosen)


@dataclass
class SftConfig:
    """Fine-tuning on the pool's own voted answers: methods lmsi and nait_sft, SPEC §8.1."""

    min_share: float = 0.0  # least share of the majority answer among a question's rollouts (LMSI's c_min)
    per_question: int = 1  # responses kept a question, drawn uniformly from those that agree; 0: all (chosen)


@dataclass
class GrpoConfig:
    """Group-relative policy optimisation: methods ttrl and intuitor, SPEC §8.2, 8.3, 8.5."""

    reward: str = "majority"  # majority (TTRL)|self_certainty (Intuitor)
    clip: float = 0.2  # of the ratio to the policy that sampled, to both sides [P App. A]
    kl_coef: float = 0.0  # coefficient of the k3 estimate of KL to the base model [P App. A]; Intuitor .005
    epsilon: float = 1e-6  # beside the group's standard deviation, §8.2
    old_policy: str = "served"  # whose log-probs the ratio is to: served (the sampling server's)|trained (ratio 1)


@dataclass
class GuardConfig:
    """Signs of collapse, measured on each step's own rollouts; all label-free (`nopsd.train.guards`).

    A limit that is null is not watched. The first time that one is passed warns; `patience` times in a row stop the
    run, and the best checkpoint from before is exported. "First steps": the first `baseline_steps`.
    """

    patience: int = 5  # steps, or probes where a probe gives the number; (chosen)
    stop: bool = True  # false: warn only
    baseline_steps: int = 5  # (chosen)
    min_length_ratio: Optional[float] = 0.2  # mean response length against the first steps'; (chosen), F1
    max_length_ratio: Optional[float] = 5.0  # (chosen)
    min_entropy: Optional[float] = 1e-4  # nats, the student's mean over tokens; (chosen): sound lab models have 4e-3
    max_entropy_ratio: Optional[float] = 10.0  # against the first steps' (counted as 0.1 nats or more); (chosen), F1
    max_repeated: Optional[float] = 0.5  # mean share of a response's 4-grams that it repeats; (chosen), F8
    max_unparsed: Optional[float] = 0.9  # share of probe answers that can't be read, if the first can; (chosen), F8
    max_kl_ratio: Optional[float] = 10.0  # KL(student ‖ teacher) against the first steps' (0.1 nats or more); (chosen)
    max_kl_base: Optional[float] = None  # nats a token from the base, where distill.kl_base_coef measures it; F9


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
    ranks: int = 1  # processes on this host; with a hostfile its slots count instead
    threads: int = 1  # torch threads a rank on CPU
    hostfile: Optional[str] = None  # DeepSpeed's hostfile; null: this host alone
    launcher: str = "pdsh"  # pdsh|openmpi|mpich|slurm|no_ssh, with a hostfile
    master_addr: Optional[str] = None  # null: the first host's address as the others see it
    heartbeat_s: float = 20.0  # a rank silent for so long ends the run (watchdog); 0: no watchdog; (chosen)
    timeout_s: float = 900.0  # process-group timeout
    student_config: Optional[str] = None  # DeepSpeed JSON; null: ds_configs' for this device
    teacher_config: Optional[str] = None
    sequence_parallel: int = 1  # ranks that compute one sequence together (Ulysses, arXiv 2309.14509); 1: none
    nvme_path: Optional[str] = None  # folder on a local NVMe disk, for a DeepSpeed JSON that offloads to it
    shard: str = "sample"  # sample|layer|neuron|position: how scoring is shared, §13.1-13.3
    topk_search: str = "bisect"  # bisect|gather: the global top-K of sharded neurons, §13.2
    context_exchange: str = "auto"  # queries_only|gather_all; auto: by size, §13.1
    block_mib: int = 512  # memory of the intersection kernel's blocks on a rank


@dataclass
class Config:
    method: str = "nopsd"  # what is trained by: a name of nopsd.config.methods
    run_dir: str = "runs/run"
    seed: int = 0  # of rollouts, and of selection, training and evaluation where their own seeds are not set
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rollout_zs: SamplingConfig = field(default_factory=SamplingConfig)
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    dist: DistConfig = field(default_factory=DistConfig)
