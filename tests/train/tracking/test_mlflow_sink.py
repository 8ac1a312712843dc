"""The MLflow sink with the real library, which lies in an environment of its own (tests/setup_peers.sh)."""

import json
import os
import subprocess
from pathlib import Path

from tests.programs import require_peer

ROOT = Path(__file__).parents[3]


def test_a_resumed_training_is_one_finished_run_with_all_its_steps(tmp_path):
    """Broken if MLflow refuses our names, a resume begins a second run, or a key is among the parameters."""
    python = require_peer("mlflow")
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    env |= {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    command = [python, str(ROOT / "tests/train/tracking/mlflow_reader.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["runs"], found["name"], found["status"], found["steps"]) == (1, "n", "FINISHED", "150")
    assert found["loss"] == [[0, 1.0], [1, 0.5], [2, 1 / 3], [3, 0.25]]
    assert "sk-secret" not in found["params"]
    assert {p.name for p in tmp_path.iterdir()} == {"mlflow.db"}
