"""What the stages of one command share: config, run folder, model, prompts, and the rollout service.

The server is started once, when a stage first needs it, and lives until the command ends; a rank
process finds it through the environment (`NOPSD_SERVER_URL`, `NOPSD_SERVER_KEY`). There may be several servers, with
one key: started here (`rollout.servers_per_host`), on other hosts by ssh (`rollout.hosts`, `rollout.colocate`), or
running elsewhere (`rollout.urls`, or the URL's commas).
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nopsd.cluster.planning import hosts_that_train, serving_hosts, start_rollout_servers
from nopsd.cluster.servers.local import VllmServer, start_servers, stop_servers
from nopsd.cluster.servers.remote import RemoteServers
from nopsd.cluster.servers.serve import serve
from nopsd.cluster.servers.vllm_command import servers_here
from nopsd.config import Config, EvalConfig, SamplingConfig, to_yaml
from nopsd.data.answers import leaves_think_open
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.reading import AnswerReader, answer_reader
from nopsd.data.records import Question
from nopsd.data.sources.others import load_retained, load_run_splits
from nopsd.data.splits import Splits
from nopsd.engine.device import device
from nopsd.engine.distributed import Ranks
from nopsd.evaluation.judge import Judge
from nopsd.files import write_atomic
from nopsd.keys import SERVER_KEY_VARIABLE, without_keys
from nopsd.models import ModelFiles, resolve_model
from nopsd.rollout.pool import URL_VARIABLE, connect, server_urls
from nopsd.rollout.service import RolloutService
from nopsd.rollout.types import Rollout
from nopsd.rollout.weight_sync import load_folder, serve_base
from nopsd.run.folder import RunFolder
from nopsd.run.progress import WaitsFor, duration, unsaid
from nopsd.run.rounds import check_one_round
from nopsd.selection.artefacts import Contexts


def eval_sampling(config: EvalConfig) -> SamplingConfig:
    """How evaluation samples, as the client takes it."""
    return SamplingConfig(config.n, config.temperature, config.top_p, config.top_k, config.max_new)


def serve_here(config: Config, ranks: int = 0) -> None:
    """`nopsd serve`: this host's rollout servers, beside `ranks` that train here, until standard input ends."""
    session = Session(config)
    folder = session.log_path("serve").parent.resolve()
    serve(config, str(session.model.path), folder, device(), ranks)


