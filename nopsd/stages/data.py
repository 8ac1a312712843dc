"""Stage `data`: read the questions, check everything that can be known before expensive work, write the pool.

No answer column is read here. Output: the files of `nopsd.data.artefacts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nopsd.config import METHODS, Config
from nopsd.data.artefacts import write_data
from nopsd.data.overlap import facts_of
from nopsd.data.prompts import PromptRenderer
from nopsd.data.records import Question, questions_hash
from nopsd.data.splits import Splits
from nopsd.errors import ConfigError, DataError
from nopsd.files import sha256_json
from nopsd.model_check import check_model
from nopsd.models import ModelFiles
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.selection.retrievers import find_retriever
from nopsd.selection.selectors import find_selector
from nopsd.selection.selectors.choosing import asked_for

ON_POLICY = ("distill", "grpo", "opsa")  # trainers that sample while they train


class Data(Stage):
    """Questions, checked, without their answers."""

    name = "data"
    does = "read and check the questions"
    config_keys = ("data", "prompt", "eval.targets", "eval.limit")

    def needed(self, config: Config) -> bool:
        """Always."""
        return True

    def made_from(self, session: Session) -> dict[str, Any]:
        """The questions' own content: an edited file is another input."""
        splits = session.splits
        held = [questions_hash(splits.held)] if splits.held else []
        parts = [questions_hash(splits.pool), *held, *(questions_hash(t) for _, t in sorted(splits.tests.items()))]
        if splits.responses is not None:
            parts.append(sha256_json([[q.uid, splits.responses[q.uid]] for q in splits.pool]))
        return {"pool": sha256_json(parts)}

    def check(self, session: Session) -> None:
        """The model's folder is whole and its tokenizer's."""
        check_model(session.model.path, session.config)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Sizes of the pool and of the tests."""
        if counts is None:
            return "questions that can't be counted here"
        tests = ", ".join(f"{number:,} of {domain}" for domain, number in counts.tests.items()) or "none"
        held = f", {counts.held:,} held out of it" if counts.held else ""
        said = f"{counts.pool:,} questions in the pool{held}; to test on: {tests}"
        return said if counts.counted else f"{said} (as published, not counted)"

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Check and write the questions."""
        prepare_data(session.config, session.model, session.renderer, session.splits, folder)

    def finish(self, session: Session) -> str | None:
        """What the tests share with the pool."""
        return "\n      ".join(session.run.data_overlap()) or None


def prepare_data(
    config: Config,
    model: ModelFiles,
    renderer: PromptRenderer,
    splits: Splits,
    folder: Path,
) -> None:
    """Write the stage's files. Raises DataError or ConfigError on input that later stages would fail on."""
    tests = chosen_tests(config, splits)
    check_pool(config, splits.pool)
    check_windows(config, model)
    check_sampling(config, bool(tests or splits.held), splits.responses is not None)
    if splits.responses is None:
        taught = METHODS[config.method].trainer == "distill"
        longest_pool = check_prompts(config, renderer, splits.pool, *longest_response(config), taught)
    else:
        longest_pool = check_given_prompts(renderer, splits.pool, model.window)
    everything = [q for questions in tests.values() for q in questions]
    longest_test = check_prompts(config, renderer, [*everything, *splits.held], config.eval.max_new, "eval.max_new")
    facts = {
        "pool": len(splits.pool),
        "tests": {name: len(t) for name, t in tests.items()},
        "held_out": len(splits.held),
        "note": splits.note,
        "pool_hash": questions_hash(splits.pool),
        "longest_prompt": {"pool": longest_pool, "tests": longest_test},
        **facts_of(splits),
    }
    write_data(folder, splits, everything, facts)


def chosen_tests(config: Config, splits: Splits) -> dict[str, list[Question]]:
    """Test questions by domain: those of eval.targets and the pool's own, `eval.limit` of each."""
    targets = [splits.targets.get(name, name) for name in config.eval.targets]
    unknown = [t for t in targets if t not in splits.tests]
    if unknown:
        raise ConfigError(
            f"eval.targets: no test questions for {', '.join(unknown)}; there are: {', '.join(splits.tests) or 'none'} "
            "(other data sets: a preset, a file that is there, or a hub id)"
        )
    wanted = {config.data.domain, *targets} if targets else set(splits.tests)
    return {name: questions[: config.eval.limit] for name, questions in splits.tests.items() if name in wanted}


