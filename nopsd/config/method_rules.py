"""Which keys go with which method (SPEC §8). In: a Config, or a key. Out: ConfigErrors; keys without a meaning."""

from __future__ import annotations

from functools import reduce

from nopsd.config.methods import METHODS
from nopsd.config.schema import Config
from nopsd.errors import ConfigError

# Sections, and keys of sections, that a trainer never looks at; distill.logit_chunk is every trainer's memory.
FOREIGN: dict[str | None, tuple[str, ...]] = {
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
    ),
    "grpo": ("distill.", "teacher.", "sft."),
    None: (),  # nothing is trained, whatever is set
}
SHARED = ("distill.logit_chunk",)


def is_foreign(method: str, key: str) -> bool:
    """Whether the dotted key means nothing to the method."""
    named = FOREIGN[METHODS[method].trainer]
    return key not in SHARED and any(key.startswith(name) if name.endswith(".") else key == name for name in named)


def check_method(config: Config) -> None:
    """ConfigError for keys by which the method would be another one, or could not be run."""
    method = METHODS[config.method]
    for key, value in method.means.items():
        given = reduce(getattr, key.split("."), config)
        if given != value:
            raise ConfigError(
                f"{key}={given} is not method={config.method} ({method.does}), which means "
                f"{key}={value}: leave {key} out, or name another method (nopsd takes any selector and retriever)"
            )
    if method.trainer in ("sft", "grpo") and config.context.retriever != "none":
        raise ConfigError(
            f"method={config.method} shows no demonstrations, and context.retriever={config.context.retriever}: "
            "set context.retriever=none"
        )
    _check_counts(config)
    if method.trainer == "sft":
        _check_sft(config)
    if method.trainer == "grpo":
        _check_grpo(config)
    if method.trainer != "distill" and config.train.keep_best and config.train.best_by == "kl_reverse":
        raise ConfigError(
            f"train.best_by=kl_reverse: method={config.method} has no teacher to measure it to: set train.best_by=loss"
        )


def _check_counts(config: Config) -> None:
    train = config.train
    if train.epochs is not None and train.epochs <= 0:
        raise ConfigError(f"train.epochs={train.epochs:g}: must be above 0, or null for train.steps")
    if train.warmup_ratio is not None and not 0 <= train.warmup_ratio < 1:
        raise ConfigError(
            f"train.warmup_ratio={train.warmup_ratio:g}: must be at least 0 and below 1, or null for train.warmup"
        )


def _check_sft(config: Config) -> None:
    if config.rollout_zs.n < 2:
        raise ConfigError(
            f"method={config.method} votes over several answers of one question, and rollout_zs.n="
            f"{config.rollout_zs.n}: set rollout_zs.n=8, say"
        )
    if not 0 <= config.sft.min_share <= 1:
        raise ConfigError(f"sft.min_share={config.sft.min_share:g}: must be at least 0 and at most 1")


def _check_grpo(config: Config) -> None:
    train = config.train
    if train.n < 2:
        raise ConfigError(
            f"method={config.method} compares several responses to one question, and train.n={train.n}: "
            "set train.n=8, say"
        )
    if train.temperature != 1:
        raise ConfigError(
            f"method={config.method} compares log-probs with the server's, which have temperature 1, and "
            f"train.temperature={train.temperature:g}: set train.temperature=1"
        )
