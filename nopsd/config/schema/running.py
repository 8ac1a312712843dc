"""Keys of the model, the data, the rollout servers, the evaluation, and of where all of it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from nopsd.config.schema.key import LONGEST_WAIT_S, key

PUBLISHED_SIZES = "computed from published sizes"  # those that the paper prints of its pools and test sets


@dataclass
class ModelConfig:
    """The base model."""

    path: str = key("lab", "folder, hub id, GGUF file, or `lab` for the embedded model", path=True)
    revision: Optional[str] = key(None, "the hub's revision; null: its default branch")
    dtype: str = key(
        "float32",
        "number format of the trainer, and of the server unless server.dtype is set; auto: bfloat16 on GPUs and on "
        "CPUs that multiply in it, else float32",
        choices=("float32", "bfloat16", "auto"),
    )
    trust_remote_code: bool = key(False, "run code that comes with the model")
    mlp_adapter: Optional[str] = key(
        None,
        "finds the neurons of an MLP that our adapters don't know; null: ours alone",
        entry_points="nopsd.adapters",
    )


@dataclass
class DataConfig:
    """The questions."""

    name: str = key(
        "lab",
        "the data set: `file` and `instructions` read data.path",
        choices=("lab", "sciknoweval", "mmlu_pro", "edu_feedback", "svamp", "gsm8k", "gpqa", "file", "instructions"),
        entry_points="nopsd.data_sets",
    )
    path: Optional[str] = key(None, "local file or folder, or hub id; null: the data set's own hub id", path=True)
    domain: str = key("biology", "the pool's domain; questions of a file without a domain get this one")
    types: list[str] = key(["mcq-4-choices"], "question types of SciKnowEval", source=PUBLISHED_SIZES)
    levels: list[str] = key([], "levels of SciKnowEval; empty: all", source=PUBLISHED_SIZES)
    test_ratio: float = key(
        0.1, "share of the questions held out for the test; MMLU-Pro's preset: 0.2", source=PUBLISHED_SIZES, gt=0, lt=1
    )
    seed: int = key(42, "of the split into pool and test", ge=0, le=2**32 - 1)
    decontaminate: bool = key(False, "leave out of the pool what a test asks too, by the question's text")
    pool_limit: Optional[int] = key(None, "keep the first N pool questions after the split; null: all", ge=1)
    holdout: Optional[int] = key(
        None,
        "pool questions that are held out, on which base and trained model are compared without labels; null: where "
        "there is no test a tenth of the pool, 250 at most, else none",
        ge=0,
    )
    config: Optional[str] = key(None, "of `file`, `instructions` and `gpqa`: the hub data set's configuration")
    split: str = key("train", "of `file` and `instructions`: the hub data set's split that the pool is from")
    test_path: Optional[str] = key(
        None, "of `file`: the test's own file or folder; null: data.test_ratio is split off", path=True
    )
    test_split: Optional[str] = key(None, "of `file`: the hub data set's split that the test is")
    id_column: str = key("id", "of `file`")
    question_column: str = key("question", "of `file`: text, or a chat of one user turn")
    options_column: Optional[str] = key(
        "options", "of `file`: a list of texts, a mapping from label to text, or ARC's form; null: open questions"
    )
    option_columns: list[str] = key([], "of `file`: one column an option, in place of data.options_column")
    answer_column: str = key(
        "answer", "of `file`: a label, an option's text or its index; read by the evaluation alone"
    )
    first_index: Optional[int] = key(
        None, "of `file`: whether answers that are indices count from 0 or 1; null: found out", ge=0, le=1
    )
    context_column: Optional[str] = key(None, "of `file`: text that stands before the question, a passage for example")
    instruction: Optional[str] = key(None, "of `file`: what is asked of every row, before its text")
    choices: Optional[list[str]] = key(None, "of `file`: options of every question that has none of its own")
    response_column: str = key("output", "of `instructions`: the given response, in place of a rollout")


@dataclass
class PromptConfig:
    """How a question is put to the model."""

    system: Optional[str] = key(
        None,
        "system message; {format} stands for how the answer is to be given; null: ours, by prompt.answer and "
        "prompt.answer_format; none: no system message",
    )
    question: str = key(
        "{question}\n\n{instruction}",
        "the user's message; {options} stands for the options, which else follow the question; a paragraph whose "
        "placeholders are all empty is left out",
    )
    instruction: Optional[str] = key(
        None, "what stands for {instruction} behind the question; null: ours, by prompt.answer; none: nothing"
    )
    answer: str = key(
        "auto",
        "what is asked for where a question has no options; auto: text",
        choices=("auto", "text", "number", "letter"),
    )
    answer_format: str = key(
        "tag",
        "where the answer is to stand: between <answer> and </answer>, in \\boxed{}, in a last line `Answer: ...`, or "
        "anywhere",
        choices=("tag", "box", "line", "bare"),
    )
    enable_thinking: Optional[bool] = key(None, "passed to the chat template; null: the template's own default")
    date: str = key("2026-07-02", "today, for a chat template that writes it: a run's prompts are the same tomorrow")


@dataclass
class AnswerConfig:
    """How answers are read from responses and compared: the same for votes, rewards, reports and the evaluation."""

    judge: str = key(
        "auto",
        "how an answer to a question without options is read, and which answers are the same; auto: numeric, letter or "
        "text by prompt.answer; `module:attribute` of your own judges questions with options too",
        choices=("auto", "text", "exact", "letter", "numeric", "math"),
        entry_points="nopsd.judges",
    )
    tolerance: float = key(
        1e-4,
        "of judge numeric: largest difference, as a share of the larger number; whole numbers must be equal",
        ge=0,
        lt=1,
    )
    unfinished: str = key(
        "read",
        "what a response counts as that was cut at the length limit: as what can be read of it, or as no answer",
        choices=("read", "none"),
    )


@dataclass
class SamplingConfig:
    """Zero-shot rollouts of the pool by the base model."""

    n: int = key(1, "rollouts a question", source="paper, Algorithm 1", ge=1)
    temperature: float = key(0.6, "0: greedy", source="chosen: Qwen's recommendation, the paper's evaluation", ge=0)
    top_p: float = key(0.95, "nucleus sampling; 1: off", source="chosen: Qwen's recommendation", gt=0, le=1)
    top_k: int = key(20, "-1 or 0: off", source="chosen: Qwen's recommendation", ge=-1)
    max_new: int = key(8192, "response tokens at most; longer ones are cut and marked truncated", ge=1)


@dataclass
class ServerConfig:
    """The vLLM server of rollouts, and how new weights reach it."""

    url: Optional[str] = key(None, "a vLLM server already running; null: one is started for the run")
    api_key: Optional[str] = key(None, "of the server at server.url; or in the environment as NOPSD_SERVER_KEY")
    host: str = key("127.0.0.1", "address that the started server listens on")
    port: int = key(0, "of the started server; 0: any free port", ge=0, le=65535)
    dtype: Optional[str] = key(
        None, "number format of the server; null: model.dtype", choices=(None, "float32", "bfloat16")
    )
    head_dtype: Optional[str] = key(
        None,
        "number format of the started server's output head, as the trainer's is float32; null: server.dtype",
        choices=(None, "float32"),
    )
    max_model_len: int = key(4096, "tokens of prompt and response together, at most", ge=1)
    max_num_seqs: int = key(128, "sequences that the server runs at once", ge=1)
    kv_cache_mib: int = key(256, "memory of the key-value cache; of vLLM's CPU build", ge=1)
    gpu_memory_utilization: float = key(
        0.45, "share of a GPU's memory that the server takes; the trainer shares the device by default", gt=0, le=1
    )
    sleep: bool = key(
        False,
        "the server gives up its share of the GPU between rollouts: vLLM's sleep mode, weights to the host's memory, "
        "keys and values dropped; not on a CPU",
    )
    tensor_parallel: int = key(1, "devices of one server", ge=1)
    seed: int = key(0, "vLLM's own; each request carries another, made from the run's seed", ge=0, le=2**32 - 1)
    args: list[str] = key([], "further options of vLLM's, as its command line takes them: [--quantization, fp8]")
    startup_timeout_s: float = key(600.0, "seconds until a server must answer", gt=0, le=LONGEST_WAIT_S)
    request_timeout_s: float = key(600.0, "seconds until a request must be answered", gt=0, le=LONGEST_WAIT_S)
    stall_timeout_s: float = key(
        120.0, "seconds without a token after which a server counts as lost; 0: never", ge=0, le=LONGEST_WAIT_S
    )
    weight_sync: str = key(
        "auto",
        "how new weights reach the server; auto: nccl to a GPU server on another host, else gloo; ipc: through the "
        "memory of a device that the server shares with rank 0",
        choices=("auto", "gloo", "nccl", "disk", "ipc"),
    )
    sync_bucket_mib: Optional[int] = key(None, "sent or written at a time; null: 8 MiB by gloo, else 256 MiB", ge=1)
    sync_folder: Optional[str] = key(
        None, "of weight_sync=disk: a folder that servers on other hosts see too", path=True
    )
    sync_timeout_s: float = key(300.0, "seconds until a weight update must be done", gt=0, le=LONGEST_WAIT_S)


@dataclass
class RolloutConfig:
    """Where rollouts come from when one server on this host isn't all."""

    hosts: list[str] = key([], "hosts whose devices serve rollouts alone; empty: this host")
    servers_per_host: int = key(
        1,
        "data-parallel servers on each host, each of server.tensor_parallel devices; 0: on all devices that the host's "
        "ranks leave, or beside the ranks if they leave none",
        ge=0,
    )
    colocate: bool = key(
        False,
        "with dist.hostfile: servers on every host that trains, in place of the first alone; server.sleep has them "
        "give up their share of the GPUs between rollouts",
    )
    urls: list[str] = key([], "servers already running, all with one API key; instead of rollout.hosts")
    partial: Optional[float] = key(
        None,
        "a training step starts once this share of its tokens is there: longer responses are cut, trained on as far as "
        "they go, and gone on with by later steps' weights; null: it waits for the longest",
        gt=0,
        lt=1,
    )
    hedge_s: Optional[float] = key(
        None, "seconds until an unanswered request goes to a second server too; null: never", gt=0, le=LONGEST_WAIT_S
    )


