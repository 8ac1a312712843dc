"""Client of one rollout server: token ids in, token ids out, each response stamped with the policy version.

In: prompt ids and sampling settings. Out: `Rollout`s, or log-probs of given responses. The same client works with the
CPU and the GPU build of vLLM, whoever started it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from nopsd.config import SamplingConfig
from nopsd.errors import ServerError
from nopsd.keys import SERVER_KEY_VARIABLE
from nopsd.rollout.held import HeldWeights
from nopsd.rollout.service import RolloutService, request_seed
from nopsd.rollout.types import Rollout
from nopsd.rollout.weight_sums import WeightSum

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0)
CONNECT_TIMEOUT_S = 10.0
FINISH_REASONS = ("stop", "length", "abort")
# Counters that move while a server works, whatever it works at.
QUEUE = "vllm:request_queue_time_seconds"
WORK_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
# What a sleeping server can't do: it is woken first.
NEEDS_MEMORY = (
    "/v1/completions",
    "/collective_rpc",
    "/weight_checker",
    "/pause",
    "/init_weight",
    "/start_weight_update",
)
T = TypeVar("T")


class UnansweredError(ServerError):
    """No answer came: the same request may be sent again, to this server or another."""


class DeadlineError(UnansweredError):
    """No answer came within the request's time."""


class FailedError(ServerError):
    """The server answered 5xx: it is broken, or the request is."""


