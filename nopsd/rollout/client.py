"""Talks to a rollout server: token ids in, token ids out, each response stamped with the policy version.

Input: prompt ids and sampling settings; output: `Rollout`s, or log-probs of given responses. The same
client serves the CPU and the GPU build, started by us or by others. SPEC §3.1, §6 and F10, F16.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, TypeVar

import httpx

from nopsd.config import SamplingConfig, ServerConfig
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.rollout.types import Rollout

KEY_VARIABLE = "NOPSD_SERVER_KEY"
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
SEQUENCES_IN_FLIGHT = 256
FINISH_REASONS = ("stop", "length", "abort")
Progress = Callable[..., None]
T = TypeVar("T")


def connect(config: ServerConfig) -> RolloutClient:
    """A checked client of the server already running at `server.url`."""
    if not config.url:
        raise UserError("server.url is null: give the URL of a running server, or let the launcher start one")
    client = RolloutClient(config.url, config.api_key or os.environ.get(KEY_VARIABLE), config.request_timeout_s)
    client.check()
    return client


def request_seed(seed: int, uid: str) -> int:
    """Seed of a question's first sample (62 bits); sample i has this plus i, as vLLM counts.

    A function of (seed, uid) alone, so a response doesn't depend on what it was batched with.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{uid}".encode()).digest()[:8], "big") >> 2


