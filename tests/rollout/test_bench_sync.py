"""tools/bench_sync.py at a tiny size, on the real server: if it fails, the cost a README cites is another."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.rollout.client import RolloutClient

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("PYTHONPATH", f"{TOOLS.parent}:{TOOLS}")  # for the process at the other end
    import bench_sync

    return bench_sync


def test_both_arms_carry_the_same_bytes_and_are_put_in_relation(
    bench: Any, client: RolloutClient, model: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(buckets=[1], repeats=1, servers=1, backend="gloo")
    (row,) = bench.measure(args, model, client)
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    assert row["mb"] == whole / 1e6 and row["bucket_mib"] == 1
    assert 0 < row["plain_s"] and 0 < row["transfer_s"] < row["push_s"]
    assert row["times_plain"] == pytest.approx(row["push_s"] / row["plain_s"])
    assert client.policy_version() == 2, "the warm-up and one repeat"
    assert "times_plain" in capsys.readouterr().out


def test_the_store_outlives_the_receivers(bench: Any) -> None:
    """A receiver slower than the sender still reads the store after the sender's own side is connected."""
    plain = bench.Plain([64], 1, 1)
    port = plain.store.port
    late = bench.join_store(bench.ADDRESS, port, 5)
    late.set("late", "1")
    assert late.get("late") == b"1"
    plain()
    plain.close()
    del late
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((bench.ADDRESS, port), 5).close()


def test_the_model_has_the_size_asked_for(bench: Any, tmp_path: Path) -> None:
    model = bench.make_model(tmp_path, 20)
    assert 10e6 < sum(p.numel() * 4 for p in model.parameters()) <= 21e6
    assert (tmp_path / "tokenizer.json").is_file() and list(tmp_path.glob("*.safetensors"))


def test_a_link_is_a_namespace_of_its_own_entered_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the rate would be set on this machine's own loopback; twice, there would be no end."""
    started: list[list[str]] = []
    monkeypatch.setattr(bench.os, "execvp", lambda program, words: started.append([program, *words[1:]]))
    monkeypatch.delenv(bench.LINK_VARIABLE, raising=False)
    bench.on_link("10gbit", ["--mb", "9"])
    bench.on_link("10gbit", ["--mb", "9"])
    monkeypatch.delenv(bench.LINK_VARIABLE)
    (words,) = started
    assert words[:4] == ["unshare", "--net", "sh", "-c"] and words[6] == "10gbit" and words[-2:] == ["--mb", "9"]
