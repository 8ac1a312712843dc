"""`nopsd init`: settings for your own questions."""

from __future__ import annotations

import argparse
from pathlib import Path

from nopsd.commands.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and what the user knows already."""
    parser.add_argument(
        "questions", metavar="QUESTIONS", help=".jsonl, .json, .csv or .parquet file, or a hub data set"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the preset to write (default NAME.yaml, here)")
    parser.add_argument("--model", metavar="PATH", help="a folder, a hub id, or `lab`; default: what fits this machine")
    parser.add_argument("--domain", metavar="NAME", help="what the questions are called (default: the file's name)")
    parser.add_argument("--force", action="store_true", help="replace the preset if it is there")


def run(arguments: argparse.Namespace) -> int:
    """Write the preset and print what it will do."""
    from nopsd.tasks.init.init import Wanted, init

    print(init(Wanted(arguments.questions, arguments.out, arguments.model, arguments.domain, arguments.force)))
    return 0


COMMAND = Command(
    "init",
    "propose settings for your own questions, and write a preset",
    add_arguments,
    run,
    """\
  nopsd init questions.csv                          writes questions.yaml, and shows three prompts
  nopsd init questions.jsonl --model Qwen/Qwen3-1.7B --out mine.yaml""",
)
