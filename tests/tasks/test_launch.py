"""`nopsd launch --dry-run`: prints the command that it would run, and contacts no host."""

import shlex
import subprocess
from pathlib import Path

import pytest
from deepspeed.launcher import runner

from nopsd import cli
from nopsd.cluster import planning


@pytest.mark.parametrize("launcher", ["pdsh", "mpich"])
def test_a_dry_run_asks_no_host(launcher, tmp_path, capsys, monkeypatch):
    """It only prints, also where the hosts aren't there (yet): else nobody can look at the command beforehand."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a host was asked")

    monkeypatch.setattr(planning, "facts_of_all", asked)
    monkeypatch.setattr(subprocess, "Popen", asked)
    (tmp_path / "hosts").write_text("nowhere1.invalid slots=1\nnowhere2.invalid slots=1\nnowhere3.invalid slots=1\n")
    given = ["train", "--preset", "lab", "--hostfile", str(tmp_path / "hosts"), "--launcher", launcher, "--dry-run"]
    assert cli.main(["launch", *given, f"run_dir={tmp_path / 'run'}", "rollout.hosts=[nowhere3.invalid]"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if " deepspeed --hostfile " in text)
    seen = runner.parse_args(shlex.split(line.split(" deepspeed ", 1)[1]))
    assert seen.launcher == launcher and seen.master_addr == "nowhere1.invalid" and seen.user_args[0] == "train"
    assert Path(seen.user_args[2]).is_file(), "the configuration that the printed command names"


def test_no_secret_is_in_the_slurm_script_or_in_what_lies_beside_it(tmp_path, capsys, monkeypatch):
    """Scripts are kept, shown and handed on; launch.json lay there with the hub's token after every launch."""
    for name in ("HF_TOKEN", "VLLM_API_KEY", "NOPSD_SERVER_KEY", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "HUSH")
    (tmp_path / "hosts").write_text("node1.invalid slots=1\nnode2.invalid slots=1\n")
    given = [
        "train",
        "--preset",
        "lab",
        "--hostfile",
        str(tmp_path / "hosts"),
        "--dry-run",
        f"run_dir={tmp_path / 'run'}",
    ]
    for launcher in ("slurm", "pdsh"):
        more = ["--launcher", launcher, "server.url=http://a:1", "server.api_key=HUSH"]
        assert cli.main(["launch", *given, *more]) == 0
        told = capsys.readouterr()
        assert "HUSH" not in told.out + told.err
        assert ("export NOPSD_SERVER_KEY before sbatch" in told.err) == (launcher == "slurm")
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or "HUSH" not in path.read_text(), path
