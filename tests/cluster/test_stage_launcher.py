"""What becomes of a stage's ranks, with stand-ins for DeepSpeed's command: success, failure, progress."""

import sys

import pytest

from nopsd.cluster import launch_context
from nopsd.cluster.deepspeed_command import Plan
from nopsd.cluster.hostfile import Host
from nopsd.cluster.launch_files import read_launch_file
from nopsd.cluster.stage_launcher import launch_stage
from nopsd.config import DistConfig
from nopsd.errors import UserError

RANK = """
import json, os, pathlib, sys, time
pathlib.Path(os.environ["NOPSD_PROGRESS_FILE"]).write_text(json.dumps({"done": 1, "total": 2, "info": {"loss": 0.5}}))
time.sleep(1.2)
assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["NOPSD_SERVER_KEY"] == "secret"
assert not {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"} & set(os.environ)
assert json.load(open(os.environ["NOPSD_LAUNCH"]))["port"] == 0
print(sys.argv[1], flush=True)
sys.exit(int(sys.argv[2]))
"""


def launch(monkeypatch, tmp_path, text, code):
    seen = []
    command = [sys.executable, "-c", RANK, text, str(code)]
    monkeypatch.setattr(launch_context, "stage_command", lambda plan, stage, path: command)
    plan, dist = Plan((Host("localhost", 1),), master_port=1), DistConfig(threads=3)
    where = (tmp_path / "config.yaml", plan, dist, tmp_path / "neurons.log")
    environment = {"NOPSD_SERVER_KEY": "secret"}
    launch_stage("neurons", *where, environment, lambda done, total, **info: seen.append((done, total, info)))
    return seen


def test_a_stage_that_succeeds_reports_progress_and_leaves_no_secret(monkeypatch, tmp_path):
    """DeepSpeed puts MLflow's variables onto pdsh's command line; no launcher needs a cloud's key."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "HUSH")
    assert launch(monkeypatch, tmp_path, "done", 0) == [(1, 2, {"loss": 0.5})]
    assert read_launch_file(tmp_path / "launch" / "launch.json").environment == {}
    assert "done" in (tmp_path / "neurons.log").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [("nopsd: error: bad row", "^bad row$"), ("boom", r"(?s)stage neurons failed with exit code 1; its log.*boom")],
)
def test_a_failure_is_the_ranks_own_error_or_the_logs_end(monkeypatch, tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        launch(monkeypatch, tmp_path, text, 1)


def test_nothing_secret_stays_in_the_launch_file_of_several_hosts():
    environment = {"HF_TOKEN": "HUSH", "NOPSD_SERVER_KEY": "HUSH", "VLLM_API_KEY": "HUSH", "NCCL_DEBUG": "INFO"}
    given = launch_context.ranks_environment(Plan((Host("a", 1),), "hosts"), environment)
    assert {"HF_TOKEN", "NOPSD_SERVER_KEY"} <= set(given) and "VLLM_API_KEY" not in given
    assert "HUSH" not in repr(launch_context.without_own(given))
