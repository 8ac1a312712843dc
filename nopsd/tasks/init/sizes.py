"""Lengths and amounts that fit the questions: windows by the longest prompt, demonstrations and steps by the pool.

Pure. In: the choice of model, tokens of each prompt, the pool's and the tests' sizes, the model's window. Out:
settings with their reasons; nothing where the preset's own value serves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nopsd.config import Config
from nopsd.selection.selectors.choosing import asked_for

STEP = 256  # windows are rounded up to multiples of this many tokens
TRIAL_POOL, TRIAL_TEST, TRIAL_STEPS = 300, 60, 20  # of the embedded model: minutes on two cores
PASSES = 4  # over the selected questions, where the preset's steps would be more
LEAST_STEPS = 10

Settings = dict[str, tuple[Any, str]]


@dataclass(frozen=True)
class Lengths:
    """Tokens of the pool's and the tests' prompts; estimated from characters where the tokenizer isn't here."""

    prompts: Sequence[int]
    pool: int
    window: int | None
    estimated: bool = False

    @property
    def longest(self) -> int:
        return max(self.prompts)

    @property
    def said(self) -> str:
        """The longest prompt, in words."""
        return f"the longest prompt has {'about ' if self.estimated else ''}{self.longest} tokens"


def sizes(config: Config, lengths: Lengths, trial: bool) -> Settings:
    """Settings that fit a pool of this size.

    Args:
        config: Of the preset and the model's settings.
        lengths: Of the prompts in tokens, and the pool's size.
        trial: The embedded model's, small on purpose.
    """
    found: Settings = {}
    _windows(found, config, lengths)
    pool = min(lengths.pool, TRIAL_POOL) if trial else lengths.pool
    if trial:
        found["data.pool_limit"] = (TRIAL_POOL, "a trial: null takes all")
        found["eval.limit"] = (TRIAL_TEST, "a trial: null takes all")
        found["train.steps"] = (TRIAL_STEPS, "a trial: the lab's own runs have 150")
    if config.context.m >= pool:
        found["context.m"] = (max(pool - 1, 0), f"demonstrations; the pool has {pool} questions")
    chosen = asked_for(config.select, pool)
    steps = max(LEAST_STEPS, math.ceil(PASSES * chosen / config.train.batch))
    if not trial and steps < config.train.steps:
        found["train.steps"] = (steps, f"{PASSES} passes over the {chosen} questions of {pool} that are selected")
    return found


def _windows(found: Settings, config: Config, lengths: Lengths) -> None:
    window = lengths.window or 1 << 30
    answer = 0
    for key, length in _responses(config).items():
        if length > window // 2:
            length = window // 4
            found[key] = (length, f"a quarter of the model's window of {window} tokens")
        answer = max(answer, length)
    response = min(config.train.max_response, window // 4)
    needed = min(window, _rounded(lengths.longest + answer))
    if needed > config.server.max_model_len:
        found["server.max_model_len"] = (needed, f"{lengths.said}, and responses up to {answer}")
    elif config.server.max_model_len > window:
        found["server.max_model_len"] = (window, "the model's window")
    demonstrated = max(config.context.max_prompt, _rounded(lengths.longest * 2))
    demonstrated = min(demonstrated, window - response)
    if demonstrated != config.context.max_prompt:
        found["context.max_prompt"] = (demonstrated, f"tokens of a prompt with demonstrations; {lengths.said}")


def _responses(config: Config) -> dict[str, int]:
    return {
        "zero_shot.max_new": config.zero_shot.max_new,
        "train.max_response": config.train.max_response,
        "eval.max_new": config.eval.max_new,
    }


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def too_long(config: Config, lengths: Lengths) -> int:
    """How many prompts can't fit the model's window beside a response."""
    window = lengths.window or 1 << 30
    room = window - max(_responses(config).values())
    return sum(length > room for length in lengths.prompts)