def check_pool(config: Config, pool: Sequence[Question]) -> None:
    """The pool has enough questions for context.m demonstrations and for what select asks for; DataError if not."""
    needed = config.context.m + 1 if find_retriever(config.context).from_pool else 1
    if len(pool) < needed:
        raise DataError(
            f"the pool has {len(pool)} questions, and context.m={config.context.m} demonstrations need at least "
            f"{needed}: lower context.m or give more questions"
        )
    if METHODS[config.method].trainer is None or find_selector(config.select).keep == "all":
        return
    for domain, size in Counter(question.domain for question in pool).items():
        if not 0 < asked_for(config.select, size) <= size:
            key = "fraction" if config.select.count is None else "count"
            raise DataError(
                f"select.{key}={getattr(config.select, key)} of the {size} questions of {domain} is "
                f"{asked_for(config.select, size)}: change it, or give more questions"
            )


def check_windows(config: Config, model: ModelFiles) -> None:
    """Lengths that can't fit the model's or the server's window, by key."""
    teacher = config.context.max_prompt + config.train.max_response
    if teacher > model.window and METHODS[config.method].trainer == "distill":
        raise ConfigError(
            f"context.max_prompt={config.context.max_prompt} + train.max_response={config.train.max_response} is "
            f"more than the model's window of {model.window} tokens: lower one of them"
        )
    if config.server.max_model_len > model.window:
        raise ConfigError(
            f"server.max_model_len={config.server.max_model_len} is over the model's window of {model.window} tokens"
        )


def check_sampling(config: Config, tested: bool, given: bool) -> None:
    """Greedy sampling gives one response. `tested`: there are test questions; `given`: the pool has its responses."""
    trains = METHODS[config.method].trainer in ON_POLICY
    for name, asked in (("zero_shot", not given), ("eval", tested), ("train", trains)):
        section = getattr(config, name)
        if asked and section.temperature == 0 and section.n > 1:
            raise ConfigError(
                f"{name}.temperature=0 gives one response to a question, and {name}.n={section.n}: set {name}.n=1, or "
                "a temperature above 0"
            )


def longest_response(config: Config) -> tuple[int, str]:
    """The most tokens that the pool's questions are answered with, and the key that sets it."""
    zero_shot, train = config.zero_shot.max_new, config.train.max_response
    if METHODS[config.method].trainer in ON_POLICY and train > zero_shot:
        return train, "train.max_response"
    return zero_shot, "zero_shot.max_new"


def check_prompts(
    config: Config,
    renderer: PromptRenderer,
    questions: Sequence[Question],
    max_new: int,
    key: str,
    taught: bool = False,
) -> int:
    """Tokens of the longest zero-shot prompt; DataError if one and its answer can't fit the server's window, or if one
    is too long for a teacher's prompt without any demonstration, where the questions are `taught`."""
    longest = 0
    room = config.server.max_model_len - max_new
    for question in questions:
        length = len(renderer.student(question))
        if length > room:
            raise DataError(
                f"question {question.uid}: a prompt of {length} tokens and {key}={max_new} exceed "
                f"server.max_model_len={config.server.max_model_len}: raise it, lower {key}, or remove the question"
            )
        if taught and length > config.context.max_prompt:
            raise DataError(
                f"question {question.uid}: its prompt alone is {length} tokens, over context.max_prompt="
                f"{config.context.max_prompt}: raise context.max_prompt, or remove the question"
            )
        longest = max(longest, length)
    return longest


def check_given_prompts(renderer: PromptRenderer, questions: Sequence[Question], window: int) -> int:
    """Tokens of the longest prompt; DataError if one leaves its given response no room in the model's window."""
    longest = 0
    for question in questions:
        length = len(renderer.student(question))
        if length >= window:
            raise DataError(
                f"question {question.uid}: a prompt of {length} tokens leaves no room for its response in the "
                f"model's window of {window}: shorten or remove the row"
            )
        longest = max(longest, length)
    return longest
