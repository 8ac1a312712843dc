"""Two launches of worker_engines.py (1 and 2 ranks) and a server that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nopsd.cluster.servers.local import VllmServer, start_server
from nopsd.config import ServerConfig
from tests.models import save_small

WORKER = Path(__file__).with_name("worker_engines.py")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two random two-layer Qwen3 models: tied/ and untied/ (embeddings)."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("tied", "untied"):
        save_small(folder / name, tie_word_embeddings=name == "tied")
        (folder / name / "chat_template.jinja").write_text("{{ messages }}")  # stands for the tokenizer's files
    return folder


@pytest.fixture(scope="session")
def server(lab_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A small server of the lab's model, for all tests of this folder that train against one."""
    config = ServerConfig(max_model_len=512, max_num_seqs=16, kv_cache_mib=64, sync_bucket_mib=1)
    with start_server(config, str(lab_model_dir), "float32", tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def server_environment(server: VllmServer) -> dict[str, str]:
    """What a worker finds the server by (served.py)."""
    return {"NOPSD_SERVER_URL": server.url, "NOPSD_SERVER_KEY": server.api_key}


@pytest.fixture(scope="session")
def served_run(
    server_environment: dict[str, str],
    lab_model_dir: Path,
    deepspeed_run: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """`served_run(worker, *actions, timeout=900, out=None)`: a worker's actions on 2 ranks; the folder."""

    def run(worker: Path, *actions: str, timeout: float = 900.0, out: Path | None = None) -> Path:
        out = out or tmp_path_factory.mktemp(worker.stem)
        deepspeed_run(worker, lab_model_dir, out, *actions, timeout=timeout, env=server_environment)
        return out

    return run


@pytest.fixture(scope="session")
def engine_cases(
    deepspeed_run: Callable[..., Any], tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results by "RANKSxCASE": what each case of worker_engines.py left; `models` and `folders` beside them."""
    import torch

    plan = {
        1: ["micro4", "micro3", "export_untied"],
        2: ["micro2", "micro1", "align", "ema", "ema_bf16", "nonfinite", "resume", "export"],
    }
    found: dict[str, Any] = {"models": tiny_models, "folders": {}}
    for ranks, cases in plan.items():
        out = found["folders"][ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
        found[f"{ranks}xoutput"] = deepspeed_run(WORKER, tiny_models, out, *cases, ranks=ranks, timeout=500).output
        found |= {f"{ranks}x{case}": torch.load(out / f"{case}.pt", weights_only=True) for case in cases}
    return found


@pytest.fixture(scope="session")
def lost(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> tuple[Path, dict[int, Any]]:
    """The folder of worker_lost.py on 2, then 1, then 4 ranks, and what each size left."""
    import torch

    out = tmp_path_factory.mktemp("lost")
    run_ranks(WORKER.with_name("worker_lost.py"), {"models": tiny_models, "out": out}, 2, 1, 4, timeout=540)
    return out, {size: torch.load(out / f"{size}.pt", weights_only=True) for size in (1, 2, 4)}
