"""Labelled data sets besides the run's own, which `eval.targets` names: a preset, a file, or a hub data set.

In: the run's configuration. Out: its splits with these sets' test questions, each set under one domain, and their
answers. Their uids begin with the domain, so that no two sets' are the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nopsd.config import Config, DataConfig, load_config
from nopsd.config.preset import preset_names
from nopsd.data.overlap import decontaminated, identity
from nopsd.data.proposal import propose
from nopsd.data.raw_rows import read_raw_rows
from nopsd.data.records import AnswerKey, Question
from nopsd.data.sources import load_answer_key, load_splits
from nopsd.data.splits import Splits
from nopsd.errors import ConfigError, DataError

HUB_SPLIT = "test"  # of a hub data set that a target names


@dataclass(frozen=True)
class Target:
    """A labelled data set: what `eval.targets` calls it, its settings, and the domain that tables call it."""

    name: str
    data: DataConfig
    domain: str

    def uid(self, uid: str) -> str:
        """A question's uid among those of all data sets."""
        return f"{self.domain}/{uid}"

    def questions(self) -> list[Question]:
        """Its test questions, without answers. ConfigError if it has none."""
        tests = load_splits(self.data).tests
        found = (
            tests.get(self.data.domain, []) if is_preset(self.name) else [q for each in tests.values() for q in each]
        )
        if not found:
            raise ConfigError(f"eval.targets: {self.name} has no test questions with answers: leave it out")
        return [replace(q, uid=self.uid(q.uid), domain=self.domain) for q in found]

    def answers(self) -> AnswerKey:
        """uid -> gold answer. For evaluation alone."""
        return {self.uid(uid): gold for uid, gold in load_answer_key(self.data).items()}


def is_preset(name: str) -> bool:
    """Whether a target names a preset, or is a preset's YAML file."""
    return name in preset_names() or name.endswith((".yaml", ".yml"))


def is_other(name: str) -> bool:
    """Whether a target names a data set rather than a domain of the run's own."""
    return is_preset(name) or "/" in name or Path(name).exists()


def other_targets(config: Config, own: Sequence[str] | None = None) -> list[Target]:
    """The data sets that `eval.targets` names.

    Args:
        config: The run's.
        own: The domains of the run's own tests, which are no other data sets; None: they are looked up.
    """
    if not any(map(is_other, config.eval.targets)):
        return []
    known = list(load_splits(config.data).tests) if own is None else own
    taken, found = {*known, config.data.domain}, []
    for name in config.eval.targets:
        if name not in known and is_other(name):
            target = _target(name)
            found.append(replace(target, domain=name) if target.domain in taken else target)
            taken.add(found[-1].domain)
    return found


def _target(name: str) -> Target:
    if is_preset(name):
        data = load_config(name).data
        return Target(name, data, data.domain)
    path = Path(name)
    label = path.name.split(".")[0] if path.exists() else path.name
    rows = read_raw_rows(name, HUB_SPLIT)
    settings = propose([row.values for row in rows], label).settings
    data = replace(DataConfig(), **settings, path=name)
    if data.name == "file":  # all of its rows are the test
        data = replace(data, test_path=name) if path.exists() else replace(data, split=HUB_SPLIT, test_split=HUB_SPLIT)
    return Target(name, data, label)


def load_retained(config: Config) -> list[Question]:
    """The questions from elsewhere that `train.retain` names, without answers: a domain's or a preset's pool, all of a
    file's rows. Their uids begin with `retain/`.

    Raises:
        DataError: The data set can't be read, or is empty.
        ConfigError: The evaluation tests on the same file.
    """
    retain, name = config.train.retain, config.train.retain.data
    assert name is not None
    whole = is_other(name) and not is_preset(name)
    if whole and name in config.eval.targets:
        raise ConfigError(f"train.retain.data={name} is in eval.targets too: its test questions would be trained on")
    data = _target(name).data if is_other(name) else replace(config.data, domain=name)
    data = replace(data, holdout=0, pool_limit=None)
    if whole:
        data = replace(data, test_path=None, test_split=None, split=HUB_SPLIT if data.test_split else data.split)
    splits = load_splits(data)
    found = [*splits.pool, *(q for tests in splits.tests.values() for q in tests if whole)]
    shown = {identity(q) for q in load_splits(config.data).pool}
    found = sorted((q for q in found if identity(q) not in shown), key=lambda q: q.uid)
    if not found:
        raise DataError(f"train.retain.data={name} has no question that isn't in the pool: name another data set")
    drawn = random.Random(f"{config.train.seed}/retain").sample(found, min(retain.limit, len(found)))
    return [replace(q, uid=f"retain/{q.uid}") for q in drawn]


def load_run_splits(config: Config) -> Splits:
    """The pool, and the tests of the run's own data and of the other data sets in `eval.targets`; no answer is kept.

    Raises:
        DataError: A data set can't be read.
        ConfigError: One has no test questions.
    """
    splits = load_splits(config.data)
    others = other_targets(config, list(splits.tests))
    if not others:
        return splits
    tests = {**splits.tests, **{target.domain: target.questions() for target in others}}
    splits = replace(splits, tests=tests, targets={target.name: target.domain for target in others})
    return decontaminated(splits) if config.data.decontaminate else splits


def load_run_answers(config: Config) -> AnswerKey:
    """uid -> gold answer, of the run's own data and of the other data sets. For evaluation alone."""
    key = load_answer_key(config.data)
    for target in other_targets(config):
        key |= target.answers()
    return key
