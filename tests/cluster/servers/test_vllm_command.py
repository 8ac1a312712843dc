"""vLLM's command line and environment: if these fail, `ps` shows the key, or two servers share a GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from nopsd.cluster.servers import vllm_command
from nopsd.cluster.servers.vllm_command import (
    check_server_args,
    check_shared_memory,
    devices_of,
    server_command,
    server_environment,
    servers_here,
)
from nopsd.config import ServerConfig
from nopsd.errors import ConfigError, UserError


def test_each_server_has_its_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers on one GPU run out of memory, or get none."""
    monkeypatch.setattr(vllm_command, "visible_gpus", lambda: [4, 5, 6, 7])
    assert [devices_of(i, 2, 2, "cuda") for i in range(2)] == ["4,5", "6,7"]
    assert devices_of(0, 1, 2, "cuda") == "4,5" and devices_of(1, 2, 2, "cpu") is None
    with pytest.raises(UserError, match=r"rollout\.servers_per_host=3 .* need 6, and 4 are visible"):
        devices_of(0, 3, 2, "cuda")
    assert server_environment("k", "m", "cuda", "4,5")["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_servers_take_the_gpus_that_ranks_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a host of eight GPUs with four ranks serves from the first one and lets four idle."""
    monkeypatch.setattr(vllm_command, "visible_gpus", lambda: list(range(8)))
    assert [devices_of(i, 4, 1, "cuda", ranks=4) for i in range(4)] == ["4", "5", "6", "7"]
    assert devices_of(0, 1, 1, "cuda", ranks=8) == "0", "none is left: a rank's own is shared"
    assert devices_of(0, 1, 4, "cuda", ranks=6) == "0,1,2,3", "too few are left for a whole server"


def test_servers_fill_the_devices_that_ranks_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else devices idle through the rollouts, or a host is asked for more servers than it has devices."""
    monkeypatch.setattr(vllm_command, "visible_gpus", lambda: list(range(8)))
    assert [servers_here(0, 1, "cuda", ranks) for ranks in (0, 4, 7, 8)] == [8, 4, 1, 8]
    assert [servers_here(0, 2, "cuda", ranks) for ranks in (4, 7, 8)] == [2, 4, 4]
    assert servers_here(3, 1, "cuda", 8) == 3 and servers_here(0, 1, "cpu", 2) == 1


def test_the_key_is_not_on_the_command_line_and_gpu_flags_differ() -> None:
    config = ServerConfig(tensor_parallel=2)
    on_cpu = server_command(config, "m", "float32", 1, "cpu")
    on_gpu = server_command(config, "m", "bfloat16", 1, "cuda")
    assert not any("key" in part for part in on_cpu + on_gpu)
    assert "--no-enable-chunked-prefill" in on_cpu and "--gpu-memory-utilization" not in on_cpu
    assert "--enforce-eager" not in on_gpu and on_gpu[on_gpu.index("--gpu-memory-utilization") + 1] == "0.45"
    assert on_gpu[on_gpu.index("--tensor-parallel-size") + 1] == "2"


def test_what_a_server_is_started_for_follows_the_settings() -> None:
    """A server that waits for another transfer, or can't sleep, fails at the first step. The CPU build has no sleep."""
    config = ServerConfig(weight_sync="ipc", sleep=True)
    on_gpu = server_command(config, "m", "bfloat16", 1, "cuda")
    assert "--enable-sleep-mode" in on_gpu
    assert on_gpu[on_gpu.index("--weight-transfer-config") + 1] == '{"backend": "nopsd-ipc"}'
    assert "--enable-sleep-mode" not in server_command(ServerConfig(), "m", "bfloat16", 1, "cuda")
    with pytest.raises(ConfigError, match=r"server\.sleep=true needs a GPU"):
        check_server_args(config, "cpu")
    check_server_args(config, "cuda")


def test_a_server_on_a_gpu_multiplies_as_the_trainer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 in attention is 1e-3 off in log-probs: every float32 check fails. What the user sets counts."""
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # of the rank that starts it
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    env = server_environment("k", "m", "cuda", "0")
    assert env["TRITON_F32_DEFAULT"] == "ieee" and env["VLLM_USE_FLASHINFER_SAMPLER"] == "1"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in env and "TRITON_F32_DEFAULT" not in server_environment("k", "m", "cpu")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("VLLM_PORT", "tcp://10.0.0.1:8000", False),  # of a Kubernetes service named vllm
        ("VLLM_PORT_8000_TCP_ADDR", "10.0.0.1", False),
        ("VLLM_SERVICE_HOST", "10.0.0.1", False),
        ("VLLM_PORT", "41000", True),  # a user's own
        ("VLLM_LOGGING_LEVEL", "DEBUG", True),
        ("WORLD_SIZE", "2", False),  # of torchrun or Kubeflow
    ],
)
def test_variables_that_vllm_would_misread_do_not_reach_it(
    name: str, value: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert (server_environment("k", "m", "cpu").get(name) == value) == kept


def test_shared_memory_that_is_too_small_is_found_before_workers_die_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that writes into a full /dev/shm is killed by SIGBUS, without a word."""
    monkeypatch.setattr(vllm_command.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 << 20))
    with pytest.raises(UserError, match=r"64 MiB free, .* need 160: .*--shm-size"):
        check_shared_memory(1, 2, tmp_path)
    check_shared_memory(4, 1, tmp_path)


def test_a_server_takes_no_module_from_the_working_folder_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "HUSH")
    monkeypatch.setenv("PYTHONPATH", f":{Path('/own')}:")
    environment = server_environment("k", "m", "cpu")
    assert environment["PYTHONSAFEPATH"] == "1" and "HUSH" not in environment.values()
    parts = environment["PYTHONPATH"].split(":")
    assert "" not in parts and parts[-1] == "/own"
