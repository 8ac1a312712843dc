"""`server.args`: options of vLLM's own for the servers that a run starts, checked before anything is computed.

In: the list of words. Out: nothing, or ConfigError. vLLM's own parser reads the whole command line in a process of its
own (it imports PyTorch and half of vLLM: some ten seconds, spent only where `server.args` is set):
`python -m nopsd.cluster.servers.vllm_args WORDS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from nopsd.errors import ConfigError

TIMEOUT_S = 300
PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")  # of vLLM 0.32, and before
# What a run's correctness stands on, and the key, if there is one, that says it.
OWNED = {
    "--api-key": "server.api_key",
    "--api-server-count": None,
    "--config": None,
    "--data-parallel-size": "rollout.servers_per_host",
    "--disable-frontend-multiprocessing": None,
    "--dtype": "server.dtype",
    "--enable-prefix-caching": None,
    "--enable-sleep-mode": "server.sleep",
    "--enforce-eager": None,
    "--gpu-memory-utilization": "server.gpu_memory_utilization",
    "--headless": None,
    "--host": "server.host",
    "--kv-cache-memory-bytes": "server.kv_cache_mib",
    "--logprobs-mode": None,
    "--max-logprobs": None,
    "--max-model-len": "server.max_model_len",
    "--max-num-seqs": "server.max_num_seqs",
    "--middleware": None,
    "--model": "model.path",
    "--pipeline-parallel-size": None,
    "--port": "server.port",
    "--root-path": None,
    "--seed": "server.seed",
    "--served-model-name": None,
    "--ssl-certfile": None,
    "--ssl-keyfile": None,
    "--tensor-parallel-size": "server.tensor_parallel",
    "--tokenizer": "model.path",
    "--trust-remote-code": "model.trust_remote_code",
    "--uds": None,
    "--uvicorn-log-level": None,
    "--weight-transfer-config": "server.weight_sync",
    "--worker-cls": None,
    "--worker-extension-cls": None,
}
SHORT = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dp": "--data-parallel-size"}
ON_GPUS_THE_USERS = ("--enforce-eager",)  # the CPU build alone must have it


def refuse_owned(args: Sequence[str], device: str) -> None:
    """ConfigError naming an option that the run itself sets, in any spelling that vLLM's parser takes."""
    for word in args:
        if not word.startswith("-"):
            continue
        name = word.split("=")[0].split(".")[0].rstrip("+").replace("_", "-").replace("--no-", "--", 1)
        name = SHORT.get(name, name)
        # argparse takes any unambiguous beginning of a name
        owned = OWNED if device == "cpu" else {key: OWNED[key] for key in OWNED if key not in ON_GPUS_THE_USERS}
        if meant := next((own for own in owned if own == name or (len(name) > 2 and own.startswith(name))), None):
            instead = f"set {OWNED[meant]}" if OWNED[meant] else "leave it out"
            raise ConfigError(f"server.args: {word}: {meant} is the run's own, which relies on it: {instead}")


def check_with_vllm(command: Sequence[str], args: Sequence[str]) -> None:
    """ConfigError with vLLM's own words if its parser refuses the command. `command`: the run's own words."""
    checker = [sys.executable, "-m", "nopsd.cluster.servers.vllm_args", *command, *args]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        done = subprocess.run(checker, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"server.args={list(args)}: vLLM's parser gave no answer within {TIMEOUT_S} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        reason = next((line.split("error: ", 1)[1] for line in reversed(lines) if "error: " in line), lines[-1])
        raise ConfigError(f"server.args={list(args)}: vLLM refuses them: {reason}")


def main(words: Sequence[str]) -> None:
    """Parse as vLLM's server does; exits with 2 and the reason where it would."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for name in PARSERS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).make_arg_parser(FlexibleArgumentParser()).parse_args(list(words))
            return
    raise SystemExit(f"error: this vLLM has its parser in none of {', '.join(PARSERS)}")


if __name__ == "__main__":
    main(sys.argv[1:])
