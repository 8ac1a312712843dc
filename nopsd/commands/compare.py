"""`nopsd compare`: sources x methods x seeds, in the paper's tables."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command
from nopsd.config import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A plan, from a file or from flags."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of every run; ROW:key=value of one source, target or method",
    )
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="YAML, or a shipped plan: paper, ablations, transfer; flags win over it and pick of its rows (keys: "
        "nopsd/reporting/compare/plan.py)",
    )
    parser.add_argument("--preset", metavar="NAME", help="of every run")
    parser.add_argument("--folder", metavar="DIR", help="where everything goes (default runs/compare)")
    parser.add_argument("--sources", type=_names, metavar="A,B", help="domains to train on")
    parser.add_argument("--targets", type=_names, metavar="A,B", help="more domains to evaluate on")
    parser.add_argument("--methods", type=_names, metavar="A,B", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=_numbers, metavar="0,1", help="a run each")
    parser.add_argument(
        "--vary", choices=("seed", "train.seed"), help="what a seed seeds: everything, or training alone"
    )
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="runs at a time, each on its share of the GPUs or cores (default 1)"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CHECKPOINT",
        help="evaluate this checkpoint too; METHOD@SOURCE=CHECKPOINT puts it into a row",
    )
    parser.add_argument("--entropy", choices=("shannon", "topk20", "nll"), help="estimator of Table 6")
    parser.add_argument(
        "--no-diagnostics",
        dest="diagnostics",
        action="store_const",
        const=False,
        help="leave out Tables 5 and 6, which sample more",
    )
    parser.add_argument("--dry-run", action="store_true", help="check every run and estimate the cost; start nothing")
    parser.add_argument("--json", action="store_true", help="print the tables as JSON, and progress on standard error")


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in _names(text)]


def run(arguments: argparse.Namespace) -> int:
    """Run the plan; 1 if a run failed, the tables are made from the others."""
    from nopsd.reporting.compare.plan import FLAGS, as_tree, read_plan, read_plan_file, with_flags
    from nopsd.reporting.compare.shipped import plan_path, split_settings, with_row_settings
    from nopsd.tasks.compare import run_plan
    from nopsd.tasks.compare_dry_run import dry_run

    overrides, of_rows = split_settings(arguments.overrides)
    tree = as_tree({key: getattr(arguments, key) for key in FLAGS}, arguments.also, overrides)
    if arguments.plan is not None:
        tree = with_flags(read_plan_file(plan_path(arguments.plan)), tree)
    plan = read_plan(with_row_settings(tree, of_rows), arguments.plan or "nopsd compare")
    if arguments.dry_run:
        text, code = dry_run(plan)
        print(text)
        return code
    return run_plan(plan, arguments.json)


COMMAND = Command(
    "compare",
    "train and evaluate sources x methods x seeds; write the tables",
    add_arguments,
    run,
    """\
  nopsd compare --preset lab --sources biology,chemistry --methods nopsd,ttrl --seeds 0,1,2
  nopsd compare --plan paper --dry-run                    the paper's tables: every run checked, and the cost
  nopsd compare --plan plan.yaml --methods nopsd          this row of the file's alone
  nopsd compare --preset lab --sources biology --methods nopsd train.steps=20""",
    {1: "it could not start, or a run failed: the tables are made from the others"},
)
