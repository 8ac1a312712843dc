"""tools/bench_loss.py at tiny sizes: its arms compute one and the same loss, and its table holds true ratios."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SIZES = (20, 16, 90)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_loss

    return bench_loss


@pytest.fixture
def arms(bench):
    import loss_arm

    return loss_arm


def arguments(**changed):
    return argparse.Namespace(**{"threads": 1, "chunk": 0, **changed})


@pytest.mark.parametrize("name", ["nopsd", "nopsd+log", "plain", "deepspeed"])
def test_an_arm_is_the_reverse_kl_with_its_gradients(bench, arms, name):
    """Arms that compute different things would compare nothing; a chunk below N shows nopsd's tiles are all run."""
    tensors = arms.inputs(*SIZES)
    _, loss = arms.run(arms.arm_of(name, 8), tensors)
    found = {"loss": loss, "hidden": tensors[0].grad, "weight": tensors[1].grad}
    errors = bench.disagreements(found, bench.reference(SIZES))
    assert 0 < max(errors.values()) < bench.TOLERANCE, errors


def test_the_floor_is_four_products(arms):
    """Chunks left out would make the floor too low, and every loss look worse than it is."""
    h, w, th, tw = tensors = arms.inputs(*SIZES)
    arms.run(arms.arm_of("products", 8), tensors)
    with torch.no_grad():
        logits = h @ w.t()
        torch.testing.assert_close(h.grad, logits @ w)
        torch.testing.assert_close(w.grad, logits.t() @ h)


def test_memory_is_the_most_above_the_start(bench, arms):
    """The kernel's own count: 64 MiB that are gone again at the end must show, and not what was there before."""
    from measure import Spent

    kept = torch.ones(8 * 2**20)  # 32 MiB, before
    with Spent() as spent:
        torch.ones(16 * 2**20).sum()
    assert 60 < spent.peak_mib < 80 and spent.cpu_s > 0 and kept[0] == 1


def test_an_arm_that_computes_something_else_stops_the_tool(bench, monkeypatch):
    """A library's new version with another normalisation must not be timed as if it did the same."""
    wrong = dict(bench.reference(bench.CHECKED))
    wrong["weight"] = wrong["weight"] * 1.001

    def start(python, arm, sizes, args, file):
        torch.save(wrong, file)

    monkeypatch.setattr(bench, "start", start)
    with pytest.raises(SystemExit, match="plain computes something else"):
        bench.check({"plain": sys.executable}, arguments())


def test_peers_without_an_interpreter_are_left_out_with_a_reason(bench, monkeypatch):
    monkeypatch.setattr(bench, "has", lambda python, module: python == "/peer" and module == "trl")
    chosen, reasons = bench.interpreters(["nopsd", "trl-sdft", "liger-jsd"], "/peer")
    assert chosen == {"nopsd": sys.executable, "trl-sdft": "/peer"}
    assert list(reasons) == ["liger-jsd"] and "--peer-python" in reasons["liger-jsd"]


def test_ratios_are_of_the_same_turn(bench):
    """Turns of 1 and 3 times another load: the ratio is 0.5 in each, as a ratio of medians of all would not show."""
    mine = [{"cpu_s": 1.0, "peak_mib": 10}, {"cpu_s": 3.0, "peak_mib": 10}, {"cpu_s": 4.0, "peak_mib": 30}]
    base = [{"cpu_s": 2.0, "peak_mib": 20}, {"cpu_s": 6.0, "peak_mib": 20}, {"cpu_s": 5.0, "peak_mib": 20}]
    assert bench.ratios(mine, base, "cpu_s") == "0.50 [0.50, 0.80]"
    given = {"tokens": 1, "hidden": 2, "vocab": 3, "threads": 1, "repeats": 3}
    runs = {"nopsd": mine, "trl-sdft": base}
    shown = bench.table({"arguments": given, "torch": "2", "left_out": {}, "runs": runs}).splitlines()
    assert shown[-2] == "| nopsd | 3.00 | 0.50 [0.50, 0.80] | 10 | 0.50 [0.50, 1.50] |"


def test_the_tool_runs_and_says_what_it_left_out(bench, tmp_path, capsys, monkeypatch):
    """The real way, once: processes, check against float64, table, JSON."""
    monkeypatch.setattr(bench, "has", lambda python, module: False)
    sizes = ["--tokens", "20", "--hidden", "16", "--vocab", "90", "--repeats", "1"]
    bench.main([*sizes, "--arms", "nopsd+log", "trl-gkd", "--json", str(tmp_path / "f.json")])
    found = json.loads((tmp_path / "f.json").read_text())
    assert "trl-gkd: left out" in capsys.readouterr().out and max(found["errors"]["nopsd+log"].values()) < 2e-5
    assert found["runs"]["nopsd+log"][0]["cpu_s"] > 0