@dataclass
class EvalConfig:
    """Evaluation on the test questions."""

    n: int = key(8, "responses a test question", source="paper, Appendix C.1", ge=1)
    temperature: float = key(0.6, "0: greedy", source="paper, Appendix C.1", ge=0)
    top_p: float = key(0.95, "nucleus sampling; 1: off", source="chosen: Qwen's recommendation", gt=0, le=1)
    top_k: int = key(20, "-1 or 0: off", source="chosen: Qwen's recommendation", ge=-1)
    max_new: int = key(16384, "response tokens at most", ge=1)
    ece_bins: int = key(
        15, "equal-width bins of the expected calibration error", source="paper, Section 5.1", ge=1, le=10_000
    )
    extract: str = key(
        "lenient",
        "how an answer is read from a response; lenient: also from prose, as MMLU-Pro's script does",
        choices=("strict", "lenient"),
        entry_points="nopsd.judges",
    )
    targets: list[str] = key(
        [],
        "domains besides the pool's, and labelled data sets besides the run's own: a preset's name, a file, a hub id; "
        "empty: every domain that the data set has",
    )
    every: int = key(
        0,
        "steps between evaluations of the served policy while it trains, on tests and held-out questions; 0: none",
        ge=0,
        runtime_only=True,
    )
    every_questions: int = key(64, "first questions of a domain that eval.every asks", ge=1, runtime_only=True)
    limit: Optional[int] = key(None, "first N test questions of a domain; null: all", ge=1)
    bootstrap: int = key(1000, "resamples of the questions for the intervals; 0: no intervals", ge=0, le=1_000_000)
    seed: int = key(0, "of the responses and the resamples", follows="seed", ge=0)


