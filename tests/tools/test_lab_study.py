"""tools/lab_study.py at its smallest: two rows through selection, two steps and evaluation."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from nopsd.config import SamplingConfig
from nopsd.files import read_jsonl

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lab_study.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("lab_study", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_what_may_be_sampled_is_the_top_k_and_of_these_the_top_p(study):
    """Against the definition by hand: a sampler that cut otherwise would be another policy than vLLM's."""
    logits = torch.log(torch.tensor([[0.05, 0.4, 0.3, 0.15, 0.1]]))
    kept = study.allowed(logits, SamplingConfig(1, 1.0, 0.7, 3, 8))
    # the top 3 are .4, .3 and .15, of .85 in all: .471 and .353 pass .7 before the third is reached
    assert kept[0].tolist() == pytest.approx([0, 0.4 / 0.85, 0.3 / 0.85, 0, 0], abs=1e-6)
    assert study.allowed(logits, SamplingConfig(1, 1.0, 1.0, -1, 8))[0].tolist() == pytest.approx(
        [0.05, 0.4, 0.3, 0.15, 0.1], abs=1e-6
    )


def test_unopened_seeds_stay_closed(study, tmp_path):
    """They can be opened once; a habit of looking would make them explored ones."""
    with pytest.raises(SystemExit, match="unopened"):
        study.main(["--seeds", "4", "5", "--out", str(tmp_path)])


def test_two_rows_are_trained_once_and_compared_with_the_first(study, tmp_path, capsys, monkeypatch):
    """A row done again for nothing, rows on other questions, or a comparison with itself show here."""
    monkeypatch.setattr(study.plain_engines.__globals__["teachers"], "squared_distance", None)  # put back afterwards
    command = [
        "--domains",
        "biology",
        "--steps",
        "1",
        "--pool",
        "16",
        "--tests",
        "3",
        "--samples",
        "2",
        "--out",
        str(tmp_path),
        "--rows",
        "random=select.selector=random,context.m=2",
        "dense=select.selector=neuron_density,context.m=2",
    ]
    study.main(command)
    printed, lines = capsys.readouterr().out, read_jsonl(tmp_path / "results.jsonl")
    assert [line["row"] for line in lines] == ["random", "dense"]
    assert [row["uid"] for row in lines[0]["rows"]] == [row["uid"] for row in lines[1]["rows"]]
    assert all(len(row["answers"]) == 2 for line in lines for row in line["rows"])
    assert lines[0]["first_loss"] > 0 and "| dense |" in printed and printed.count("[") == 1
    for line in lines:
        assert 0 <= line["coverage"] <= 1 and 0 < line["diversity"] <= 1 and line["gap"] > 0, "what explains a row"
        assert abs(line["gain"]) <= 1 and "wrong_kl" in line
    study.main(command)
    assert len(read_jsonl(tmp_path / "results.jsonl")) == 2
