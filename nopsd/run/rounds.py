"""The rounds of a run (`rounds`): each a run folder of its own, RUN/round-1, RUN/round-2, …, with the model that the
round before exported.
"""

from __future__ import annotations

from dataclasses import replace

from nopsd.config import METHODS, Config
from nopsd.errors import ConfigError
from nopsd.run.folder import RunFolder


def rounds_of(config: Config) -> list[Config]:
    """The configuration of each round, in order; of one round the run's own.

    Raises:
        ConfigError: The method trains nothing, so that no round would differ from the first.
    """
    if config.rounds == 1:
        return [config]
    if METHODS[config.method].trainer is None:
        raise ConfigError(f"rounds={config.rounds}: method={config.method} trains nothing: set rounds=1")
    root, model, found = RunFolder(config.run_dir).root, config.model, list[Config]()
    for number in range(1, config.rounds + 1):
        one = replace(config, rounds=1, run_dir=str(root / f"round-{number}"), model=model)
        found.append(one)
        model = replace(config.model, path=str(RunFolder(one.run_dir).export), revision=None)
    return found


def check_one_round(config: Config) -> None:
    """For what works on one round: ConfigError if the run has several."""
    if config.rounds > 1:
        raise ConfigError(
            f"rounds={config.rounds}: `nopsd run` alone runs several: name one of them "
            f"(--config {config.run_dir}/round-1/config.yaml), or set rounds=1"
        )
