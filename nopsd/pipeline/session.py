"""What the stages of one command share: config, run folder, model, prompts, and the rollout server.

The server is started once, when a stage first needs it, and lives until the command ends; a rank
process finds it through the environment (`NOPSD_SERVER_URL`, `NOPSD_SERVER_KEY`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nopsd.config import Config, EvalConfig, SamplingConfig
from nopsd.data.answers import leaves_think_open
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks
from nopsd.models import ModelFiles, resolve_model
from nopsd.rollout.client import KEY_VARIABLE, RolloutClient, connect
from nopsd.rollout.server import VllmServer, start_server
from nopsd.rollout.weight_sync import load_folder
from nopsd.runs import RunFolder, read_jsonl

URL_VARIABLE = "NOPSD_SERVER_URL"


def device() -> str:
    """`cuda` where PyTorch sees a GPU and nobody asked for the CPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu"


def eval_sampling(config: EvalConfig) -> SamplingConfig:
    """How evaluation samples, as the client takes it."""
    return SamplingConfig(config.n, config.temperature, config.top_p, config.top_k, config.max_new)


class Session:
    """Opened by one command; `close` ends the server if the session started it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run = RunFolder(config.run_dir)
        self.ranks: Ranks | None = None  # in a rank process
        self._server: VllmServer | None = None
        self._client: RolloutClient | None = None

    @cached_property
    def model(self) -> ModelFiles:
        return resolve_model(self.config.model)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model.path, trust_remote_code=self.config.model.trust_remote_code)

    @cached_property
    def renderer(self) -> PromptRenderer:
        return PromptRenderer(self.tokenizer, self.config.prompt)

    @cached_property
    def pool(self) -> list[Question]:
        return [Question.from_json(row) for row in read_jsonl(self.run.stage_dir("data") / "pool.jsonl")]

    @cached_property
    def think_open(self) -> bool:
        """The chat template opens a think block in the prompt (Qwen3's thinking-only models)."""
        return leaves_think_open(self.tokenizer.decode(self.renderer.suffix(self.pool[0])))

    @cached_property
    def tests(self) -> dict[str, list[Question]]:
        tests: dict[str, list[Question]] = {}
        for row in read_jsonl(self.run.stage_dir("data") / "tests.jsonl"):
            tests.setdefault(row["domain"], []).append(Question.from_json(row))
        return tests

    def client(self) -> RolloutClient:
        """A client of the rollout server, which is started if there is none yet."""
        if self._client is None:
            server = self.config.server
            url = os.environ.get(URL_VARIABLE) or server.url
            if url is None:
                dtype = server.dtype or self.config.model.dtype
                self._server = start_server(
                    server, str(self.model.path), dtype, self.log_path("server"), device=device()
                )
                self._client = self._server.client(server.request_timeout_s)
            else:
                self._client = connect(replace(server, url=url))
        return self._client

    def client_holding(self, folder: Path, version: int) -> RolloutClient:
        """A client of a server that holds the weights of `folder` as policy `version`."""
        client = self.client()
        if client.policy_version() != version or version != 0:
            load_folder(client, folder, version)
        return client

    def server_environment(self) -> dict[str, str]:
        """What a rank process needs to find the server."""
        client = self.client()
        return {URL_VARIABLE: client.url, **({KEY_VARIABLE: client.api_key} if client.api_key else {})}

    def log_path(self, name: str) -> Path:
        path = self.run.root / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()
        self._client = self._server = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
