"""README and docs are typed from: their keys, links, commands and choices must exist, or a user meets an error."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd import cli
from nopsd.commands.registry import COMMANDS
from nopsd.config import METHODS, EvalConfig, all_keys, preset_names
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.evaluation.results import QuestionRow, result_from_rows
from nopsd.rollout.types import Rollout
from nopsd.train.losses.tile import STATISTICS
from nopsd.train.metrics import probe_metrics, response_metrics

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = [ROOT / "README.md", ROOT / "launcher" / "README.md", ROOT / "ds_configs" / "README.md"]
PAGES = [*OUTSIDE, *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = (
    "data model neuron signal select context teacher distill dist server train eval guard zero_shot rollout sft grpo"
).split()
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1500


@PAGE
def test_every_key_is_a_key(page):
    if page.name == "changelog.md":
        return  # it names keys that are gone
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*)(?:=[^`]*)?`", page.read_text())
    assert not set(named) - {key.name for key in all_keys()}


def test_the_settings_page_is_what_the_schema_says():
    """Breaks if a key, a default or a choice has changed: run python tools/settings_page.py."""
    command = [sys.executable, "tools/settings_page.py", "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0, "run: python tools/settings_page.py"
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [key.name for key in all_keys()] == re.findall(r"^\| `([a-z_.]+)`", text.split("## All keys")[1], re.M)


def test_the_figure_of_results_is_of_the_table():
    """Breaks if a number of the quickstart's table has changed: run python tools/results_figure.py."""
    command = [sys.executable, "tools/results_figure.py", "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0, "run: python tools/results_figure.py"
    shown = (ROOT / "docs" / "results.svg").read_text()
    assert {"64.5", "85.1", "53.8", "14.1"} <= set(re.findall(r">([\d.]+)<", shown))


def test_the_site_builds(tmp_path):
    """Breaks on a page that no navigation leads to, or a link or anchor that the site hasn't got."""
    command = ["-m", "mkdocs", "build", "-q", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arXiv 2607.02460" in (tmp_path / "site" / "index.html").read_text()


@PAGE
def test_blocks_marked_runnable_run(page, tmp_path):
    """Readers type a block under <!-- runnable --> as it stands; a block under <!-- file: NAME --> is that file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for mark, block in re.findall(r"^<!-- (runnable|file: \S+) -->\n```\w+\n(.*?)^```$", page.read_text(), re.M | re.S):
        if mark.startswith("file"):
            (tmp_path / mark.split()[1]).write_text(block)
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, block + done.stdout + done.stderr


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


@PAGE
def test_every_command_of_a_block_can_be_typed(page):
    """Breaks if a page shows an option that its command hasn't got."""
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```$", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.startswith("nopsd ") else []
            words = words[: words.index(">")] if ">" in words else words
            if words and words[1].islower():
                assert cli.parse(words[1:]).command == words[1], line


def test_every_metric_is_described():
    """Breaks if a log has a number that a reader can't look up."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    described = {name for cell in re.findall(r"^\| ([^|]+) \|", page, re.M) for name in re.findall(r"`([^`]+)`", cell)}
    rows = [QuestionRow("q", ["A", "B"], "A", [True, False], "A", 0.5, ["stop"] * 2, [3, 4])]
    evaluated = set(result_from_rows("d", rows, EvalConfig(bootstrap=0)).metrics)
    question = Question("q", "d", "s", "?")
    probed = set(probe_metrics([question], [[Rollout("q", 0, [1], [2], "x", "stop", 0)]], AnswerReader()))
    logged = {*STATISTICS} - {"tokens", "student_logprob", "teacher_logprob"} | {
        *response_metrics([Rollout("q", 0, [1], [2], "x", "stop", 0)])
    }
    used = set(re.findall(r"found(?: =)?\W+\"(\w+/\w+)\"", (ROOT / "nopsd/train/usage.py").read_text()))
    assert used and (evaluated | probed | logged | used) <= described
