"""Keys of neuron scoring, of other signals, of selection and of the teacher's demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from nopsd.config.schema.key import key

# Selectors whose scores can be a weight: one number a question, whatever else is kept.
QUALITIES = (
    "neuron_count",
    "neuron_count_top",
    "neuron_density",
    "nad_agreement",
    "majority_conf",
    "token_entropy",
    "self_certainty",
    "seq_nll",
    "length",
    "learnability",
    "representation_shift",
)


@dataclass
class NeuronConfig:
    """How a response's neurons are scored, kept and counted (the paper's Section 3 and Appendix A)."""

    value: str = key(
        "act_fn",
        "a neuron's activation: the output of the MLP's activation function, or that times the up projection",
        source="paper and authors' code",
        choices=("act_fn", "gated"),
    )
    align: str = key(
        "predict",
        "which position counts for a token: the one that predicts it, or its own",
        source="authors' code",
        choices=("predict", "self"),
    )
    layers: str = key(
        "all",
        "layers whose neurons are scored, from 0: all, a range such as 8-23, every 4, or several with commas",
        source="paper, Section 3.3",
    )
    per_layer: int = key(
        2000, "highest (position, neuron) pairs kept of a layer and chunk", source="paper, Appendix A", ge=1
    )
    k: int = key(5000, "neurons kept of a response, for comparison with others", source="paper, Section 3.3", ge=1)
    count_mode: str = key(
        "pairs",
        "which neurons a response's count is over: those of the kept pairs, or of the top K of each chunk or token",
        source="authors' code",
        choices=("pairs", "chunk_topk", "token_topk"),
    )
    chunk: int = key(1024, "response positions of a chunk", source="chosen: the paper gives no size", ge=1)
    chunk_merge: str = key(
        "union",
        "union: the pairs of every chunk; exact: the highest of the whole response, whatever the chunk",
        source="paper, Appendix A",
        choices=("union", "exact"),
    )
    positive_only: bool = key(True, "drop contributions that are not above 0", source="authors' code")
    drop_last_position: bool = key(
        False, "leave a response's last position out", source="chosen: the authors' code drops it, the paper doesn't"
    )
    include_thinking: bool = key(
        True, "score the tokens inside <think> too", source="chosen: the paper leaves none out"
    )
    scale_with_width: bool = key(
        False, "per_layer and k by the paper's ratios to the model's width, in place of the numbers"
    )
    max_batch_tokens: int = key(8192, "tokens of a scoring batch", ge=1)


@dataclass
class SignalConfig:
    """What selectors and retrievers other than the paper's go by. Computed only where one of them needs it."""

    max_batch_tokens: int = key(8192, "tokens of a forward pass", ge=1)
    logit_chunk: int = key(512, "positions whose logits are in memory at once", ge=1)
    belief_samples: int = key(8, "responses with demonstrations a question; of belief_shift", ge=2)
    reference: Optional[str] = key(
        None, "of nait: JSONL of the target ability's examples (prompt, response)", path=True
    )
    reference_limit: int = key(512, "of nait: the first N examples of signal.reference", ge=2)


@dataclass
class SelectConfig:
    """Which questions are trained on (the paper's Section 4.2)."""

    selector: str = key(
        "neuron_count",
        "how questions are chosen: a name, or `module:attribute` of your own",
        source="paper, Section 4.2",
        choices=(
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
            "teacher_shift",
            "representation_shift",
            "learnability",
            "kcenter",
            "facility_location",
            "stratified",
            "all",
        ),
        entry_points="nopsd.selectors",
    )
    fraction: float = key(0.20, "share of the pool that is trained on", source="paper, Section 4.2", gt=0, le=1)
    ties: str = key(
        "include",
        "questions that tie with the last one selected: all of them, or cut at the exact number",
        source="paper, Algorithm 1",
        choices=("include", "exact"),
    )
    length_control: str = key(
        "none",
        "residual: select by what a response's length doesn't explain of the score",
        source="paper",
        choices=("none", "residual"),
    )
    exclude_truncated: bool = key(False, "select no question whose rollout was truncated")
    count: Optional[int] = key(
        None, "questions of each domain, in place of select.fraction; null: select.fraction counts", ge=1
    )
    keep: Optional[str] = key(
        None, "which end of the scores is trained on; null: the selector's own", choices=(None, "low", "high")
    )
    tau: float = key(0.5, "of dual_neufs: weight of quality against diversity", source="NeuFS", gt=0, le=1)
    space: str = key(
        "embedding",
        "of kcenter, facility_location and redundancy: by what questions are far apart: the cosine of their answers' "
        "mean states, neuron sets, or where the answer's states start and go to",
        choices=("embedding", "jaccard", "representation"),
    )
    quality: Optional[str] = key(
        None,
        "of kcenter: the selector whose scores weight the distances; null: none",
        source="chosen; SHIFT's is representation_shift (arXiv 2605.28631)",
        choices=(None, *QUALITIES),
    )
    clusters: int = key(
        16, "of stratified: clusters of neuron sets that questions are drawn from", source="One-Shot-OPD", ge=1
    )
    redundancy: Optional[float] = key(
        None,
        "drop a question that is more alike in select.space to a better one (1: the same); null: none is dropped",
        source="chosen; DEITA's filter has 0.9 (arXiv 2312.15685)",
        ge=0,
        lt=1,
    )
    seed: int = key(0, "of random choices", follows="seed", ge=0)


@dataclass
class ContextConfig:
    """Which questions demonstrate to the teacher (the paper's Section 4.3), and how."""

    retriever: str = key(
        "neuron_jaccard",
        "how the teacher's demonstrations are found: a name, or `module:attribute` of your own",
        source="paper, Section 4.3",
        choices=(
            "neuron_jaccard",
            "random",
            "fixed",
            "embedding_cos",
            "trajectory_cos",
            "mmr",
            "bm25",
            "same_prompt_rollout",
            "none",
        ),
        entry_points="nopsd.retrievers",
    )
    m: int = key(10, "demonstrations of a question", source="paper, Section 4.3", ge=0)
    pool: str = key("all", "questions that may be demonstrated", source="paper, Eq. 6", choices=("all", "selected"))
    filter: str = key(
        "none",
        "which answers may be demonstrated: all, those of the majority, those of few neurons",
        source="paper",
        choices=("none", "majority", "s_below_median"),
    )
    order: str = key(
        "nearest_last",
        "order of the demonstrations in the prompt",
        source="chosen: the paper gives none",
        choices=("nearest_last", "nearest_first", "random"),
    )
    solution: str = key(
        "final",
        "what is shown of an answer: without its thinking, all of it, its letter alone",
        source="chosen: SDPO shows no thinking; the paper doesn't say",
        choices=("final", "full", "answer_only"),
    )
    placement: str = key(
        "inline",
        "where demonstrations stand: in the user's message, or as turns of user and assistant before it",
        source="chosen: the paper gives none",
        choices=("inline", "turns"),
    )
    max_prompt: int = key(
        10240, "tokens of the teacher's prompt; over it the farthest go", source="chosen: SDPO's limit", ge=1
    )
    dedup_text: bool = key(True, "never show a question of the same text as demonstration")
    pick: str = key(
        "first",
        "of same_prompt_rollout: which of the responses that agree with the vote",
        choices=("first", "likeliest", "shortest", "longest"),
    )
    mmr_lambda: float = key(
        0.5, "of mmr: weight of nearness to the question against being unlike the others shown", ge=0, le=1
    )
    seed: int = key(0, "of random choices", follows="seed", ge=0)
