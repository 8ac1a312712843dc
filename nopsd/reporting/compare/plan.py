"""What `nopsd compare` is asked for, typed: a YAML file or flags, and the runs that follow from it.

    preset: lab                       # of every run; a source may have its own
    folder: runs/compare
    sources: [biology, chemistry]     # or NAME: {preset: paper/biology, set: {data.name: ...}}; NAME is the domain
    targets: {mmlu_pro: {set: {data.name: mmlu_pro}}}    # evaluated on, never trained on
    methods: [nopsd, ttrl]            # or LABEL: {method: nopsd, set: {select.selector: neuron_count_top}, seeds: [0]}
    seeds: [0, 1, 2]
    vary: seed                        # or train.seed: the same rollouts and selection, other training
    parallel: 2                       # runs at a time, each on its share of this host's GPUs, or of the CPU's cores
    set: {train.steps: 50}            # of every run
    also: {NAME: {path: DIR, method: nopsd, source: biology}}   # checkpoints that are there; source may be left out,
                                                                # base: PATH is needed where runs have several models

Order, later wins: the method's own settings < preset < set < the source's < the method's. Unknown keys are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nopsd.config import METHODS, Config, load_config
from nopsd.config.values import NULL, Plain, read_yaml
from nopsd.engine.device import with_settled_dtype
from nopsd.errors import ConfigError
from nopsd.files import file_name

VARIED = ("seed", "train.seed")
# Keys of a plan that flags of the same names give.
FLAGS = ("preset", "folder", "sources", "targets", "methods", "seeds", "vary", "parallel", "entropy", "diagnostics")


@dataclass
class SourcePlan:
    """A domain to train or to evaluate on."""

    preset: Optional[str] = None  # null: the plan's
    set: dict[str, Any] = field(default_factory=dict)


@dataclass
class MethodPlan:
    """A row of the tables."""

    method: str = ""  # empty: the label
    set: dict[str, Any] = field(default_factory=dict)
    seeds: Optional[list[int]] = None  # of the plan's, those that this row has; null: all


@dataclass
class AlsoPlan:
    """A checkpoint that somebody else trained."""

    path: str = ""
    method: str = ""  # the row it belongs to; empty: its own name
    source: str = ""  # the domain it was trained on; empty: none of the sources
    base: str = ""  # path of the model it was trained from; may be empty where all runs have the same


@dataclass
class Plan:
    """The whole comparison."""

    preset: Optional[str] = None
    folder: str = "runs/compare"
    sources: dict[str, SourcePlan] = field(default_factory=dict)
    targets: dict[str, SourcePlan] = field(default_factory=dict)
    methods: dict[str, MethodPlan] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    vary: str = "seed"
    parallel: int = 1
    set: dict[str, Any] = field(default_factory=dict)
    also: dict[str, AlsoPlan] = field(default_factory=dict)
    diagnostics: bool = True  # Tables 5 and 6 of the runs of method nopsd, first seed
    entropy: str = "shannon"  # shannon|topk20|nll, of Table 6


@dataclass(frozen=True)
class Member:
    """One run."""

    label: str  # of its row
    source: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        return f"{self.label}, {self.source}, seed {self.seed}"


def read_plan(tree: Mapping[str, Any], where: str) -> Plan:
    """A Plan from plain data; lists of sources, targets and methods are names without settings. Raises ConfigError."""
    tree = dict(tree)
    for key in ("sources", "targets", "methods"):
        if isinstance(tree.get(key), list):
            tree[key] = {str(name): {} for name in tree[key]}
        if isinstance(tree.get(key), Mapping):
            tree[key] = {str(name): value or {} for name, value in tree[key].items()}
    try:
        plan: Plan = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Plan), as_text(tree)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from error
    plan.folder = os.path.expanduser(plan.folder)
    for also in plan.also.values():
        also.path, also.base = os.path.expanduser(also.path), os.path.expanduser(also.base)
    check_plan(plan, where)
    return plan


def as_text(value: Any) -> Any:
    """A tree in which `${…}` is text: OmegaConf would read any variable of the environment by `${oc.env:…}`."""
    if isinstance(value, Mapping):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def read_plan_file(path: str | Path) -> dict[str, Any]:
    """The file's tree; ConfigError if it can't be read."""
    try:
        tree = _as_written(read_yaml(Path(path).expanduser().read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"--plan {path}: can't be read ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--plan {path}: the top level must be a mapping of keys")
    return tree


def _as_written(node: Any) -> Any:
    """Scalars as text, for a domain `no` is no False: each key's type reads it. null is None."""
    if isinstance(node, dict):
        return {str(key): _as_written(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    return None if isinstance(node, Plain) and node in NULL else str(node)


def check_plan(plan: Plan, where: str) -> None:
    """ConfigError for what the types can't say."""
    if not plan.sources:
        raise ConfigError(f"{where}: no sources: name at least one domain to train on")
    if not plan.methods and not plan.also:
        raise ConfigError(f"{where}: no methods: name at least one of {', '.join(METHODS)}, or a checkpoint in `also`")
    for label, method in plan.methods.items():
        if (method.method or label) not in METHODS:
            raise ConfigError(
                f"{where}: methods.{label}: {method.method or label} is no method; there are {', '.join(METHODS)} "
                f"(another label needs `method:`)"
            )
    if len(set(plan.seeds)) != len(plan.seeds) or not plan.seeds:
        raise ConfigError(f"{where}: seeds {plan.seeds}: give each once, and at least one")
    if plan.methods and not any(seeds_of(plan, label) for label in plan.methods):
        raise ConfigError(f"{where}: seeds {plan.seeds}: none of the rows has one of them: see `seeds` of each method")
    if plan.parallel < 1:
        raise ConfigError(f"{where}: parallel={plan.parallel}: give the number of runs at a time, 1 or more")
    for key, value, allowed in (("vary", plan.vary, VARIED), ("entropy", plan.entropy, ("shannon", "topk20", "nll"))):
        if value not in allowed:
            raise ConfigError(f"{where}: {key}={value}: use one of {', '.join(allowed)}")
    for name, also in plan.also.items():
        if not also.path:
            raise ConfigError(f"{where}: also.{name}: give its `path`, a checkpoint's folder or hub id")
        if also.source and also.source not in plan.sources:
            raise ConfigError(f"{where}: also.{name}: source {also.source} is none of {', '.join(plan.sources)}")
        if not also.source and (name in plan.methods or name.lower() == "base"):
            raise ConfigError(f"{where}: also.{name}: the name is another row's: choose another, or say its source")


def trained(plan: Plan) -> list[str]:
    """Labels of the rows that train; `base` is every run's own first evaluation."""
    return [label for label, m in plan.methods.items() if METHODS[m.method or label].trainer is not None]


def members(plan: Plan) -> list[Member]:
    """All runs, validated: seed by seed and source by source, so that neighbours share most. Raises ConfigError."""
    labels = trained(plan) or ["base"]
    return [
        Member(label, source, seed, run_config(plan, label, source, seed))
        for seed in plan.seeds
        for source in plan.sources
        for label in labels
        if seed in seeds_of(plan, label)
    ]


def seeds_of(plan: Plan, label: str) -> list[int]:
    """Those of the plan's seeds that a row has."""
    own = plan.methods.get(label, MethodPlan()).seeds
    return plan.seeds if own is None else [seed for seed in plan.seeds if seed in own]


def base_seed(plan: Plan, seed: int) -> int:
    """The seed with which the base model is evaluated for runs of `seed`: one for all where training alone varies."""
    return seed if plan.vary == "seed" else plan.seeds[0]


def run_config(plan: Plan, label: str, source: str, seed: int) -> Config:
    """The configuration of one run."""
    method = plan.methods.get(label, MethodPlan())
    folder = Path(plan.folder) / "runs" / file_name(f"{label}-{source}-{seed}")
    fixed = {"method": method.method or label, plan.vary: seed, "run_dir": str(folder)}
    return _load(plan, source, {**method.set, **fixed}, f"methods.{label}, sources.{source}")


def target_config(plan: Plan, target: str, model: str, seed: int) -> Config:
    """The configuration that evaluates a model on a data set of the plan.

    Args:
        plan: The comparison's.
        target: Name of a source or a target.
        model: Its folder, or a hub id.
        seed: Of `plan.vary`.
    """
    folder = str(Path(plan.folder) / "also")
    wanted: dict[str, Any] = {"model.path": model, plan.vary: seed, "run_dir": folder}
    if target not in plan.sources:  # of its data set, this domain alone
        wanted["eval.targets"] = [target]
    return _load(plan, target, wanted, f"targets.{target}")


def base_paths(runs: Sequence[Member]) -> list[str]:
    """The base models' paths, in the order of the runs."""
    return list(dict.fromkeys(member.config.model.path for member in runs))


def base_of(also: AlsoPlan, name: str, runs: Sequence[Member]) -> str:
    """Path of the model that a checkpoint was trained from.

    Args:
        also: The checkpoint's entry.
        name: Of that entry.
        runs: The comparison's, whose model it is if they have one alone.

    Raises:
        ConfigError: It isn't known.
    """
    paths = base_paths(runs)
    if not also.base and len(paths) > 1:
        raise ConfigError(f"also.{name}: the runs have the models {', '.join(paths)}: give its `base`")
    return also.base or paths[0]


def _load(plan: Plan, source: str, last: Mapping[str, Any], where: str) -> Config:
    entry = plan.sources.get(source) or plan.targets[source]
    settings = {"data.domain": source, **plan.set, **entry.set, **last}
    try:
        overrides = [f"{key}={_value(v)}" for key, v in settings.items()]
        return with_settled_dtype(load_config(entry.preset or plan.preset, overrides))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _value(value: Any) -> str:
    """As it would be typed: JSON is YAML, which lists are read as."""
    return value if isinstance(value, str) else json.dumps(value)


def domains(plan: Plan) -> list[str]:
    """All domains that models are evaluated on, sources first."""
    return list(dict.fromkeys([*plan.sources, *plan.targets]))


def as_tree(flags: Mapping[str, Any], also: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """The command's flags as a plan's tree.

    Args:
        flags: Sections by name; None where a flag wasn't given.
        also: NAME=PATH or METHOD@SOURCE=PATH.
        overrides: KEY=VALUE, of every run.

    Raises:
        ConfigError: One of another form.
    """
    tree = {key: value for key, value in flags.items() if value is not None}
    for item in [*also, *overrides]:
        if "=" not in item:
            raise ConfigError(f"{item!r}: write NAME=value")
    for item in also:
        name, path = item.split("=", 1)
        method, at, source = name.partition("@")
        entry = {"path": path, **({"method": method, "source": source} if at else {})}
        tree.setdefault("also", {})[name] = entry
    if overrides:
        pairs = dict(item.split("=", 1) for item in overrides)
        tree["set"] = {**tree.get("set", {}), **pairs}
    return tree


def with_flags(plan: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags over the file's keys; `set` and `also` are added to; a row that a flag names keeps the file's settings."""
    both = {key: {**(plan.get(key) or {}), **flags[key]} for key in ("set", "also") if key in flags}
    named = {key: _settings_of(plan.get(key), flags[key]) for key in ("sources", "targets", "methods") if key in flags}
    return {**plan, **flags, **both, **named}


def _settings_of(rows: Any, names: Sequence[str]) -> dict[str, Any]:
    """Names -> the file's settings of each; a name that the file lacks has none."""
    settings = rows if isinstance(rows, Mapping) else {}
    return {name: settings.get(name) for name in names}
