"""tools/scaling.py: if it fails, the table that the README shows can't be made again."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("scaling_tool", ROOT / "tools" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_as_printed():
    """Alone, without torch: a row a model, a column a number of GPUs."""
    command = [sys.executable, "tools/scaling.py"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| Qwen3-")]
    assert done.returncode == 0 and len(rows) == 4 and all(row.count("|") == 9 for row in rows), done.stderr
    assert rows[3].split("|")[2].strip().endswith("*"), "32B on 6 GPUs of 80 GB needs offload"


def test_constants_can_be_set(tool, capsys):
    """Other hardware, another step: the numbers must follow; a wrong name must not be passed over."""
    assert tool.main(["--models", "Qwen3-8B", "--gpus", "16"]) == 0
    before = capsys.readouterr().out.splitlines()[-1]
    assert tool.main(["--models", "Qwen3-8B", "--gpus", "16", "--set", "efficiency=0.2", "--work", "sequences=64"]) == 0
    after = capsys.readouterr().out.splitlines()[-1]
    assert before.split("|")[1:4] == after.split("|")[1:4] == [" 16 ", " 12 ", " 4 "] and before != after
    with pytest.raises(SystemExit, match="speed: there are peak"):
        tool.main(["--set", "speed=1"])


@pytest.mark.soak
def test_stages_are_measured_at_one_and_two_ranks(tool, tmp_path):
    settings = ["data.pool_limit=20", "train.steps=3", "train.batch=2", "select.fraction=0.3", "context.m=2"]
    rows = tool.measure([1, 2], tmp_path, [*settings, "server.kv_cache_mib=64"])
    assert [row["ranks"] for row in rows] == [1, 2]
    assert all(row[f"{stage}_s"] > 0 for row in rows for stage in tool.MEASURED) and rows[0]["time/student"] > 0
