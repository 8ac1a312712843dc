"""README and docs are typed from: their keys, links, commands and choices must exist, or a user meets an error."""

import re
from pathlib import Path

import pytest

from nopsd.commands.registry import COMMANDS
from nopsd.config import CHOICES, METHODS, all_keys, preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = (
    "data model neuron signal select context teacher distill dist server train eval guard zero_shot rollout sft grpo"
).split()
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1500


@PAGE
def test_every_key_is_a_key(page):
    if page.name == "changelog.md":
        return  # it names keys that are gone
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*)(?:=[^`]*)?`", page.read_text())
    assert not set(named) - {key.name for key in all_keys()}


def test_every_named_choice_is_one_and_none_is_missing():
    settings = (ROOT / "docs" / "settings.md").read_text()
    for key in ("select.selector", "context.retriever", "teacher.kind", "distill.divergence"):
        row = next(line for line in settings.splitlines() if line.startswith(f"| `{key}`"))
        assert set(re.findall(r"`([a-z_]+)`", row.split("|")[2])) == set(CHOICES[key]), key


def test_every_method_is_described():
    method = (ROOT / "docs" / "method.md").read_text().split("## Baselines")[1].split("## Evaluation")[0]
    rows = [line.split("|")[1] for line in method.splitlines() if line.startswith("| `")][1:]  # less the header
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == set(METHODS)


@PAGE
def test_every_link_and_script_is_there(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if not link.startswith("http")]
    scripts = re.findall(r"bash (\S+\.sh)", text) + re.findall(r"(?:`|python )(tools/\S+\.py)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing + [script for script in scripts if not (ROOT / script).exists()]


@PAGE
def test_every_anchor_is_a_heading(page):
    for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text()):
        if not link.startswith("http"):
            target = (page.parent / link if link else page).read_text()
            headings = re.findall(r"^#+ (.+)$", target, re.M)
            assert anchor in {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


@PAGE
def test_every_preset_and_command_is_there(page):
    text = page.read_text()
    presets = set(re.findall(r"--preset ([a-z0-9_/]+)(?![a-z0-9_./])", text)) - {"mine"}
    assert presets <= set(preset_names())
    assert set(re.findall(r"`?nopsd ([a-z_]+) --preset", text)) <= set(COMMANDS)
