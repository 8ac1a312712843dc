"""`nopsd chat`: ask base, student and teacher the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from nopsd.commands.command import Command, add_run_arguments, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the question, and how to sample."""
    add_run_arguments(parser)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--ask", metavar="TEXT", help="the question (default: each line of standard input)")
    asked.add_argument("--question", metavar="UID", help="a question of the run's pool or tests")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of sampling (default 0: greedy)")
    parser.add_argument("--max-new", type=int, metavar="N", help="tokens of a reply at most")
    parser.add_argument("--json", action="store_true", help="print JSON, a question a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the replies of each question."""
    config = load_run(arguments)
    from nopsd.tasks.chat import Chat, talk

    chat = Chat(config, arguments.temperature, arguments.max_new)
    for text in [arguments.ask] if arguments.ask or arguments.question else lines():
        print(talk(chat, text, arguments.question, arguments.json), flush=True)
    return 0


def lines() -> Iterator[str]:
    """Questions from standard input; asked for on a terminal."""
    while True:
        if sys.stdin.isatty():
            print("question (Ctrl-D ends): ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


COMMAND = Command(
    "chat",
    "ask base, student, and teacher with demonstrations the same",
    add_arguments,
    run,
    """\
  nopsd chat runs/lab --question lab-biology-test-0003
  nopsd chat runs/lab --ask "What is the reading of gelin?"
  nopsd chat runs/lab < questions.txt""",
)
