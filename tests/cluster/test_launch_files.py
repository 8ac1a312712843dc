"""The files that ranks read: if these fail, `ps` on any host shows secrets, or a shell changes a value."""

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
    assert {k for k, _ in pairs} == {"NOPSD_LAUNCH", "NOPSD_LAUNCHER", "DS_ACCELERATOR", "PATH"}


def test_values_that_a_shell_would_change_are_refused(tmp_path):
    with pytest.raises(UserError, match="PATH"):
        write_env_file(tmp_path / "env", tmp_path / "launch.json", "pdsh", {"PATH": "/bin:$HOME"})
