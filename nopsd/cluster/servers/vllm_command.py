"""vLLM's command line and environment for one of our rollout servers; the CPU build and the GPU build alike.

In: the `server` configuration, a model, a port, a key. Out: arguments and environment variables. Every difference
between the two builds at start-up is in this file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from nopsd.cluster.child_environment import child_environment
from nopsd.cluster.servers.auth import KEY_VARIABLE
from nopsd.cluster.servers.vllm_args import check_with_vllm, refuse_owned
from nopsd.config import ServerConfig
from nopsd.errors import ConfigError, UserError
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
# Kubernetes sets these for a service named vllm; vLLM takes VLLM_PORT for the first of its own ports and refuses a URL.
KUBERNETES = re.compile(r"VLLM_(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_\w+)")
SHARED_MIB = 160  # of vLLM's queue to the workers of one server: ten chunks of 16 MiB


def server_command(config: ServerConfig, model: str, dtype: str, port: int, device: str) -> list[str]:
    """vLLM's command line. The API key isn't on it: others could read it there.

    Args:
        config: The server's settings.
        model: An absolute folder, or a hub id.
        dtype: float32|bfloat16.
        port: It listens on.
        device: cpu|cuda.
    """
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
    if config.head_dtype:
        command += ["--hf-overrides", json.dumps({"head_dtype": config.head_dtype})]
    if device == "cpu":
        # Chunked prefill and per-request seeds don't go together in the CPU build (its engine dies).
        command += ["--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--kv-cache-memory-bytes", str(config.kv_cache_mib << 20)]
    else:
        command += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
        command += ["--enable-sleep-mode"] if config.sleep else []
    return command + config.args


def check_server_args(config: ServerConfig, device: str) -> None:
    """ConfigError for an option that is the run's own or that vLLM refuses, and for sleep where there is none."""
    if config.sleep and device == "cpu":
        raise ConfigError("server.sleep=true needs a GPU: vLLM's CPU build has no sleep mode; leave it out")
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
    """The server's environment: this process's, without what is another program's or secret.

    Args:
        key: Which its clients must know.
        model: A folder or a hub id.
        device: cpu|cuda.
        devices: The GPUs it may use, None for all that this process may use.
    """
    env = {k: v for k, v in child_environment(os.environ).items() if not KUBERNETES.fullmatch(k)}
    if not env.get("VLLM_PORT", "").isdigit():
        env.pop("VLLM_PORT", None)
    # An empty VLLM_CPU_KVCACHE_SPACE crashes the CPU build and a set one overrides our flag.
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)
    env.update({KEY_VARIABLE: key, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"})
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


def servers_here(count: int, tensor_parallel: int, device: str, ranks: int = 0) -> int:
    """How many servers this host starts: `count`, or for 0 as many as its devices take.

    Args:
        count: rollout.servers_per_host.
        tensor_parallel: Devices of each.
        device: cpu|cuda.
        ranks: How many train on this host. Servers take the devices that they leave, or all where they leave none.
    """
    if count:
        return count
    devices = len(visible_gpus()) if device != "cpu" else 1
    return max(1, max(0, devices - ranks) // tensor_parallel or devices // tensor_parallel)


def check_shared_memory(count: int, tensor_parallel: int, folder: Path = Path("/dev/shm")) -> None:
    """See that the workers of one server can exchange their batches.

    They die by SIGBUS where it is full, as in a container with Docker's default of 64 MiB.

    Args:
        count: Servers of this host.
        tensor_parallel: Workers of each.
        folder: Where shared memory is mounted.

    Raises:
        UserError: There is too little.
    """
    if tensor_parallel == 1 or not folder.is_dir():
        return
    free, needed = shutil.disk_usage(folder).free >> 20, count * SHARED_MIB
    if free < needed:
        raise UserError(
            f"{folder} has {free} MiB free, and {count} servers of server.tensor_parallel={tensor_parallel} need "
            f"{needed}: start the container with --shm-size=1g or --ipc=host, or set server.tensor_parallel=1"
        )