@dataclass
class DistConfig:
    """Ranks, hosts, and how they share the work."""

    ranks: int = key(
        1,
        "training processes on this host; 0: one a visible GPU, two on a CPU; with a hostfile its slots count instead",
        ge=0,
    )
    threads: int = key(1, "torch threads of a rank on a CPU", ge=1, le=4096)
    hostfile: Optional[str] = key(None, "DeepSpeed's hostfile; null: this host alone", path=True)
    launcher: str = key(
        "pdsh",
        "what starts the ranks on the hosts of dist.hostfile",
        choices=("pdsh", "openmpi", "mpich", "slurm", "no_ssh"),
    )
    master_addr: Optional[str] = key(None, "null: the first host's address as the others see it")
    heartbeat_s: float = key(
        20.0, "a rank silent for so many seconds ends the run; 0: no watchdog", ge=0, le=LONGEST_WAIT_S
    )
    timeout_s: float = key(900.0, "of a collective operation, in seconds", gt=0, le=LONGEST_WAIT_S)
    student_config: Optional[str] = key(
        None, "DeepSpeed JSON of the student; null: that of ds_configs for this device", path=True
    )
    teacher_config: Optional[str] = key(
        None, "DeepSpeed JSON of the teacher; null: that of ds_configs for this device", path=True
    )
    sequence_parallel: int = key(
        1, "ranks that compute one sequence together (Ulysses, arXiv 2309.14509); 1: none", ge=1
    )
    nvme_path: Optional[str] = key(
        None, "folder on a local NVMe disk, for a DeepSpeed JSON that offloads to it", path=True
    )
    context_exchange: str = key(
        "auto",
        "which neuron sets the ranks exchange to find nearest questions; auto: by size",
        choices=("auto", "queries_only", "gather_all"),
    )
    block_mib: int = key(512, "memory of a rank for one block of set intersections", ge=1)