class Session:
    """Opened by one command; `close` ends the server if the session started it. ConfigError for several rounds."""

    def __init__(self, config: Config) -> None:
        check_one_round(config)
        self.config = config
        self.run = RunFolder(config.run_dir)
        self.ranks: Ranks | None = None  # in a rank process
        self.waits_for: WaitsFor = unsaid  # of the stage's progress
        self._servers: list[VllmServer] = []
        self._remote: RemoteServers | None = None
        self._client: RolloutService | None = None

    @cached_property
    def model(self) -> ModelFiles:
        return resolve_model(self.config.model)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model.path, trust_remote_code=self.config.model.trust_remote_code)

    @cached_property
    def renderer(self) -> PromptRenderer:
        return PromptRenderer(self.tokenizer, self.config.prompt, self.config.context.placement)

    @cached_property
    def splits(self) -> Splits:
        """Pool and tests as the source gives them now, for the data stage; later stages read `pool` and `tests`."""
        return load_run_splits(self.config)

    @cached_property
    def judge(self) -> Judge:
        """The answer key's only holder: it is read when something is judged."""
        return Judge(self.config)

    @cached_property
    def pool(self) -> list[Question]:
        """The data stage's pool."""
        return self.run.pool()

    @cached_property
    def questions(self) -> dict[str, Question]:
        """The pool by uid."""
        return {q.uid: q for q in self.pool}

    @cached_property
    def rollouts(self) -> list[Rollout]:
        """The rollout stage's zero-shot rollouts of the pool."""
        return self.run.rollouts()

    @cached_property
    def contexts(self) -> Contexts:
        """The select stage's demonstrations."""
        return self.run.contexts()

    @cached_property
    def student_prompts(self) -> dict[str, list[int]]:
        """uid -> ids of the zero-shot prompt, as the rollout stage rendered and sampled them."""
        return {r.uid: r.prompt_ids for r in self.rollouts}

    @cached_property
    def think_open(self) -> bool:
        """The chat template opens a think block in the prompt (Qwen3's thinking-only models)."""
        return leaves_think_open(self.tokenizer.decode(self.renderer.suffix(self.pool[0])))

    @cached_property
    def reader(self) -> AnswerReader:
        """Reads the answers that votes, rewards and selection go by."""
        return answer_reader(self.config, think_open=self.think_open)

    @cached_property
    def eval_reader(self) -> AnswerReader:
        """Reads answers as the evaluation does."""
        return answer_reader(self.config, self.config.eval.extract, self.think_open)

    @cached_property
    def retained(self) -> list[Question]:
        """The questions from elsewhere of `train.retain`, as the source gives them now; none where it is off."""
        return load_retained(self.config) if self.config.train.retain.share else []

    @cached_property
    def holdout(self) -> list[Question]:
        """The questions that the data stage held out of the pool."""
        return self.run.holdout()

    @cached_property
    def tests(self) -> dict[str, list[Question]]:
        """The data stage's test questions by domain."""
        return self.run.tests()

    def client(self) -> RolloutService:
        """A client of the rollout servers, which are started if there are none yet."""
        if self._client is None:
            config = self.config.server
            urls = server_urls(self.config)
            if not urls and (serving := serving_hosts(self.config)):
                with self.waits_for(self._server_start(f"on {', '.join(serving)}")):
                    self._remote = self._start_remote_servers()
                urls, config = self._remote.urls, replace(config, api_key=self._remote.key)
            if not urls:
                with self.waits_for(self._server_start(f"here; its log: {self.log_path('server').parent}")):
                    self._servers = self._start_servers()
                urls = [server.url for server in self._servers]
                config = replace(config, api_key=self._servers[0].api_key)
            self._client = connect(config, urls, self.config.rollout.hedge_s)
        return self._client

    def _server_start(self, where: str) -> str:
        limit = duration(self.config.server.startup_timeout_s)
        return f"the rollout server to start and load the model (at most {limit}; {where})"

    def _start_remote_servers(self) -> RemoteServers:
        """On other hosts too; what they are to serve with stands in a file that they see too."""
        file = self.run.root / "launch" / "serve.yaml"
        write_atomic(file, to_yaml(without_keys(self.config)))
        return start_rollout_servers(self.config, self.run.root, file.absolute())

    def _start_servers(self) -> list[VllmServer]:
        server, rollout = self.config.server, self.config.rollout
        ranks = int(os.environ.get("LOCAL_SIZE") or hosts_that_train(self.config)[0].slots)  # rank 0 may start them too
        count = servers_here(rollout.servers_per_host, server.tensor_parallel, device(), ranks)
        names = ["server"] if count == 1 else [f"server-{i}" for i in range(count)]
        dtype = server.dtype or self.config.model.dtype
        logs = [self.log_path(name) for name in names]
        return start_servers(server, str(self.model.path), dtype, logs, device(), ranks=ranks)

    def client_holding(self, folder: Path, version: int) -> RolloutService:
        """A client of a server that holds the weights of `folder` as policy `version`."""
        client = self.client()
        if version != 0:
            load_folder(client, folder, version)
        elif not self._servers or client.policy_version() != 0:  # those of this session were started on it
            serve_base(client, folder, self.model.hash)
        return client

    def server_environment(self) -> dict[str, str]:
        """What a rank process needs to find the server."""
        client = self.client()
        return {URL_VARIABLE: client.url, **({SERVER_KEY_VARIABLE: client.api_key} if client.api_key else {})}

    def log_path(self, name: str) -> Path:
        path = self.run.root / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        stop_servers(self._servers)
        if self._remote is not None:
            self._remote.close()
        self._client, self._servers, self._remote = None, [], None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
