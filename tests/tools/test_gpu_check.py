"""tools/gpu_check.py at tiny sizes on the CPU: if it fails, nobody with a GPU can run it for us."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("kernels", "loss", "scoring", "teacher", "step", "context", "shared")


@pytest.mark.engine
@pytest.mark.parametrize("parts", [PARTS[:1] + PARTS[3:5] + PARTS[6:], pytest.param(PARTS, marks=pytest.mark.soak)])
def test_every_part_leaves_its_figures(tmp_path, parts):
    script = str(ROOT / "tools" / "gpu_check.py")
    command = [sys.executable, script, "--out", str(tmp_path), "--tiny", "--device", "cpu", "--parts", *parts]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=480)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in parts}
    assert all(f"## {part}" in (tmp_path / "gpu_check.md").read_text() for part in parts)
    assert all(row["right"] for part in ("kernels", "shared") for row in found[part]["rows"])
    (step,) = found["step"]["rows"]
    assert step["estimated GiB"] > 0 and math.isnan(step["peak GiB"]) and step["time/student"] > 0
    if parts != PARTS:
        return
    assert all(row["ratio"] > 0.5 for row in found["scoring"]["rows"])
    assert found["context"]["rows"] == [{"shape": "tiny", "longest context that fits": 128}]