class RolloutClient:
    """Thread-safe. Every failure is a ServerError that names the URL."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.api_key = api_key
        self.timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=10.0), limits=limits,
            trust_env=False,
        )
        self._model: tuple[str, int] | None = None

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------------ state

    def check(self) -> None:
        """ServerError unless the server is healthy, takes our key and can tell its policy version."""
        self.request("GET", "/health", retry=True)
        self._model = None
        self._served()
        self.policy_version()

    def policy_version(self) -> int:
        """Version of the weights being served; 0 for those the server was started with."""
        version = self.request("GET", "/weight_info", retry=True)["weight_version"]
        if version == "default":  # vLLM's name before any update
            return 0
        try:
            return int(version)
        except ValueError as error:
            raise ServerError(f"the server at {self.url} holds weight version {version!r}, not set by nopsd") from error

    def set_policy_version(self, version: int) -> None:
        self.request("POST", "/update_weight_version", {"new_version": str(version)})

    def max_model_len(self) -> int:
        """Longest prompt plus response, in tokens, that the server takes."""
        return self._served()[1]

    def world_size(self) -> int:
        """Worker processes that hold the served model."""
        return int(self.request("GET", "/get_world_size")["world_size"])

    def pause(self, timeout_s: float | None = None) -> None:
        """Let running requests end and queue new ones."""
        self.request("POST", "/pause?mode=wait", timeout_s=timeout_s)

    def resume(self, timeout_s: float | None = None) -> None:
        self.request("POST", "/resume", timeout_s=timeout_s)

    def reset_prefix_cache(self, timeout_s: float | None = None) -> None:
        """Forget keys and values made by other weights."""
        self.request("POST", "/reset_prefix_cache", timeout_s=timeout_s)

    # ------------------------------------------------------------------ sampling

    def generate(
        self, prompts: Sequence[list[int]], uids: Sequence[str], sampling: SamplingConfig, seed: int,
        expected_version: int | None = None, logprobs: bool = False, progress: Progress | None = None,
    ) -> list[list[Rollout]]:
        """`sampling.n` responses to each prompt (ids), in the order of the prompts.

        Reproducible: seeds derive from (seed, uid, sample). `logprobs`: also the log-probs under the
        served model itself (before temperature and truncation). Raises StaleWeightsError if the
        weights aren't `expected_version` before or after, or changed meanwhile; UserError if a prompt
        and its response can't fit the server's window.
        """
        self._refuse_misfits(prompts, uids, sampling)
        before = self._expect_version(expected_version)

        def one(i: int) -> list[Rollout]:
            return self._sample(prompts[i], uids[i], sampling, seed, before, logprobs)

        rows = self._concurrently(one, len(prompts), SEQUENCES_IN_FLIGHT // sampling.n, progress)
        self._expect_version(before)
        return rows

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[list[float]]:
        """Served log-probs of each response id given its prompt; lists as long as the responses.

        A prompt and its response together must leave one position of the server's window free.
        """
        window = self.max_model_len()
        for prompt, response in zip(prompts, responses, strict=True):
            if len(prompt) + len(response) >= window:
                raise UserError(
                    f"{len(prompt) + len(response)} tokens can't be scored in the window of {window} at {self.url}: "
                    "raise server.max_model_len"
                )
        return self._concurrently(lambda i: self._score(prompts[i], responses[i]), len(prompts), SEQUENCES_IN_FLIGHT)

    def _sample(
        self, prompt: list[int], uid: str, sampling: SamplingConfig, seed: int, version: int, logprobs: bool
    ) -> list[Rollout]:
        first_seed = request_seed(seed, uid)
        choices = self._complete({
            "prompt": prompt, "n": sampling.n, "seed": first_seed, "max_tokens": sampling.max_new,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
            # Given, for the server would else take them from the model's generation_config.json.
            "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "logprobs": 0 if logprobs else None, "return_tokens_as_token_ids": True,
        })
        if len(choices) != sampling.n:
            raise ServerError(f"the server at {self.url} gave {len(choices)} of {sampling.n} responses to {uid}")
        rollouts = []
        for sample, choice in enumerate(choices):
            if choice["finish_reason"] not in FINISH_REASONS:
                raise ServerError(f"the server at {self.url} ended {uid} by {choice['finish_reason']!r}")
            rollouts.append(Rollout(
                uid=uid, sample=sample, prompt_ids=list(prompt), response_ids=choice["token_ids"],
                text=choice["text"], finish_reason=choice["finish_reason"], policy_version=version,
                seed=first_seed + sample, logprobs=choice["logprobs"]["token_logprobs"] if logprobs else None,
            ))
        return rollouts

    def _score(self, prompt: list[int], response: list[int]) -> list[float]:
        ids = prompt + response
        (choice,) = self._complete({"prompt": ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0})
        table = choice["prompt_logprobs"]
        return [table[t][str(ids[t])]["logprob"] for t in range(len(prompt), len(ids))]

    def _complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Choices of one completion, in order of their index; refuses a server that returns no ids."""
        body = {"model": self._served()[0], "return_token_ids": True, **body}
        choices = sorted(self.request("POST", "/v1/completions", body, retry=True)["choices"], key=lambda c: c["index"])
        for choice in choices:
            if choice.get("token_ids") is None or choice.get("prompt_token_ids") != body["prompt"]:
                raise ServerError(
                    f"the server at {self.url} returned no token ids, or ids of another prompt: "
                    "use vLLM 0.32, whose completions take return_token_ids"
                )
        return choices

    # ------------------------------------------------------------------ checks

    def _served(self) -> tuple[str, int]:
        """Name and window of the served model."""
        if self._model is None:
            card = self.request("GET", "/v1/models", retry=True)["data"][0]
            self._model = card["id"], int(card["max_model_len"])
        return self._model

    def _expect_version(self, expected: int | None) -> int:
        version = self.policy_version()
        if expected is not None and version != expected:
            raise StaleWeightsError(
                f"the server at {self.url} holds policy version {version}, expected {expected}: "
                "another run may be using it, or a weight sync was missed"
            )
        return version

    def _refuse_misfits(self, prompts: Sequence[list[int]], uids: Sequence[str], sampling: SamplingConfig) -> None:
        if sampling.temperature == 0 and sampling.n > 1:
            raise UserError(f"temperature=0 gives one response, n={sampling.n} asked: set n=1 or a temperature above 0")
        window = self.max_model_len()
        for uid, prompt in zip(uids, prompts, strict=True):
            if len(prompt) + sampling.max_new > window:
                raise UserError(
                    f"question {uid}: a prompt of {len(prompt)} tokens and max_new={sampling.max_new} exceed the "
                    f"window of {window} at {self.url}: raise server.max_model_len or lower max_new"
                )

    # ------------------------------------------------------------------ transport

    def _concurrently(
        self, one: Callable[[int], T], total: int, in_flight: int, progress: Progress | None = None
    ) -> list[T]:
        """[one(0), ..., one(total - 1)], `in_flight` at a time; the first failure ends the rest."""
        pool = ThreadPoolExecutor(max(1, min(in_flight, 64, total)), thread_name_prefix="rollout")
        try:
            futures = [pool.submit(one, i) for i in range(total)]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if progress is not None:
                    progress(done, total)
            return [f.result() for f in futures]
        finally:
            pool.shutdown(cancel_futures=True)

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None,
        retry: bool = False,
    ) -> dict[str, Any]:
        """One call; its JSON answer, or {}. Connection errors and 503 are retried if `retry`."""
        delays = iter(RETRY_DELAYS_S if retry else ())
        timeout = httpx.Timeout(timeout_s, connect=10.0) if timeout_s is not None else httpx.USE_CLIENT_DEFAULT
        while True:
            try:
                response = self._http.request(method, path, json=body, timeout=timeout)
            except httpx.TimeoutException as error:
                raise ServerError(
                    f"the server at {self.url} gave no answer to {path} within {timeout_s or self.timeout_s:g} s"
                ) from error
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                if (delay := next(delays, None)) is None:
                    raise ServerError(
                        f"the server at {self.url} can't be reached ({path}: {reason}): see its log or check server.url"
                    ) from error
            else:
                if response.status_code != 503:
                    return self._answer(path, response)
                if (delay := next(delays, None)) is None:
                    raise ServerError(f"the server at {self.url} is not available ({path}: 503): see its log")
            time.sleep(delay)

    def _answer(self, path: str, response: httpx.Response) -> dict[str, Any]:
        if response.status_code == 401:
            raise ServerError(
                f"the server at {self.url} refuses our API key: set server.api_key, or the environment's {KEY_VARIABLE}"
            )
        if response.status_code == 404:
            raise ServerError(
                f"the server at {self.url} has no {path}: start vLLM with VLLM_SERVER_DEV_MODE=1 and "
                "--worker-extension-cls nopsd.rollout.vllm_plugin.WorkerExtension"
            )
        if response.is_error:
            text = response.text[:500]
            raise ServerError(f"the server at {self.url} answered {response.status_code} to {path}: {text}")
        return response.json() if response.content else {}
