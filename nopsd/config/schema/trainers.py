"""Keys of the trainers beside distillation: fine-tuning, GRPO, OPSA, U-OPSD and TTPO."""

from __future__ import annotations

from dataclasses import dataclass

from nopsd.config.schema.key import key


@dataclass
class SftConfig:
    """Fine-tuning on the pool's own voted answers: methods lmsi and nait_sft. Of sft_given: on given outputs."""

    min_share: float = key(0.0, "least share of the majority answer among a question's rollouts", ge=0, le=1)
    per_question: int = key(1, "responses kept a question, drawn from those that agree with the vote; 0: all", ge=0)
    train_on_labels: bool = key(
        False,
        "READS LABELS: train on the outputs that come with the data, in place of the model's own; of method sft_given, "
        "which runs only if you set it",
    )


@dataclass
class GrpoConfig:
    """Group-relative policy optimisation: methods ttrl and intuitor."""

    reward: str = key(
        "majority",
        "agreement with the vote of a question's rollouts (TTRL), or the policy's certainty (Intuitor)",
        source="TTRL",
        choices=("majority", "self_certainty"),
    )
    clip: float = key(0.2, "of the ratio to the policy that sampled, to both sides", source="paper, Appendix A", ge=0)
    kl_coef: float = key(
        0.0, "coefficient of the k3 estimate of KL to the base model", source="paper, Appendix A", ge=0
    )
    epsilon: float = key(1e-6, "added to the group's standard deviation", source="TTRL", ge=0)
    old_policy: str = key(
        "served",
        "whose log-probs the ratio is to: those of the sampling server, or the trainer's own (ratio 1)",
        choices=("served", "trained"),
    )


@dataclass
class OpsaConfig:
    """Self-adaptation without a teacher: method opsa (arXiv 2608.31046)."""

    fraction: float = key(
        0.2, "share of the tokens that are pushed down: the least likely ones", source="OPSA", gt=0, le=1
    )
    high: float = key(-0.5, "advantage of the surest of them, by entropy", source="OPSA", ge=-10, le=10)
    low: float = key(-1.0, "advantage of the least sure of them", source="OPSA", ge=-10, le=10)
    scope: str = key(
        "response",
        "what the share is of, and what is surest: the tokens of each response, or of the whole step",
        source="chosen: OPSA's code takes those of one rank, which would make results depend on ranks",
        choices=("response", "step"),
    )


@dataclass
class UopsdConfig:
    """A short response that agrees with the vote teaches long ones that don't: method u_opsd (arXiv 2608.06296)."""

    tau: float = key(0.5, "least share of the vote among a question's rollouts", source="U-OPSD", ge=0, le=1)
    k: int = key(1, "responses trained on a question: the longest that disagree", source="U-OPSD", ge=1)
    reference: str = key(
        "shortest",
        "which response that agrees the teacher is shown",
        source="U-OPSD",
        choices=("shortest", "longest", "random"),
    )


@dataclass
class TtpoConfig:
    """Rollouts that agree with the vote distilled, the others pushed down: method ttpo (arXiv 2608.27448)."""

    train_n: int = key(8, "responses trained on of train.n sampled, half of either side", source="TTPO", ge=2)
    coef: float = key(0.1, "weight of what is pushed down", source="TTPO", ge=0)
    quantile: float = key(0.98, "of a response's entropies and KLs that counts as 1", source="TTPO", gt=0, le=1)
