"""The README is read first and typed from: its keys, files and commands must exist."""

import re
from pathlib import Path

from nopsd.cli import OWN_FLAGS, parser
from nopsd.config import CHOICES, all_keys, preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_key_is_a_key():
    keys = set(
        re.findall(
            r"`?\b((?:data|model|neuron|signal|select|context|teacher|distill|dist|server|train|eval)"
            r"\.(?!json)[a-z_]+(?:\.[a-z_]+)*)\b",
            README,
        )
    )
    assert len(keys) > 8 and not keys - set(all_keys())


def test_every_named_choice_is_one():
    for key in ("select.selector", "context.retriever", "teacher.kind", "distill.divergence"):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{key}`"))
        named = set(re.findall(r"`([a-z_]+)`", row.split("|")[2]))
        assert named <= set(CHOICES[key]) and set(CHOICES[key]) <= named, key


def test_every_link_and_script_is_there():
    links = (
        re.findall(r"\]\(([^)#]+)\)", README)
        + re.findall(r"bash (\S+\.sh)", README)
        + re.findall(r"`(tools/\S+\.py)`", README)
    )
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 5 and all((ROOT / link).exists() for link in local)


def test_every_preset_and_stage_is_there():
    assert set(re.findall(r"--preset ([a-z0-9_/]+)(?![a-z0-9_./])", README)) <= set(preset_names()) | {"mine"}
    for command in set(re.findall(r"`?nopsd ([a-z_]+) --preset", README)) - set(OWN_FLAGS):
        assert parser().parse_args([command]).command == command
