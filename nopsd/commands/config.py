"""`nopsd config`: the resolved configuration, one key explained, or what a preset changes."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and the form of the answer."""
    add_config_arguments(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--explain", metavar="KEY", help="a key's type, default, choices, bounds, source and help; or a section's keys"
    )
    shown.add_argument(
        "--diff",
        metavar="PRESET",
        help="what this preset or config.yaml, with the overrides, changes against --preset (or the defaults)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    import json

    from nopsd.config import load_config, to_plain, to_yaml
    from nopsd.config.describe import as_record, changes, explained, keys_like
    from nopsd.keys import without_keys

    if arguments.explain is not None:
        config, keys = without_keys(load(arguments)), keys_like(arguments.explain)
        records = {key.name: as_record(key, config) for key in keys}
        print(json.dumps(records, indent=1) if arguments.json else explained(keys, config))
    elif arguments.diff is not None:
        given, arguments.overrides = arguments.overrides, []
        found = changes(without_keys(load(arguments)), without_keys(load_config(arguments.diff, given)))
        records = {name: {"from": before, "to": after} for name, (before, after) in found.items()}
        lines = [f"{name}: {before} -> {after}" for name, (before, after) in found.items()]
        print(json.dumps(records, indent=1) if arguments.json else "\n".join(lines or ["no key differs"]))
    else:
        config = without_keys(load(arguments))
        print(json.dumps(to_plain(config), indent=1) if arguments.json else to_yaml(config).rstrip("\n"))
    return 0


COMMAND = Command(
    "config",
    "print the resolved configuration; explain a key; compare presets",
    add_arguments,
    run,
    """\
  nopsd config --preset lab train.steps=50
  nopsd config --explain train.lr                   or of a section: --explain train
  nopsd config --diff lab                           against the defaults
  nopsd config --preset lab --diff runs/lab/config.yaml        what the run changed
  nopsd config --preset paper/biology --json""",
)
