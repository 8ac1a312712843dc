"""The files that ranks read: if these fail, `ps` on any host shows secrets, or a shell changes a value."""

import os
import re
import shutil

import pytest
from deepspeed.launcher import runner

from nopsd.cluster.launch_files import LaunchFile, passed_on, read_launch_file, write_env_file, write_launch_file
from nopsd.errors import UserError


def test_secrets_stay_out_of_what_deepspeed_exports(tmp_path, monkeypatch):
    """DeepSpeed puts DS_ENV_FILE's lines on command lines; if this fails, `ps` on any host shows the server's key."""
    environment = {
        "NOPSD_SERVER_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
        "DS_ACCELERATOR": "cpu",
        "HOME": "/root",
        "CUDA_VISIBLE_DEVICES": "3",
        "NCCL_DEBUG": "INFO",
        "PATH": "/bin",
    }
    file, env_file = tmp_path / "launch.json", tmp_path / "env"
    write_launch_file(file, LaunchFile(passed_on(environment), key="k"))
    write_env_file(env_file, file, "pdsh", environment)
    assert "s3cret" not in env_file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600 and env_file.stat().st_mode & 0o777 == 0o600
    passed = read_launch_file(file).environment
    assert passed == {k: environment[k] for k in ("NOPSD_SERVER_KEY", "HF_TOKEN", "DS_ACCELERATOR", "NCCL_DEBUG")}
    # DeepSpeed's own way of reading it, line by line.
    monkeypatch.setattr(runner, "DEEPSPEED_ENVIRONMENT_NAME", str(env_file))
    pairs = [line.split("=", maxsplit=1) for line in env_file.read_text().splitlines()]
    python = {"PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUTF8"}
    assert {k for k, _ in pairs} == {"NOPSD_LAUNCH", "NOPSD_LAUNCHER", "DS_ACCELERATOR", "PATH", *python}


@pytest.mark.parametrize("launcher", ["pdsh", "openmpi", "slurm"])
def test_a_users_module_does_not_stand_in_for_pythons_own_on_other_hosts(tmp_path, monkeypatch, launcher):
    """DeepSpeed's runner puts the working folder before PYTHONPATH: its random.py would end every rank."""
    write_env_file(tmp_path / "env", tmp_path / "launch.json", launcher, {"PYTHONPATH": "/mine"})
    (tmp_path / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    seen: list[list[str]] = []

    class Started(SystemExit):
        pass

    def popen(command, env):
        seen.append(command)
        raise Started

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "DEEPSPEED_ENVIRONMENT_NAME", str(tmp_path / "env"))
    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    words = ["--hostfile", str(tmp_path / "hosts"), "--launcher", launcher, "--force_multi", "--no_ssh_check"]
    with pytest.raises(Started):
        runner.main([*words, "--master_addr", "10.0.0.1", "--module", "nopsd", "train"])
    given = " ".join(seen[0])
    path = re.search(r"PYTHONPATH=\"?([^\s;,\"]*)", given)
    assert path and "/mine" in path[1].split(os.pathsep) and str(tmp_path) not in path[1].split(os.pathsep), given
    assert re.search(r'PYTHONSAFEPATH="?1', given), given


def test_values_that_a_shell_would_change_are_refused(tmp_path):
    with pytest.raises(UserError, match="PATH"):
        write_env_file(tmp_path / "env", tmp_path / "launch.json", "pdsh", {"PATH": "/bin:$HOME"})
