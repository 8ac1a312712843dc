"""tools/bench_scoring.py at a tiny size: its arms score the same, and its table and JSON hold what a README cites."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TINY = ["--shape", "tiny", "--response", "40", "--prompt", "6", "--batch", "2", "--threads", "1"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_scoring

    return bench_scoring


@pytest.fixture
def arms(bench):
    import scoring_arms

    return scoring_arms


@pytest.fixture
def in_one_process(bench, monkeypatch):
    """Peak memory in this process: what the table needs, without a start of python for each arm."""
    monkeypatch.setattr(
        bench, "_in_own_process", lambda args, arm: bench.peak_memory(argparse.Namespace(**{**vars(args), "arm": arm}))
    )


def arguments(**changed):
    settings = {
        "shape": "tiny",
        "layers": 0,
        "prompt": 6,
        "response": 40,
        "batch": 2,
        "dtype": "float32",
        "device": "cpu",
        "value": "act_fn",
        "mode": "pairs",
        "paper_sizes": False,
        "zero3": False,
        "vocabulary_layers": 2,
        "threads": 1,
    }
    return argparse.Namespace(**{**settings, **changed})


def test_the_table_and_the_json_have_every_arm(bench, in_one_process, tmp_path, capsys):
    """A README's figures come from these; the sets of the arms are equal, or the times compare different work."""
    bench.main([*TINY, "--repeats", "2", "--json", str(tmp_path / "figures.json")])
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "figures.json").read_text())
    assert [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")] == [
        "arm",
        "forward",
        "nopsd",
        "stored",
        "vocabulary (scaled)",
    ]
    assert found["jaccard_to_stored"] == 1.0
    assert [len(found["seconds"][arm]) for arm in bench.ARMS] == [2, 2, 2, 1]
    assert all(m["peak"] >= m["loaded"] > 0 for m in found["memory_mib"].values())
    assert found["flops"]["nopsd"] > found["flops"]["forward"] > 0


@pytest.mark.parametrize("value", ["act_fn", "gated"])
def test_the_arms_find_the_same_neurons(bench, arms, value):
    """Three ways to the same scores: each checks the others, for both kinds of neuron value."""
    ready = arms.prepare(arguments(value=value))
    assert arms.nopsd(ready) == arms.stored(ready)
    counted = arms.score(ready).counts.tolist()  # of all layers, as is `vocabulary` here: |U|
    assert [float(len(found)) for found in arms.vocabulary(ready)] == counted


def test_another_value_gives_other_sets(bench, arms):
    """The comparison above could not fail if the sets were all neurons, or none."""
    activation, gated = (arms.nopsd(arms.prepare(arguments(value=value))) for value in ("act_fn", "gated"))
    assert activation != gated and all(activation)
    agreement = bench.agreement_of({"nopsd": activation, "stored": gated}, "pairs")
    assert 0 <= agreement < 1


def test_flops_of_a_layer_counted_by_hand(bench, arms):
    """Utilisation is these by the time: H=32, F=48, 4 heads and 2 key-value heads of 8, T=46, two rows."""
    ready = arms.prepare(arguments(layers=1))
    found = bench.flops(arguments(layers=1), ready)
    products = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    assert found["forward"] == 2 * (2 * products * 46 + 2 * 46 * 46 * 32)
    distinct = len({t for r in ready.rollouts for t in r.response_ids})
    assert found["nopsd"] - found["forward"] == 2 * distinct * 32 * 48


def test_an_arms_memory_in_a_process_of_its_own():
    """The real way, once: what the tool starts prints its peak as JSON in its last line."""
    command = [sys.executable, str(TOOLS / "bench_scoring.py"), *TINY, "--arm", "nopsd"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TOOLS.parent), "DS_ACCELERATOR": "cpu"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["peak"] >= found["loaded"] > 50
