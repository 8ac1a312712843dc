"""How often the conclusion without labels has the direction of the labelled change, over runs whose labels are hidden.

    python tools/hidden_labels.py runs/lab runs/compare/runs/*

In: run folders whose `evaluate_base` and `evaluate` stages have judged test questions. Every domain of a run is one
case: the conclusion is made from both models' answers alone, then its direction is set against Avg@k's change. Printed:
a markdown table, a row a case, and how often the conclusion, and the vote share's direction for comparison, were right
where both the change and the figure differ from 0 by more than their 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nopsd.config import EvalConfig
from nopsd.evaluation.artefacts import evaluated_domains, read_result
from nopsd.evaluation.bootstrap import Interval, paired_differences
from nopsd.evaluation.conclusion import conclude, points
from nopsd.evaluation.unlabelled import compare
from nopsd.reporting.table import markdown_table
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder

WORDS = {1: "better", -1: "worse", 0: "can't be told"}


@dataclass(frozen=True)
class Case:
    """One run's model on one domain."""

    name: str
    domain: str
    accuracy: Interval  # change of Avg@k
    vote_share: Interval
    base_vote: Interval
    concluded: int


def sign(change: Interval) -> int:
    """1 or -1 where the interval excludes no change, else 0."""
    if change.low is None or change.high is None:
        return 0
    return int(change.low > 0) - int(change.high < 0)


def cases_of(folder: Path, resamples: int = 1000) -> Iterator[Case]:
    """The domains that both models of a run were judged on; labels are looked at last."""
    run, config = RunFolder(folder), EvalConfig(bootstrap=resamples)
    base, trained = run.stage_dir(names.EVALUATE_BASE), run.stage_dir(names.EVALUATE)
    for domain in evaluated_domains(trained, "final"):
        before, after = read_result(base, "base", domain, config), read_result(trained, "final", domain, config)
        found = compare(before.rows, after.rows, resamples, config.seed)
        labelled = paired_differences([before.outcomes], [after.outcomes], config.ece_bins, resamples, config.seed)
        figures = found.figures
        moved = figures["vote_share"].change, figures["base_vote"].change
        yield Case(folder.name, domain, labelled["avg"], *moved, conclude(found).direction)


def table(cases: Sequence[Case]) -> str:
    """A row a case."""
    rows = [
        [
            f"{case.name}, {case.domain}",
            points(case.accuracy),
            points(case.vote_share),
            points(case.base_vote),
            WORDS[case.concluded],
            "–" if not (sign(case.accuracy) and case.concluded) else _yes(sign(case.accuracy) == case.concluded),
        ]
        for case in cases
    ]
    header = ["run, domain", "Avg (labels)", "vote share", "base's majority", "concluded", "right"]
    return markdown_table(header, rows)


def _yes(right: bool) -> str:
    return "yes" if right else "NO"


def tally(cases: Sequence[Case]) -> str:
    """How often the conclusion, and the vote share's direction, were right."""
    clear = [case for case in cases if sign(case.accuracy)]
    told = [case for case in clear if case.concluded]
    shared = [case for case in clear if sign(case.vote_share)]
    right = sum(case.concluded == sign(case.accuracy) for case in told)
    by_share = sum(sign(case.vote_share) == sign(case.accuracy) for case in shared)
    return (
        f"{len(cases)} cases, {len(clear)} with a clear labelled change. The conclusion told a direction in "
        f"{len(told)} of these, the right one in {right}. The vote share's direction was clear in {len(shared)}, right "
        f"in {by_share}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    cases = [case for folder in given.runs for case in cases_of(folder, given.resamples)]
    print(table(cases))
    print(tally(cases))


if __name__ == "__main__":
    main()
