"""`nopsd launch`: a stage, or all, on the hosts of a hostfile."""

from __future__ import annotations

import argparse
from pathlib import Path

from nopsd.commands import stages
from nopsd.commands.command import ALIASES, Command, add_config_arguments, add_redo_argument, load, stage_name

TARGETS = ("run", *stages.HELP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is launched, where, and how often after a loss."""
    parser.add_argument("target", choices=TARGETS, metavar="run|STAGE", help="what is launched")
    add_config_arguments(parser)
    add_redo_argument(parser)
    parser.add_argument("--hostfile", metavar="FILE", help="lines `HOST slots=N` (dist.hostfile)")
    parser.add_argument("--launcher", help="pdsh, openmpi, mpich, slurm or no_ssh (dist.launcher)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument("--node-rank", type=int, metavar="I", help="start the ranks of node I alone, here")
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="N", help="start again after a lost rank or host, at most N times"
    )
    parser.add_argument("--min-nodes", type=int, metavar="M", help="restart on fewer hosts too, at least M")


def run(arguments: argparse.Namespace) -> int:
    """Launch, or print what would be launched."""
    from nopsd.errors import ConfigError

    given = []
    if arguments.hostfile:
        given.append(f"dist.hostfile={Path(arguments.hostfile).absolute()}")
    if arguments.launcher:
        given.append(f"dist.launcher={arguments.launcher}")
    config = load(arguments, *given)
    if arguments.min_nodes is not None and config.dist.hostfile is None:
        raise ConfigError("--min-nodes needs a hostfile: give --hostfile FILE")
    from nopsd.tasks import launch

    target = ALIASES.get(arguments.target, arguments.target)
    if arguments.node_rank is not None:
        return launch.one_node(config, target, arguments.node_rank, arguments.dry_run)
    if arguments.dry_run:
        kept = [item for item in arguments.overrides if not item.startswith("preset=")]
        print(launch.described(config, target, [*kept, *given]))
        return 0
    launch.launch(config, target, stage_name(arguments.redo), arguments.restarts, arguments.min_nodes)
    return 0


COMMAND = Command(
    "launch",
    "run all stages, or one, on the hosts of a hostfile",
    add_arguments,
    run,
    """\
  nopsd launch run --hostfile hosts --preset paper/biology
  nopsd launch train --hostfile hosts --preset paper/biology --dry-run
  nopsd launch run --hostfile hosts --preset paper/biology --restarts 3 --min-nodes 2
  nopsd launch train --hostfile hosts --config run/config.yaml --node-rank 1      where there is no ssh""",
    shows_progress=True,
)
