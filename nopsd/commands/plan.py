"""`nopsd plan`: what a run needs and costs on GPUs that need not be there."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load
from nopsd.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The GPUs, and the lengths that time depends on."""
    add_config_arguments(parser)
    parser.add_argument("--hosts", type=int, default=1, metavar="N", help="hosts (default 1)")
    parser.add_argument("--gpus", type=int, metavar="M", help="GPUs of a host (default: dist.ranks)")
    parser.add_argument(
        "--memory", type=float, default=79.0, metavar="GIB", help="of a GPU (default 79, an 80 GB card)"
    )
    parser.add_argument("--prompt-tokens", type=int, default=256, metavar="TOKENS", help="of a prompt (default 256)")
    parser.add_argument(
        "--response-share",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of a response, of the most it may have (default 0.4)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 1 if it does not fit."""
    config = load(arguments)
    from nopsd.tasks.plan import Gpus, Lengths, plan

    gpus = Gpus(arguments.hosts, arguments.gpus or config.dist.ranks, arguments.memory)
    if (
        min(gpus.hosts, gpus.per_host, gpus.memory, arguments.prompt_tokens) <= 0
        or not 0 < arguments.response_share <= 1
    ):
        raise ConfigError(
            "--hosts, --gpus, --memory and --prompt-tokens are above 0, --response-share is above 0 and at most 1"
        )
    text, code = plan(config, gpus, Lengths(arguments.prompt_tokens, arguments.response_share))
    print(text)
    return code


COMMAND = Command(
    "plan",
    "memory, time and GPU-hours on GPUs that need not be there",
    add_arguments,
    run,
    "  nopsd plan --preset paper/qwen3_8b --gpus 8\n"
    "  nopsd plan --preset paper/qwen3_32b --hosts 4 --gpus 8 --memory 139",
    {0: "it fits", 1: "it does not fit, or something is wrong: one line says what"},
)
