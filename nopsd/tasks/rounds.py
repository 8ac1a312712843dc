"""`nopsd run` with several rounds: one whole run after the other, and what all of them together changed.

Each round is brought up to date as a run of its own, so what is there is left alone, and a command that was killed goes
on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nopsd.config import Config, to_yaml
from nopsd.errors import ConfigError
from nopsd.files import write_atomic
from nopsd.keys import without_keys
from nopsd.reporting.summary import summary_table
from nopsd.run import runner
from nopsd.run.rounds import rounds_of
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES
from nopsd.stages.report import final_message, results

SUMMARY = "rounds.md"


def run_rounds(config: Config, redo: str | None = None) -> str:
    """Bring all rounds up to date. Returns what to print at the end.

    Args:
        config: The run's, with `rounds` above 1.
        redo: Refused: it isn't said in which round.

    Raises:
        UserError: A stage failed.
    """
    if redo is not None:
        raise ConfigError(
            f"--redo {redo}: the run has {config.rounds} rounds: delete the folder of the round that is to be done "
            f"again, and of those after it ({config.run_dir}/round-N)"
        )
    rounds, settings = rounds_of(config), Path(config.run_dir) / "config.yaml"
    for number, one in enumerate(rounds, 1):
        print(f"\n=== round {number} of {len(rounds)}: {one.run_dir}", flush=True)
        if not settings.exists():  # for `nopsd status`, and to go on with
            write_atomic(settings, to_yaml(without_keys(config)))
        session = runner.run_all(STAGES, one)
        write_atomic(settings, to_yaml(without_keys(config)))  # those that the round's stages agreed to
    if not session.tests:
        return final_message(session)
    tables = rounds_tables(rounds, "markdown")
    write_atomic(settings.with_name(SUMMARY), "\n".join(f"## {title}\n\n{table}" for title, table in tables))
    title, table = rounds_tables(rounds)[-1]
    return f"{final_message(session)}\n\n{title}\n\n{table}\nall rounds  {settings.with_name(SUMMARY)}"


def rounds_tables(rounds: Sequence[Config], style: str = "text") -> list[tuple[str, str]]:
    """A title and a table for each round: its model against the base model that the first round began with."""
    base, domain = results(Session(rounds[0]), "base"), rounds[0].data.domain
    return [
        (
            f"After round {number}, from the first base",
            summary_table(base, results(Session(one), "final"), domain, style),
        )
        for number, one in enumerate(rounds, 1)
    ]
