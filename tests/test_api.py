"""`import nopsd`: the public surface, what it accepts, and the notebook that shows it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nopsd
from nopsd import api
from nopsd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "examples" / "own_questions.ipynb"
TEXTS = [f"What is {i} and {i}?" for i in range(12)]


def test_the_public_surface_is_whole_and_described() -> None:
    """What a user imports must exist, be in help(), and say what it takes and returns."""
    assert set(nopsd.__all__) <= set(dir(nopsd))
    public = {name for name, value in vars(api).items() if inspect.isfunction(value) and name[0] != "_"}
    own = {name for name in public if getattr(api, name).__module__ == "nopsd.api"}
    assert {*own, "Run", "UserError"} == set(nopsd.__all__)
    for name in nopsd.__all__:
        value = getattr(nopsd, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            assert "return" in value.__annotations__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = nopsd.nothing
    assert (ROOT / "nopsd" / "py.typed").is_file()


def test_importing_it_loads_nothing_heavy() -> None:
    """Else every script that imports it waits for torch."""
    code = "import sys, nopsd; nopsd.open_run; print({'torch', 'numpy', 'pandas', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def as_frame(rows: list[dict[str, Any]]) -> Any:
    import pandas

    return pandas.DataFrame(rows)


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    import datasets

    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize(
    "form", [list, as_frame, as_dataset, "file", "texts"], ids=["list", "frame", "dataset", "file", "texts"]
)
def test_questions_of_every_type_are_the_same_questions(form: Any, tmp_path: Path) -> None:
    """Else a table's index, a null or a numpy number changes what is asked."""
    rows: list[dict[str, Any]] = [{"question": text, "options": ["x", "y"], "answer": "A"} for text in TEXTS]
    given: Any = form(rows) if callable(form) else TEXTS
    if form == "file":
        given = tmp_path / "q.jsonl"
        given.write_text("\n".join(map(json.dumps, rows)))
    run = nopsd.open_run(tmp_path / "mine", given, settings={"data.test_ratio": 0.25, "context.m": 2})
    session = run.bring_up("data")
    asked = [*session.pool, *session.holdout, *(q for tests in session.tests.values() for q in tests)]
    assert sorted(q.question for q in asked) == sorted(TEXTS)
    assert {q.domain for q in asked} == {"mine"} and session.config.data.name == "file"
    labelled = form != "texts"
    assert (len(session.pool), len(session.tests.get("mine", []))) == ((9, 3) if labelled else (11, 0))
    assert all(bool(q.options) is labelled for q in asked)


def test_settings_are_typed_and_checked(tmp_path: Path) -> None:
    settings = {"server.url": None, "eval.targets": ["physics"], "train.lr": 1e-5, "data.instruction": "Say: #1, 'x'"}
    config = nopsd.open_run(tmp_path / "r", settings=settings).config
    assert (config.server.url, config.eval.targets, config.train.lr) == (None, ["physics"], 1e-5)
    assert config.data.instruction == "Say: #1, 'x'" and config.run_dir == str(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"did you mean train.steps\?"):
        nopsd.open_run(tmp_path / "r", settings={"train.step": 3})


def test_status_is_plain_data(tmp_path: Path) -> None:
    run = nopsd.open_run(tmp_path / "r", TEXTS, settings={"context.m": 2})
    run.bring_up("data")
    found = nopsd.status(run)
    assert found["stages"][0]["state"] == "done" and json.dumps(found)


@pytest.mark.engine
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its cells in order, in an empty folder, on real engines: what a reader copies must work."""
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells)
    check = "\nassert set(results) == {'base', 'trained'} and model.is_dir() and len(chosen) >= 1\nprint('whole')\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code + check], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "whole" in done.stdout
