"""Every key of a run: its type, default, allowed values, source and help, each in its dataclass field.

A `source` names where a default comes from: the paper (arXiv 2607.02460), its authors' code, another published method,
or "chosen", with the reason where there is one beyond what serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nopsd.config.methods import GROUP, METHODS
from nopsd.config.schema.key import Key, key, keys_of
from nopsd.config.schema.method import ContextConfig, NeuronConfig, SelectConfig, SignalConfig
from nopsd.config.schema.running import (
    AnswerConfig,
    DataConfig,
    DistConfig,
    EvalConfig,
    ModelConfig,
    PromptConfig,
    RolloutConfig,
    SamplingConfig,
    ServerConfig,
)
from nopsd.config.schema.trainers import GrpoConfig, OpsaConfig, SftConfig, TtpoConfig, UopsdConfig
from nopsd.config.schema.training import (
    DistillConfig,
    GuardConfig,
    LoraConfig,
    NeuronMaskConfig,
    RetainConfig,
    TeacherConfig,
    TrackingConfig,
    TrainConfig,
)


@dataclass
class Config:
    """The configuration of a run."""

    method: str = key("nopsd", "what the run trains by", source="paper", choices=tuple(METHODS), entry_points=GROUP)
    run_dir: str = key("runs/run", "the run's folder", path=True)
    seed: int = key(0, "of rollouts, and of selection, training and evaluation where their own seeds are not set", ge=0)
    rounds: int = key(
        1,
        "how often the pool is answered, scored, selected from and trained on, each time by the model that the round "
        "before trained, which is also what its frozen teacher is; train.steps are those of one round",
        ge=1,
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    zero_shot: SamplingConfig = field(default_factory=SamplingConfig)
    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    opsa: OpsaConfig = field(default_factory=OpsaConfig)
    uopsd: UopsdConfig = field(default_factory=UopsdConfig)
    ttpo: TtpoConfig = field(default_factory=TtpoConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    dist: DistConfig = field(default_factory=DistConfig)


def all_keys() -> tuple[Key, ...]:
    """Every key of a run's configuration."""
    return keys_of(Config)


CHOICES = {key.name: key.choices for key in all_keys() if key.choices}
ENTRY_POINTS = {key.name: key.entry_points for key in all_keys() if key.entry_points}  # groups, by key
RUNTIME_ONLY = frozenset(key.name for key in all_keys() if key.runtime_only)

__all__ = [
    "AnswerConfig",
    "CHOICES",
    "Config",
    "ContextConfig",
    "DataConfig",
    "DistConfig",
    "DistillConfig",
    "ENTRY_POINTS",
    "EvalConfig",
    "GrpoConfig",
    "GuardConfig",
    "Key",
    "LoraConfig",
    "ModelConfig",
    "NeuronConfig",
    "NeuronMaskConfig",
    "OpsaConfig",
    "PromptConfig",
    "RUNTIME_ONLY",
    "RetainConfig",
    "RolloutConfig",
    "SamplingConfig",
    "SelectConfig",
    "ServerConfig",
    "SftConfig",
    "SignalConfig",
    "TeacherConfig",
    "TrackingConfig",
    "TrainConfig",
    "TtpoConfig",
    "UopsdConfig",
    "all_keys",
]
