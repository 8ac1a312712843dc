"""`nopsd eval`: any model on the configured targets, resumable, in both formats; real servers behind --soak."""

import json
import os
import subprocess
import sys

import pytest

from nopsd.config import load_config
from nopsd.errors import ArtefactError, ServerError
from nopsd.files import read_json
from nopsd.rollout import stage as rollout_stage
from nopsd.rollout.types import Rollout
from nopsd.run.session import Session
from nopsd.tasks import evaluate as evaluating
from nopsd.tasks.evaluate import evaluate, folder_name

SMALL = ("eval.limit=3", "eval.n=2", "eval.bootstrap=20", "eval.targets=[chemistry]")


class Answers:
    """A server that answers everything alike, and breaks after `calls` calls."""

    url = "http://nowhere"

    def __init__(self, calls=99):
        self.calls, self.asked = calls, 0

    def generate(self, prompts, uids, sampling, seed, progress, finished, **more):
        if self.calls == 0:
            raise ServerError("the server is gone")
        self.calls, self.asked = self.calls - 1, self.asked + len(uids)
        if progress:
            progress(len(uids), len(uids))
        rows = [
            [Rollout(u, i, list(p), [5, 6], "<answer>red</answer>", "stop", 0) for i in range(sampling.n)]
            for u, p in zip(uids, prompts)
        ]
        for i, row in enumerate(rows):
            finished(i, row)
        return rows


@pytest.fixture
def served(monkeypatch):
    """Evaluations are served by the returned server."""
    server = Answers()
    monkeypatch.setattr(Session, "client", lambda self: server)
    return server


@pytest.fixture
def config(tmp_path):
    return load_config("lab", [f"run_dir={tmp_path}", *SMALL])


def test_results_in_both_formats(config, served, tmp_path):
    """Breaks if a model can't be evaluated without a run, or other domains than those asked for are."""
    said = evaluate(config)
    (folder,) = (tmp_path / "eval").iterdir()
    assert set(read_json(folder / "metrics.json")["model"]) == {"biology", "chemistry"}
    assert served.asked == 6 and "biology" in said and "Avg@2" in said and str(folder) in said
    names = sorted(p.name.split("_20")[0] for p in (folder / "lm_eval").iterdir())
    assert names == ["results", "samples_nopsd_biology", "samples_nopsd_chemistry"]


def test_what_was_sampled_is_not_sampled_again(config, served, monkeypatch, tmp_path):
    """Breaks if a killed evaluation begins anew, or a finished one asks for a server."""
    monkeypatch.setattr(rollout_stage, "CALL_PROMPTS", 4)
    served.calls = 1
    with pytest.raises(ServerError):
        evaluate(config)
    served.calls = 9
    evaluate(config)
    assert served.asked == 6
    served.calls = 0
    assert "Avg@2" in evaluate(config)


def test_another_setting_is_refused_and_redone(config, served, tmp_path):
    evaluate(config)
    other = load_config("lab", [f"run_dir={tmp_path}", *SMALL, "eval.temperature=0.9"])
    with pytest.raises(ArtefactError, match="eval.temperature: 0.6 there, 0.9 asked"):
        evaluate(other)
    evaluate(other, redo="eval")
    assert served.asked == 12


def test_servers_that_run_already_are_given_the_weights(config, served, monkeypatch):
    """Breaks if a server that holds another model answers in this one's name."""
    loaded = []
    monkeypatch.setattr(
        evaluating, "load_folder", lambda client, folder, version, weights_hash: loaded.append((folder, version))
    )
    monkeypatch.setattr(evaluating, "server_urls", lambda config: ["http://nowhere"])
    evaluate(config)
    assert [(path.name, version) for path, version in loaded] == [("model", 1)]


def test_folders_tell_models_apart():
    assert folder_name("/a/runs/lab/train/export", "0123456789") == "lab-train-export-01234567"
    assert folder_name("Qwen/Qwen3-4B", "abcdefghi") == "Qwen-Qwen3-4B-abcdefgh"


@pytest.mark.engine
@pytest.mark.soak
def test_a_real_evaluation_and_the_entropy_gap(tmp_path):
    """On the real engines: the lab's model evaluated, and Table 6's numbers of a small run."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

    def nopsd(*arguments):
        command = [
            sys.executable,
            "-m",
            "nopsd",
            *arguments,
            "--preset",
            "lab",
            f"run_dir={tmp_path}",
            *SMALL,
            "server.kv_cache_mib=128",
            "data.pool_limit=30",
            "context.m=2",
            "select.fraction=0.3",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1200, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "Avg@2" in nopsd("eval")
    nopsd("select")
    assert "shannon" in nopsd("entropy_gap")
    rows = json.loads((tmp_path / "entropy_gap" / "entropy_gap.json").read_text())
    assert 0 <= rows["topk20"]["student"] <= rows["shannon"]["student"] + 1e-6
    assert abs(rows["shannon"]["teacher"] - rows["shannon"]["student"]) < 3
