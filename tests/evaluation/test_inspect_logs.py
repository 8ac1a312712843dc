"""Our logs read by Inspect itself, which lies in an environment of its own (tests/setup_peers.sh)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.programs import require_peer

ROOT = Path(__file__).parents[2]


def test_inspect_reads_our_logs(tmp_path):
    """Broken if `inspect view` opens nothing, or shows other numbers than metrics.json."""
    python = require_peer("inspect_ai")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    command = [python, str(ROOT / "tests/evaluation/inspect_reader.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["listed"] == 1 and found["status"] == "success" and found["epochs"] == 4
    assert (found["model"], found["task"]) == ("nopsd/org/some model", "nopsd_mmlu_pro")
    assert found["scores"] == {"extract": pytest.approx(found["avg"]), "majority": pytest.approx(found["maj"])}
    assert found["avg"] == 0.75 and found["maj"] == 1.0 and found["summaries"] == len(found["samples"]) == 8
    found["samples"].sort()
    assert found["samples"][0] == ["one", 1, "A", "prompt one", "<answer>A</answer>", "stop", "C", "A", 3]
    assert found["samples"][3] == ["one", 4, "A", "prompt one", "?", "max_tokens", "I", None, 3]
