"""What a stage is: the protocol that runner, dry run and launcher know a stage by, and stages in their order.

A stage names the stages whose artefacts it reads and the config keys that shape its own; with the model's hash, the
seed and what else it declares, these are its fingerprint (see `nopsd.run.folder`). Everything that is particular to a
stage is a member of its class, in one file of `nopsd.stages`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

from nopsd.config import METHODS, Config
from nopsd.errors import ConfigError
from nopsd.run.folder import GENERATION, TOKENIZER
from nopsd.run.session import Session

Progress = Callable[..., None] | None


@dataclass(frozen=True)
class Counts:
    """Questions of the pool, of the test by domain, and held out. `counted`: of the data, not as published."""

    pool: int
    tests: Mapping[str, int]
    counted: bool = True
    held: int = 0


class Stage(ABC):
    """One stage. The class attributes are what most stages need; a stage overrides the methods where it differs."""

    name: ClassVar[str]
    does: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ()
    config_keys: ClassVar[tuple[str, ...]] = ()
    distributed: ClassVar[bool] = False
    finishes_step: ClassVar[bool] = False  # on SIGTERM it finishes and saves what it is at
    remade_for: ClassVar[tuple[str, ...]] = ()  # what of its fingerprint may change without its being refused
    on_request: ClassVar[bool] = False  # may be run alone where the method doesn't need it

    def title(self, config: Config) -> str:
        """What it does, in words."""
        return self.does

    def needed(self, config: Config) -> bool:
        """Whether a run of this method has the stage."""
        return METHODS[config.method].trainer is not None

    def reads(self, config: Config) -> tuple[str, ...]:
        """The stages whose artefacts it reads, where these are needed."""
        return self.inputs

    def keys(self, config: Config) -> tuple[str, ...]:
        """The config keys that shape its artefact."""
        return self.config_keys

    def made_from(self, session: Session) -> dict[str, Any]:
        """What else enters its fingerprint, as plain values."""
        return {}

    def runs_here(self, config: Config) -> bool:
        """Whether the process that the user started does the work itself, without ranks."""
        return not self.distributed

    def asks_server(self, config: Config) -> bool:
        """Whether its ranks talk to the rollout server."""
        return False

    def check(self, session: Session) -> None:  # noqa: B027 - most stages have nothing to check
        """Raise a UserError for what can be known to fail before any stage runs."""

    def workload(self, config: Config, counts: Counts | None) -> str:
        """What it will have to do, in numbers and at most, for the dry run; `counts`: None if unknown."""
        return ""

    def outdated_with(self, redone: str) -> bool:
        """Whether it is redone with `redone`, though it doesn't read it, if its settings have changed."""
        return False

    @abstractmethod
    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Make the artefact in `folder`. With `session.ranks`, run by every rank."""

    def finish(self, session: Session) -> str | None:
        """After the artefact is sealed, in the process that the user started: a line to print."""
        return None


class Stages:
    """Stages in the order in which they run, and what follows from the order."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.names = tuple(stage.name for stage in stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __getitem__(self, name: str) -> Stage:
        return self.stages[self.names.index(name)]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def planned(self, config: Config) -> list[Stage]:
        """The stages of a run of this method."""
        return [stage for stage in self.stages if stage.needed(config)]

    def reads(self, stage: Stage, config: Config) -> tuple[str, ...]:
        """The needed stages whose artefacts `stage` is made from."""
        return tuple(name for name in stage.reads(config) if self[name].needed(config))

    def with_inputs(self, name: str, config: Config) -> list[Stage]:
        """A stage and all that it reads, directly or through others, in order. ConfigError if the method has none."""
        if not (self[name].needed(config) or self[name].on_request):
            raise ConfigError(f"method={config.method} ({METHODS[config.method].does}) has no stage {name}")
        wanted = {name}
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted.update(self.reads(stage, config))
        return [stage for stage in self.stages if stage.name in wanted]

    def place(self, stage: Stage, config: Config) -> tuple[int, int]:
        """The stage's place among those of a run, from 1, and how many these are."""
        names = [s.name for s in self.planned(config)]
        if stage.name not in names:
            names = list(self.names)
        return names.index(stage.name) + 1, len(names)

    def fingerprint(self, session: Session, stage: Stage) -> dict[str, Any]:
        """Everything the stage's artefact is made from, as plain values."""
        return fingerprint(session, stage, self.reads(stage, session.config))


def fingerprint(session: Session, stage: Stage, reads: Sequence[str]) -> dict[str, Any]:
    """The model's hashes, the seed, the values of the stage's keys, what else it declares, and its inputs' hashes."""
    model = session.model
    made: dict[str, Any] = {"model": model.hash, TOKENIZER: model.tokenizer, GENERATION: model.generation}
    made["seed"] = session.config.seed
    for key in stage.keys(session.config):
        value = reduce(getattr, key.split("."), session.config)
        made[key] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    made |= stage.made_from(session)
    for name in reads:
        made[f"input.{name}"] = session.run.stage_hash(name)
    return made
