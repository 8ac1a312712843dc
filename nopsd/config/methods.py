"""The methods that a run can train by: the paper's own, its baselines and its ablations, one name each.

What a method changes in the defaults is in nopsd/config/presets/method/NAME.yaml, with its source; a preset and the
command line come after it and win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nopsd.plugins import is_own, resolve

GROUP = "nopsd.methods"  # of entry points


@dataclass(frozen=True)
class Method:
    """One method.

    `trainer` is the algorithm that trains (distill, sft, grpo, opsa); None: the base model is evaluated as it is.
    `means` holds the values of keys without which it would be another method. Of a method of a user's own: `settings`
    are its defaults by dotted key, and `prepare(session)` gives what the train stage trains on and how, in place of
    the trainer's own (`nopsd.stages.algorithms`).
    """

    trainer: str | None
    does: str
    reads_labels: bool = False
    means: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[..., Any] | None = None

    @property
    def shows_answers(self) -> bool:
        """Whether the teacher is shown what the answer key says."""
        return self.reads_labels and self.trainer == "distill"


def _chosen_by(selector: str | None, retriever: str) -> dict[str, str]:
    return {**({"select.selector": selector} if selector else {}), "context.retriever": retriever}


class Methods(dict[str, Method]):
    """Ours by name; a user's own, `module:attribute` or an entry point, is found when it is asked for."""

    def __missing__(self, name: str) -> Method:
        """ConfigError if there is none or its module can't be imported."""
        return resolve("method", name, {}, GROUP, Method)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and is_own(name, GROUP))


METHODS = Methods(
    {
        "nopsd": Method("distill", "the paper's: fewest neurons select, nearest neuron sets demonstrate"),
        "nopsd_dense": Method(
            "distill",
            "ours, not the paper's: the questions of the pool's densest part by neuron sets",
            means=_chosen_by("neuron_density", "neuron_jaccard"),
        ),
        "lmsi": Method("sft", "fine-tuning on the pool's own majority-voted answers (LMSI, arXiv 2210.11610)"),
        "nait_sft": Method(
            "sft",
            "the same on the questions that NAIT's neuron directions choose (arXiv 2603.13201)",
            means={"select.selector": "nait"},
        ),
        "sft_given": Method(
            "sft",
            "supervised training on given outputs of the selected rows, which are labels (NAIT's experiment)",
            True,
        ),
        "ttrl": Method(
            "grpo",
            "GRPO rewarded by the vote of a question's own rollouts (TTRL, arXiv 2504.16084)",
            means={"grpo.reward": "majority"},
        ),
        "intuitor": Method(
            "grpo",
            "GRPO rewarded by the policy's own certainty (Intuitor, arXiv 2505.19590)",
            means={"grpo.reward": "self_certainty"},
        ),
        "opsd_random": Method(
            "distill", "random questions, random demonstrations", means=_chosen_by("random", "random")
        ),
        "opsd_randctx": Method(
            "distill",
            "the paper's questions, random demonstrations (its Table 2)",
            means=_chosen_by("neuron_count", "random"),
        ),
        "opsd_all": Method(
            "distill", "the whole pool, the paper's demonstrations", means=_chosen_by("all", "neuron_jaccard")
        ),
        "opsd_entropy": Method(
            "distill",
            "the questions answered with the least entropy, the paper's demonstrations",
            means=_chosen_by("token_entropy", "neuron_jaccard"),
        ),
        "opsd_majconf": Method(
            "distill",
            "the questions with the largest majorities, the paper's demonstrations",
            means=_chosen_by("majority_conf", "neuron_jaccard"),
        ),
        "opsd_null": Method(
            "distill", "no demonstrations: a control that must not learn", means=_chosen_by(None, "none")
        ),
        "opsd_oracle": Method(
            "distill",
            "the question's right answer shown: an upper reference that reads labels",
            True,
            means=_chosen_by(None, "none"),
        ),
        "sdpo_labelfree": Method(
            "distill",
            "another rollout of the question that agrees with the vote as demonstration",
            means=_chosen_by(None, "same_prompt_rollout"),
        ),
        "nopsd_fkl": Method(
            "distill",
            "the paper's with a forward KL whose terms are capped (OPSD v3, arXiv 2601.18734)",
            means={"distill.divergence": "forward_kl"},
        ),
        "opcd": Method(
            "distill",
            "30 near questions' solutions as turns, nearest first, a JSD (the first author's earlier public settings)",
            means={"context.placement": "turns", "distill.divergence": "jsd", "teacher.kind": "frozen"},
        ),
        "canon": Method(
            "distill",
            "the question's own consensus solution of highest likelihood as demonstration (CANON, arXiv 2607.13643)",
            means={
                **_chosen_by(None, "same_prompt_rollout"),
                "context.pick": "likeliest",
                "distill.divergence": "jsd",
                "teacher.kind": "frozen",
            },
        ),
        "u_opsd": Method(
            "distill",
            "the shortest rollout that agrees with the vote teaches the longest that doesn't (arXiv 2608.06296)",
            means={"context.retriever": "none", "distill.divergence": "forward_kl"},
        ),
        "ttpo": Method(
            "distill",
            "rollouts that agree with the vote distilled, the others pushed down (TTPO, arXiv 2608.27448)",
            means={"context.retriever": "none", "distill.divergence": "forward_kl"},
        ),
        "opsa": Method(
            "opsa", "no teacher: the least likely fifth of the sampled tokens pushed down (OPSA, arXiv 2608.31046)"
        ),
        "base": Method(None, "no training"),
    }
)

# Sections, and keys of sections, that an algorithm never reads; distill.logit_chunk is every algorithm's memory.
_UNUSED: dict[str | None, tuple[str, ...]] = {
    "distill": ("sft.", "grpo."),
    "sft": (
        "distill.",
        "teacher.",
        "grpo.",
        "train.n",
        "train.temperature",
        "train.top_p",
        "train.top_k",
        "train.ahead",
        "train.retain.",
    ),
    "grpo": ("distill.", "teacher.", "sft.", "train.retain."),
    "opsa": ("distill.", "teacher.", "sft.", "grpo.", "train.retain."),
    None: (),  # nothing is trained, whatever is set
}
_SHARED = ("distill.logit_chunk",)
_OF_METHOD = {"opsa.": "opsa", "uopsd.": "u_opsd", "ttpo.": "ttpo"}  # sections that one method reads


def is_foreign(method: str, key: str) -> bool:
    """Whether the dotted key means nothing to the method."""
    trainer = METHODS[method].trainer
    if any(key.startswith(section) and method != owner for section, owner in _OF_METHOD.items()):
        return trainer is not None
    unused = _UNUSED[trainer]
    return key not in _SHARED and any(key.startswith(name) if name.endswith(".") else key == name for name in unused)
