"""Where questions come from: one small module a data set, each with `load_splits` and `load_answers`.

`load_splits` is what stages before evaluation use; it keeps no answer column.
`load_answer_key` is for evaluation alone. Sources of a user's own rows also have `load_lines`. A data set of a user's
own is one function under `data_set` (see `own`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nopsd.config import ENTRY_POINTS, DataConfig
from nopsd.data.overlap import decontaminated
from nopsd.data.records import AnswerKey
from nopsd.data.sources.own import DataSet, data_set
from nopsd.data.splits import Splits, hold_out
from nopsd.errors import DataError
from nopsd.plugins import is_own, resolve

__all__ = ["DataSet", "data_set", "hub_id", "load_answer_key", "load_lines", "load_splits", "published_sizes"]

GROUP = ENTRY_POINTS["data.name"]  # of entry points

# Rows of the published sets, of SciKnowEval those of type mcq-4-choices.
PUBLISHED = {
    "sciknoweval": {"Biology": 3935, "Chemistry": 6263, "Material": 4956, "Physics": 3316},
    "mmlu_pro": {"mmlu_pro": 12032},
    "edu_feedback": {"edu_feedback": 1799},
    "svamp": {"svamp": 1000},
}
PUBLISHED_APART = {"gsm8k": (7473, {"gsm8k": 1319})}  # whose test rows are published apart from the pool's


OTHER_ROOMS = {"lab": "nopsd.lab.source"}  # a source that is not a module of this package


def _source(config: DataConfig) -> ModuleType | DataSet:
    if is_own(config.name, GROUP):
        return resolve("data.name", config.name, {}, GROUP, DataSet)
    return import_module(OTHER_ROOMS.get(config.name, f"nopsd.data.sources.{config.name}"))


def load_splits(config: DataConfig) -> Splits:
    """Pool, held-out and test questions, checked; no answer is read. Raises DataError."""
    splits: Splits = _source(config).load_splits(config)
    splits = decontaminated(splits) if config.decontaminate else splits
    if not splits.pool:
        raise DataError(
            f"the pool of data.name={config.name}, data.domain={config.domain} is empty: check data.path, data.domain, "
            "data.types and data.levels"
        )
    splits = hold_out(splits, config.holdout, config.seed)
    return replace(splits, pool=splits.pool[: config.pool_limit])


def load_answer_key(config: DataConfig) -> AnswerKey:
    """uid -> gold answer of every test question that has one. For evaluation only."""
    key: AnswerKey = _source(config).load_answers(config)
    return key


def load_lines(config: DataConfig) -> dict[str, str] | None:
    """uid -> the row as one line of JSON, as it stands in the user's own file, in file order; None if there is none.
    Rows come whole, whatever their columns are: for a copy of them alone."""
    source = _source(config)
    lines: dict[str, str] | None = source.load_lines(config) if hasattr(source, "load_lines") else None
    return lines


def hub_id(config: DataConfig) -> str | None:
    """The hub data set that `load_splits` would ask for; None if it reads local files, or makes its rows itself."""
    if config.path and Path(config.path).exists():
        return None
    own: str | None = getattr(_source(config), "HUB_ID", None)
    given = config.path if config.path and config.path.count("/") == 1 and not Path(config.path).suffix else None
    return given if config.name in ("file", "instructions") else own and (config.path or own)


def published_sizes(config: DataConfig) -> tuple[int, dict[str, int]] | None:
    """Sizes of the pool, and of each domain's test, as the published rows split; None for a user's own data, or other
    rows of a published set."""
    rows = PUBLISHED.get(config.name, {})
    whole = config.types == DataConfig().types and not config.levels
    if not whole or config.path or config.decontaminate:
        return None
    if config.name in PUBLISHED_APART:
        return PUBLISHED_APART[config.name]
    if config.domain not in rows:
        return None
    tests = {domain: math.ceil(Fraction(str(config.test_ratio)) * number) for domain, number in rows.items()}
    return rows[config.domain] - tests[config.domain] - (config.holdout or 0), tests
