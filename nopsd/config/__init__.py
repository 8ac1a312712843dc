"""The one typed configuration of a run.

Load it with `load_config(preset, overrides)`: the schema's defaults, then a YAML preset of `nopsd/config/presets` (or
a YAML file), then `key=value` overrides. `all_keys()` describes every key.
"""

from nopsd.config.loading import load_config, shaping, shaping_keys, to_plain, to_yaml
from nopsd.config.methods import METHODS, Method, is_foreign
from nopsd.config.preset import PRESETS, preset_names
from nopsd.config.rules import validate
from nopsd.config.schema import (
    CHOICES,
    ENTRY_POINTS,
    RUNTIME_ONLY,
    AnswerConfig,
    Config,
    ContextConfig,
    DataConfig,
    DistConfig,
    DistillConfig,
    EvalConfig,
    GrpoConfig,
    GuardConfig,
    Key,
    LoraConfig,
    ModelConfig,
    NeuronConfig,
    PromptConfig,
    RolloutConfig,
    SamplingConfig,
    SelectConfig,
    ServerConfig,
    SftConfig,
    SignalConfig,
    TeacherConfig,
    TrainConfig,
    all_keys,
)

__all__ = [
    "CHOICES",
    "ENTRY_POINTS",
    "METHODS",
    "PRESETS",
    "RUNTIME_ONLY",
    "AnswerConfig",
    "Config",
    "ContextConfig",
    "DataConfig",
    "DistConfig",
    "DistillConfig",
    "EvalConfig",
    "GrpoConfig",
    "GuardConfig",
    "Key",
    "LoraConfig",
    "Method",
    "ModelConfig",
    "NeuronConfig",
    "PromptConfig",
    "RolloutConfig",
    "SamplingConfig",
    "SelectConfig",
    "ServerConfig",
    "SftConfig",
    "SignalConfig",
    "TeacherConfig",
    "TrainConfig",
    "all_keys",
    "is_foreign",
    "load_config",
    "preset_names",
    "shaping",
    "shaping_keys",
    "to_plain",
    "to_yaml",
    "validate",
]
