"""vLLM's command line and environment for one of our rollout servers; the CPU build and the GPU build alike.

In: the `server` configuration, a model, a port, a key. Out: arguments and environment variables. Every difference
between the two builds at start-up is in this file.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import nopsd
from nopsd.cluster.servers.auth import KEY_VARIABLE
from nopsd.cluster.servers.vllm_args import check_with_vllm, refuse_owned
from nopsd.config import ServerConfig
from nopsd.errors import UserError
from nopsd.gpus import ALLOCATOR, SEGMENTS, visible_gpus
from nopsd.gpus import VARIABLE as DEVICES_VARIABLE
from nopsd.rollout.weight_sync import served_backend

MODEL_NAME = "policy"
GPU_DEFAULTS = {
    # Triton's attention in float32 would multiply in TF32, and the log-probs miss the trainer's by 1e-3.
    "TRITON_F32_DEFAULT": "ieee",
    # FlashInfer's sampler compiles with nvcc at first use, and seeds of single requests switch it off anyway.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
# Set by training launchers; vLLM would take them for its own.
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "CROSS_RANK",
    "CROSS_SIZE",
    "LOCAL_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "GROUP_RANK",
)


def server_command(config: ServerConfig, model: str, dtype: str, port: int, device: str) -> list[str]:
    """vLLM's command line. The API key isn't on it: others could read it there."""
    options = {
        "--model": model,
        "--served-model-name": MODEL_NAME,
        "--host": config.host,
        "--port": port,
        "--dtype": dtype,
        "--seed": config.seed,
        "--max-model-len": config.max_model_len,
        "--max-num-seqs": config.max_num_seqs,
        "--max-logprobs": -1,
        "--tensor-parallel-size": config.tensor_parallel,
        "--uvicorn-log-level": "warning",
        "--middleware": "nopsd.cluster.servers.auth.RequireKey",
        "--worker-extension-cls": "nopsd.rollout.vllm_plugin.WorkerExtension",
        "--weight-transfer-config": json.dumps({"backend": served_backend(config, device)}),
    }
    command = [sys.executable, "-m", "nopsd.cluster.servers.vllm_main"]
    command += [word for name, value in options.items() for word in (name, str(value))]
    command.append("--enable-prefix-caching")
    if device == "cpu":
        # Chunked prefill and per-request seeds don't go together in the CPU build (its engine dies).
        command += ["--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--kv-cache-memory-bytes", str(config.kv_cache_mib << 20)]
    else:
        command += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    return command + config.args


def check_server_args(config: ServerConfig, device: str) -> None:
    """ConfigError if `server.args` holds an option that is the run's own, or that vLLM's parser refuses."""
    if not config.args:
        return
    refuse_owned(config.args, device)
    own = server_command(replace(config, args=[]), ".", config.dtype or "auto", 1, device)
    check_with_vllm(own[own.index("--model") :], config.args)


def checked_model(model_path: str) -> str:
    """The model as vLLM is given it: a folder's absolute path, or a hub id. UserError if there is no such folder."""
    path = Path(model_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no config.json: give a model folder in the transformers format")
        return str(path.resolve())
    if path.is_absolute() or model_path.startswith("."):
        raise UserError(f"model folder {model_path} does not exist: check model.path")
    return model_path


def server_environment(key: str, model: str, device: str, devices: str | None = None) -> dict[str, str]:
    """The server's environment. `devices`: the GPUs it may use, None for all that this process may use."""
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    # An empty VLLM_CPU_KVCACHE_SPACE crashes the CPU build and a set one overrides our flag.
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)
    env.update({KEY_VARIABLE: key, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"})
    source = str(Path(nopsd.__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(p for p in (source, env.get("PYTHONPATH")) if p)
    if os.path.isdir(model):
        env["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        env["TORCHDYNAMO_DISABLE"] = "1"  # else the first request for log-probs compiles for 18 s
    else:
        for name, value in GPU_DEFAULTS.items():
            env.setdefault(name, value)
        if env.get(ALLOCATOR) == SEGMENTS:  # ours, of the rank that starts the server
            del env[ALLOCATOR]
    if devices is not None:
        env[DEVICES_VARIABLE] = devices
    return env


def devices_of(index: int, count: int, tensor_parallel: int, device: str, ranks: int = 0) -> str | None:
    """GPUs of the `index`-th of `count` servers on this host, as CUDA_VISIBLE_DEVICES takes them; None on a CPU.

    Args:
        ranks: how many ranks train on this host. They have the first GPUs; servers take those that are left, and only
            if these are too few the ranks' own.

    Raises:
        UserError: if there are fewer GPUs than `count` times `tensor_parallel`.
    """
    visible = visible_gpus() if device != "cpu" else []
    if not visible:
        return None
    needed = count * tensor_parallel
    if len(visible) < needed:
        raise UserError(
            f"rollout.servers_per_host={count} servers of server.tensor_parallel={tensor_parallel} devices need "
            f"{needed}, and {len(visible)} are visible here: lower one of the two"
        )
    own = visible[ranks:] if len(visible) - ranks >= needed else visible
    return ",".join(map(str, own[index * tensor_parallel : (index + 1) * tensor_parallel]))
