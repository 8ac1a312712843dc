"""What each stage will have to do, in numbers and at most (`--dry-run`). Pure.

In: the config, and how many questions there are (None where they can't be counted here). Out: a line of words a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nopsd.config import METHODS, Config
from nopsd.selection.selectors.choosing import budget
from nopsd.signals.needs import needed
from nopsd.train.epochs import settled


@dataclass(frozen=True)
class Counts:
    """Questions of the pool, and of the test by domain. `counted`: of the data themselves, not as published."""

    pool: int
    tests: Mapping[str, int]
    counted: bool = True


def workload(config: Config, stage: str, counts: Counts | None) -> str:
    """What the stage does with so many questions; without them, with as many as there will be."""
    pool = counts.pool if counts else None
    tests = sum(counts.tests.values()) if counts else None
    if stage == "data":
        return _data(counts)
    if stage in ("rollout", "neurons"):
        sampling = config.rollout_zs
        done = _responses(pool, sampling.n, sampling.max_new)
        return done if stage == "rollout" else f"{done} scored, on {config.dist.ranks} ranks"
    if stage in ("evaluate_base", "evaluate"):
        return _responses(tests, config.eval.n, config.eval.max_new)
    if stage == "signals":
        columns = sorted(needed(config.select, config.context))
        return f"columns {', '.join(columns)} of {_number(pool)} questions" if columns else "nothing is asked for"
    if stage == "select":
        return _select(config, pool)
    return _train(config, pool) if stage == "train" else ""


def chosen(config: Config, pool: int) -> int:
    """Questions that selection leaves; a threshold's ties may add some (`select.ties=include`)."""
    return pool if config.select.selector == "all" else budget(config.select.fraction, pool)


def _data(counts: Counts | None) -> str:
    if counts is None:
        return "questions that can't be counted here"
    tests = ", ".join(f"{number:,} of {domain}" for domain, number in counts.tests.items()) or "none"
    said = f"{counts.pool:,} questions in the pool; to test on: {tests}"
    return said if counts.counted else f"{said} (as published, not counted)"


def _responses(questions: int | None, n: int, longest: int) -> str:
    asked = f"{_number(questions)} questions x {n} responses of at most {longest:,} tokens"
    return asked if questions is None else f"{asked}: at most {_short(questions * n * longest)}"


def _select(config: Config, pool: int | None) -> str:
    context = config.context
    kept = "" if pool is None else f"{chosen(config, pool):,} of "
    shown = f"{context.m} demonstrations each by {context.retriever}" if context.retriever != "none" else "none shown"
    return f"{kept}{_number(pool)} questions by {config.select.selector}; {shown}"


def _train(config: Config, pool: int | None) -> str:
    train, trainer = config.train, METHODS[config.method].trainer
    if train.epochs is not None and pool is None:
        return f"{train.epochs:g} epochs of the questions selected, {train.batch} a step"
    steps = settled(train, chosen(config, pool)).steps if pool is not None else train.steps
    if trainer == "sft":
        kept = config.sft.per_question or config.rollout_zs.n
        longest = config.rollout_zs.max_new
        return f"at most {steps:,} steps of {train.batch} responses ({kept} a question) of at most {longest:,} tokens"
    each = _responses(train.batch, train.n, train.max_response)
    total = _short(steps * train.batch * train.n * train.max_response)
    prompts = f"; the teacher's prompts have at most {config.context.max_prompt:,}" if trainer == "distill" else ""
    return f"{steps:,} steps of {each}, {total} in all{prompts}"


def _number(count: int | None) -> str:
    return "all" if count is None else f"{count:,}"


def _short(tokens: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if tokens >= size:
            return f"{tokens / size:.1f} {name} tokens"
    return f"{tokens:,} tokens"
