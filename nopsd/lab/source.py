"""The embedded synthetic world (`nopsd.lab.world`): four domains, pools of 1,600, 250 test questions each."""

from __future__ import annotations

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey
from nopsd.data.splits import Splits
from nopsd.errors import DataError
from nopsd.lab.world import DOMAIN_BY_NAME, make_split


def load_splits(config: DataConfig) -> Splits:
    """Pool of the domain, tests of all domains."""
    if config.domain not in DOMAIN_BY_NAME:
        raise DataError(f"data.domain={config.domain}: the lab has {', '.join(DOMAIN_BY_NAME)}")
    tests = {name: make_split(domain, "test").questions for name, domain in DOMAIN_BY_NAME.items()}
    return Splits(make_split(DOMAIN_BY_NAME[config.domain], "pool").questions, tests)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    key: AnswerKey = {}
    for domain in DOMAIN_BY_NAME.values():
        key.update(make_split(domain, "pool").answers)
        key.update(make_split(domain, "test").answers)
    return key
