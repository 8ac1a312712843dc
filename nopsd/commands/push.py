"""`nopsd push`: the trained model into a repository of the hub."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_run_arguments, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the repository, and who may see it."""
    add_run_arguments(parser)
    parser.add_argument(
        "--to", metavar="OWNER/NAME", help="the repository; or as the second word: nopsd push RUN OWNER/NAME"
    )
    parser.add_argument("--public", action="store_true", help="a new repository is public (default: private)")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch to push to (default: main)")


def run(arguments: argparse.Namespace) -> int:
    """Upload the export with its card; the token comes from HF_TOKEN or `hf auth login`."""
    from nopsd.errors import UserError

    repo = arguments.to
    words = [item for item in arguments.overrides if "=" not in item]
    if repo is None and len(words) == 2:
        repo = words[1]
        arguments.overrides.remove(repo)
    if repo is None:
        raise UserError("say where to: nopsd push RUN OWNER/NAME")
    config = load_run(arguments)
    from nopsd.tasks.push import push

    print(push(config, repo, not arguments.public, arguments.revision))
    return 0


COMMAND = Command(
    "push",
    "upload the trained model and its card to the hub",
    add_arguments,
    run,
    """\
  nopsd push runs/lab me/lab-biology                  private; HF_TOKEN or `hf auth login` says who you are
  nopsd push runs/lab me/lab-biology --public""",
)
