"""The one typed configuration of a run, as OmegaConf structured dataclasses (SPEC §10.1).

Load with `load_config(preset, overrides)`: the schema's defaults, then a YAML preset of `nopsd/config/presets`
(or a YAML file), then `key=value` overrides.
"""

from nopsd.config.loading import PRESETS, all_keys, load_config, preset_names, to_plain, to_yaml
from nopsd.config.method_rules import is_foreign
from nopsd.config.methods import METHODS, Method
from nopsd.config.rules import (
    CHOICES,
    DISTILL_CONDUCT,
    FRACTIONS,
    IMPORTABLE,
    MINIMA,
    TEACHER_CONDUCT,
    TRAIN_CONDUCT,
    validate,
)
from nopsd.config.schema import (
    STYLE_WORDS,
    Config,
    ContextConfig,
    DataConfig,
    DistConfig,
    DistillConfig,
    EvalConfig,
    GrpoConfig,
    GuardConfig,
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
)

__all__ = [
    "CHOICES",
    "Config",
    "ContextConfig",
    "DataConfig",
    "DistConfig",
    "DistillConfig",
    "EvalConfig",
    "FRACTIONS",
    "GrpoConfig",
    "GuardConfig",
    "IMPORTABLE",
    "LoraConfig",
    "METHODS",
    "MINIMA",
    "Method",
    "ModelConfig",
    "NeuronConfig",
    "PRESETS",
    "PromptConfig",
    "STYLE_WORDS",
    "RolloutConfig",
    "SamplingConfig",
    "SelectConfig",
    "ServerConfig",
    "SftConfig",
    "SignalConfig",
    "DISTILL_CONDUCT",
    "TEACHER_CONDUCT",
    "TRAIN_CONDUCT",
    "TeacherConfig",
    "TrainConfig",
    "all_keys",
    "is_foreign",
    "load_config",
    "preset_names",
    "to_plain",
    "to_yaml",
    "validate",
]
