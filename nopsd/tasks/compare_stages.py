"""What a comparison's run consists of, and which of its stages another run would make alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nopsd.config import METHODS, Config, to_plain
from nopsd.config.rules import value_of
from nopsd.files import sha256_json
from nopsd.reporting.compare.plan import Member
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder
from nopsd.run.stage import Stage
from nopsd.stages.registry import STAGES

SHARED = (names.DATA, names.ROLLOUT, names.EVALUATE_BASE, names.NEURONS, names.SIGNALS, names.SELECT)


def stages_of(config: Config) -> Sequence[Stage]:
    """What a run of the comparison consists of; the base is evaluated and no more."""
    untrained = METHODS[config.method].trainer is None
    return STAGES.with_inputs(names.EVALUATE_BASE, config) if untrained else STAGES.planned(config)


def made_from(stage: Stage, member: Member) -> str:
    """Equal for stages that `nopsd compare` makes once: settings and inputs are the same."""
    config = member.config
    if stage.name not in SHARED:
        return f"{stage.name} of {member.name}"
    values = {key: _plain(value_of(config, key)) for key in stage.keys(config)}
    inputs = [made_from(STAGES[name], member) for name in STAGES.reads(stage, config)]
    return sha256_json([stage.name, config.model.path, config.seed, values, inputs])


def unmade(member: Member) -> set[str]:
    """What a run still has to make and others would make alike, by `made_from`."""
    run = RunFolder(member.config.run_dir)
    stages = [stage for stage in stages_of(member.config) if stage.name in SHARED and run.manifest(stage.name) is None]
    return {made_from(stage, member) for stage in stages}


def _plain(value: Any) -> Any:
    return to_plain(value) if hasattr(value, "__dataclass_fields__") else value
