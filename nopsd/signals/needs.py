"""Which columns a configuration asks for, and which config keys shape them.

In: the choice of selector, retriever and filter. Out: names of columns (nopsd.signals.store). A user's own selector or
retriever (`module:attribute`, or an entry point) names its columns in an attribute: `needs = ("token_entropy",)`.
"""

from __future__ import annotations

from collections.abc import Iterable

from nopsd.config import CHOICES, ContextConfig, SelectConfig
from nopsd.errors import ConfigError
from nopsd.plugins import resolve

NEEDS: dict[str, frozenset[str]] = {
    "majority_conf": frozenset({"majority_conf"}),
    "token_entropy": frozenset({"token_entropy"}),
    "self_certainty": frozenset({"self_certainty"}),
    "seq_nll": frozenset({"seq_nll"}),
    "nait": frozenset({"nait"}),
    "belief_shift": frozenset({"belief_shift"}),
    "teacher_shift": frozenset({"teacher_shift"}),
    "representation_shift": frozenset({"representation_shift"}),
    "learnability": frozenset({"majority_conf"}),
    "embedding_cos": frozenset({"embedding"}),
    "mmr": frozenset({"embedding"}),
    "trajectory_cos": frozenset({"trajectory"}),
    "same_prompt_rollout": frozenset({"agrees"}),
    "majority": frozenset({"agrees"}),  # context.filter
}
SPACES = {"embedding": "embedding", "representation": "representation"}  # select.space: its column
SPACED = ("kcenter", "facility_location")  # selectors that compare questions in select.space
PICKS = {"likeliest": "mean_logp", "shortest": "response_length", "longest": "response_length"}  # context.pick
FROM_TEXT = frozenset({"majority_conf", "agrees", "response_length"})  # no forward pass, no server
FROM_LOGITS = frozenset({"token_entropy", "self_certainty", "seq_nll", "mean_logp"})
FROM_STATES = frozenset({"representation", "representation_shift", "trajectory"})
FROM_FORWARD = FROM_LOGITS | FROM_STATES | {"embedding", "nait"}
DEMONSTRATED = frozenset({"belief_shift", "teacher_shift"})  # compare without and with demonstrations
EACH_RESPONSE = frozenset({"mean_logp"})  # [N, n]: not a mean over a question's rollouts
COLUMNS = FROM_TEXT | FROM_FORWARD | DEMONSTRATED
OF_OTHER_STAGES = frozenset({"agreement"})  # the neurons stage's
_GROUPS = {"select.selector": "nopsd.selectors", "context.retriever": "nopsd.retrievers"}  # entry points

_FORWARD_KEYS = ("signal.max_batch_tokens", "model.dtype")
_SHAPED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FROM_LOGITS, (*_FORWARD_KEYS, "signal.logit_chunk")),
    **dict.fromkeys(("embedding", *FROM_STATES), _FORWARD_KEYS),
    "nait": (*_FORWARD_KEYS, "signal.logit_chunk", "signal.reference_limit", "neuron.value", "prompt"),
    **dict.fromkeys(("majority_conf", "agrees"), ("answer", "prompt")),
    "belief_shift": (
        "answer",
        "signal.belief_samples",
        "zero_shot",
        "context",
        "prompt",
        "model.dtype",
        "server.dtype",
    ),
    "teacher_shift": (*_FORWARD_KEYS, "signal.logit_chunk", "context", "prompt"),
}


def needed(select_config: SelectConfig, context_config: ContextConfig) -> frozenset[str]:
    """Names of the columns to compute. ConfigError if a user's own code can't be loaded or asks for an unknown one, or
    if belief_shift or teacher_shift has no demonstrations to go by."""
    columns = (
        _needs_of("select.selector", select_config.selector)
        | _needs_of("context.retriever", context_config.retriever)
        | NEEDS.get(context_config.filter, frozenset())
        | NEEDS.get(select_config.quality or "", frozenset())
    )
    if (column := SPACES.get(select_config.space)) and compares(select_config):
        columns |= {column}
    if column := PICKS.get(context_config.pick):
        columns |= {column}
    for name in sorted(DEMONSTRATED & columns):
        _refuse_without_demonstrations(name, context_config)
    return columns


def compares(config: SelectConfig) -> bool:
    """Whether questions are compared with each other in select.space."""
    return config.selector in SPACED or config.redundancy is not None


def _refuse_without_demonstrations(selector: str, config: ContextConfig) -> None:
    if config.retriever == "none" or config.m == 0:
        raise ConfigError(
            f"select.selector={selector} compares answers with and without demonstrations, and there are none: set "
            "context.retriever to another than none, and context.m above 0"
        )
    if config.pool == "selected":
        raise ConfigError(
            f"select.selector={selector} needs demonstrations before anything is selected: set context.pool=all"
        )


def shaping_keys(columns: Iterable[str]) -> tuple[str, ...]:
    """The config keys whose values these columns depend on."""
    return tuple(sorted({key for name in columns for key in _SHAPED_BY.get(name, ())}))


def _needs_of(key: str, name: str) -> frozenset[str]:
    if name in CHOICES[key]:
        return NEEDS.get(name, frozenset())
    stated = getattr(resolve(key, name, {}, _GROUPS[key], object), "needs", ())
    asked = frozenset([stated] if isinstance(stated, str) else stated) - OF_OTHER_STAGES
    if unknown := sorted(asked - COLUMNS):
        raise ConfigError(f"{key}={name} needs {unknown[0]}: there are {', '.join(sorted(COLUMNS | OF_OTHER_STAGES))}")
    return asked