class RolloutClient(RolloutService):
    """One server. Thread-safe. Every failure is a ServerError that names the URL."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        retry_delays_s: tuple[float, ...] | None = None,
        sleeps: bool = False,
    ) -> None:
        """`sleeps`: it was started with vLLM's sleep mode, and may be asleep."""
        self.url = url.rstrip("/")
        self.api_key = api_key
        self.timeout_s = timeout_s
        self._retry_delays_s = retry_delays_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=limits,
            trust_env=False,
        )
        self._model: tuple[str, int] | None = None
        self._sleeps = self._is_asleep = sleeps
        self._turn = threading.Lock()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------------ the service of one server

    def servers(self) -> list[RolloutClient]:
        return [self]

    def policy_versions(self) -> dict[str, int]:
        return {self.url: self.held_version()}

    def call(self, ask: Callable[[RolloutClient], T], sequences: int = 1) -> T:
        return ask(self)

    def drop(self, server: RolloutClient, error: Exception) -> None:
        raise error

    # ------------------------------------------------------------------ state

    def check(self) -> None:
        """ServerError unless the server is healthy, accepts our key and reports its policy version."""
        self.request("GET", "/health", retry=True)
        self._model = None
        self._served()
        self.policy_version()

    def is_healthy(self, timeout_s: float) -> bool:
        """Whether /health is answered by 200 within `timeout_s`, at the first try."""
        try:
            self.request("GET", "/health", timeout_s=timeout_s)
        except ServerError:
            return False
        return True

    def held_version(self, timeout_s: float | None = None) -> int:
        """Version of the weights being served; 0 for those the server was started with."""
        version = self.request("GET", "/weight_info", timeout_s=timeout_s, retry=True)["weight_version"]
        if version == "default":  # vLLM's name before any update
            return 0
        try:
            return int(version)
        except ValueError as error:
            raise ServerError(f"the server at {self.url} holds weight version {version!r}, not set by nopsd") from error

    def set_policy_version(self, version: int, timeout_s: float | None = None) -> None:
        self.request("POST", "/update_weight_version", {"new_version": str(version)}, timeout_s)

    def max_model_len(self) -> int:
        return self._served()[1]

    def world_size(self) -> int:
        """Worker processes that hold the served model."""
        return int(self.request("GET", "/get_world_size")["world_size"])

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of each weight as vLLM holds it, by worker and name.

        On a GPU of all weights; the CPU build packs its linear layers away, and gives those of the rest.
        """
        return dict(self.request("POST", "/weight_checker", {"action": "checksum"}, retry=True)["checksums"])

    def held_weights(self) -> HeldWeights:
        """What the server read last; unknown where it runs without our plug-in."""
        try:
            answer = self.request("POST", "/collective_rpc", {"method": "nopsd_held_weights"}, retry=True)
        except FailedError:
            return HeldWeights("a folder that it doesn't name (it runs without nopsd's worker extension)")
        return HeldWeights(**answer["results"][0])

    def weight_sums(self) -> list[list[WeightSum]]:
        """Of what each worker holds, by `weight_sums`; none where the server runs without our plug-in."""
        body = {"method": "nopsd_weight_sums"}
        try:
            results = self.request("POST", "/collective_rpc", body, retry=True).get("results", [])
        except FailedError:
            return []
        return [[WeightSum(*entry) for entry in worker] for worker in results]

    def tokens_done(self, timeout_s: float) -> float:
        """Tokens read and written since the server's start: stands still only if the server does."""
        text = self._send("GET", "/metrics", None, timeout_s, ()).text
        lines = [line for line in text.splitlines() if line.startswith(WORK_COUNTERS)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def queue_time(self, timeout_s: float) -> tuple[float, float]:
        """Seconds that requests waited before they were computed, and how many, since the server's start."""
        text = self._send("GET", "/metrics", None, timeout_s, ()).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(QUEUE)]
        seconds, requests = (
            sum(float(value) for name, value in lines if name.startswith(f"{QUEUE}_{part}"))
            for part in ("sum", "count")
        )
        return seconds, requests

    def pause(self, timeout_s: float | None = None) -> None:
        """Let running requests end and queue new ones."""
        self.request("POST", "/pause?mode=wait", timeout_s=timeout_s)

    def resume(self, timeout_s: float | None = None) -> None:
        self.request("POST", "/resume", timeout_s=timeout_s)

    def reset_prefix_cache(self, timeout_s: float | None = None) -> None:
        """Forget keys and values made by other weights."""
        self.request("POST", "/reset_prefix_cache", timeout_s=timeout_s)

    def sleep(self) -> None:
        """Have the server give up its device's memory until it is next needed, where it can."""
        with self._turn:
            if self._sleeps and not self._is_asleep:
                self._send("POST", "/sleep?level=1&mode=wait", None, None, ())
                self._is_asleep = True

    def _wake(self) -> None:
        with self._turn:
            if self._is_asleep:
                self._send("POST", "/wake_up", None, None, ())
                self._is_asleep = False

    # ------------------------------------------------------------------ sampling

    def sample(
        self, prompt: list[int], uid: str, sampling: SamplingConfig, seed: int, version: int, logprobs: bool
    ) -> list[Rollout]:
        """`sampling.n` responses to one prompt, in one request; `version` is what they are stamped with."""
        first_seed = request_seed(seed, uid)
        choices = self._complete(
            {
                "prompt": prompt,
                "n": sampling.n,
                "seed": first_seed,
                "max_tokens": sampling.max_new,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                # Given, for the server would else take them from the model's generation_config.json.
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "logprobs": 0 if logprobs else None,
                "return_tokens_as_token_ids": True,
                # Thinking tags are special tokens of some tokenizers, and what stands before them is no answer.
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
            }
        )
        if len(choices) != sampling.n:
            raise ServerError(f"the server at {self.url} gave {len(choices)} of {sampling.n} responses to {uid}")
        rollouts = []
        for sample, choice in enumerate(choices):
            if choice["finish_reason"] not in FINISH_REASONS:
                raise ServerError(f"the server at {self.url} ended {uid} by {choice['finish_reason']!r}")
            rollouts.append(
                Rollout(
                    uid=uid,
                    sample=sample,
                    prompt_ids=list(prompt),
                    response_ids=choice["token_ids"],
                    text=choice["text"],
                    finish_reason=choice["finish_reason"],
                    policy_version=version,
                    seed=first_seed + sample,
                    logprobs=choice["logprobs"]["token_logprobs"] if logprobs else None,
                )
            )
        return rollouts

    def score_one(self, prompt: list[int], response: list[int]) -> list[float]:
        """Log-probs of the response ids given the prompt."""
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

    def _served(self) -> tuple[str, int]:
        """Name and window of the served model."""
        if self._model is None:
            card = self.request("GET", "/v1/models", retry=True)["data"][0]
            self._model = card["id"], int(card["max_model_len"])
        return self._model

    # ------------------------------------------------------------------ transport

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> dict[str, Any]:
        """One call of the server.

        Args:
            method: Of HTTP.
            path: Of the URL.
            body: JSON; None: none.
            timeout_s: Seconds; None: `server.request_timeout_s`.
            retry: Try again after connection errors and 503.

        Returns:
            The JSON answer, or {}.
        """
        if self._is_asleep and path.startswith(NEEDS_MEMORY):
            self._wake()
        delays = RETRY_DELAYS_S if self._retry_delays_s is None else self._retry_delays_s
        response = self._send(method, path, body, timeout_s, delays if retry else ())
        return response.json() if response.content else {}

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_s: float | None,
        delays_s: tuple[float, ...],
    ) -> httpx.Response:
        delays = iter(delays_s)
        timeout: Any = httpx.USE_CLIENT_DEFAULT
        if timeout_s is not None:
            timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        while True:
            try:
                response = self._http.request(method, path, json=body, timeout=timeout)
            except httpx.TransportError as error:
                if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
                    raise DeadlineError(
                        f"the server at {self.url} gave no answer to {path} within {timeout_s or self.timeout_s:g} s"
                    ) from error
                reason = f"{type(error).__name__}: {error}"
                if (delay := next(delays, None)) is None:
                    raise UnansweredError(
                        f"the server at {self.url} can't be reached ({path}: {reason}): see its log or check server.url"
                    ) from error
            else:
                if response.status_code != 503:
                    self._refuse_errors(path, response)
                    return response
                if (delay := next(delays, None)) is None:
                    raise UnansweredError(f"the server at {self.url} is not available ({path}: 503): see its log")
            time.sleep(delay)

    def _refuse_errors(self, path: str, response: httpx.Response) -> None:
        if response.status_code == 401:
            raise ServerError(
                f"the server at {self.url} refuses our API key: set server.api_key, or {SERVER_KEY_VARIABLE} in the "
                "environment"
            )
        if response.status_code == 404:
            raise ServerError(
                f"the server at {self.url} has no {path}: start vLLM with VLLM_SERVER_DEV_MODE=1 and "
                "--worker-extension-cls nopsd.rollout.vllm_plugin.WorkerExtension"
            )
        if response.is_error:
            kind = FailedError if response.status_code >= 500 else ServerError
            raise kind(f"the server at {self.url} answered {response.status_code} to {path}: {response.text[:500]}")
