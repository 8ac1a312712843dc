"""Clients whose server is a function, or a small object: for answers that a real one gives only when it is broken."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import httpx

from nopsd.rollout.client import RolloutClient


def client_answered_by(
    handle: Callable[[httpx.Request], httpx.Response], url: str = "http://scripted", *settings: Any
) -> RolloutClient:
    """A real client of `url`, made with `settings`; every request goes to `handle` instead of a socket."""
    with patch.object(httpx, "Client", functools.partial(httpx.Client, transport=httpx.MockTransport(handle))):
        return RolloutClient(url, *settings)


class Scripted:
    """A server in miniature: what it answers follows from the request alone, as with seeds."""

    def __init__(self, url: str, window: int = 64, delay_s: float = 0.002) -> None:
        self.url, self.window, self.delay_s = url, window, delay_s
        self.version, self.weights = "0", "w"
        self.state = "up"  # up|dead|hung|engine hung|broken
        self.dies_after: int | None = None  # answered completions
        self.dies_as = "dead"  # the state that follows
        self.done: list[int] = []  # the first prompt id's companion of each answered completion
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self.client = client_answered_by(self._handle, url, "key", 30.0, ())

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.state == "dead":
            raise httpx.ConnectError("refused")
        if self.state == "hung":
            timeout_s = request.extensions["timeout"]["read"]
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline and self.state == "hung":
                time.sleep(0.01)
            if self.state == "hung":
                raise httpx.ReadTimeout("no answer")
        if request.url.path == "/v1/completions":
            return self._complete(json.loads(request.content))
        answers: dict[str, Callable[[], Any]] = {
            "/v1/models": lambda: {"data": [{"id": "m", "max_model_len": self.window}]},
            "/weight_info": lambda: {"weight_version": self.version},
            "/weight_checker": lambda: {"checksums": {"dp0:a": self.weights, "dp0:b": "same"}},
            "/health": dict,
        }
        if request.url.path == "/collective_rpc":
            return httpx.Response(500, text="no worker extension")
        if request.url.path == "/metrics":
            return httpx.Response(200, text=f'vllm:generation_tokens_total{{e="0"}} {len(self.done)}.0\n')
        return httpx.Response(200, json=answers[request.url.path]())

    def _complete(self, body: dict[str, Any]) -> httpx.Response:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            time.sleep(self.delay_s)
            while not self._has_answered(body):
                time.sleep(0.01)
            if self.state == "broken":
                return httpx.Response(500, text="engine dead")
            return httpx.Response(200, json={"choices": [self._choice(body, i) for i in range(body.get("n", 1))]})
        finally:
            with self._lock:
                self.in_flight -= 1

    def _has_answered(self, body: dict[str, Any]) -> bool:
        """False while it hangs."""
        with self._lock:
            if self.dies_after is not None and len(self.done) >= self.dies_after:
                self.state = self.dies_as
            if self.state == "dead":
                raise httpx.RemoteProtocolError("gone")
            if self.state == "up":
                self.done.append(body["prompt"][1])
            return "hung" not in self.state

    def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        ids = body["prompt"]
        table = [None] + [{str(i): {"logprob": -0.5 if self.weights != "other" else -3.0}} for i in ids[1:]]
        return {
            "index": index,
            "text": "t",
            "finish_reason": "stop",
            "token_ids": [7, index, *ids],
            "prompt_token_ids": ids,
            "prompt_logprobs": table,
        }
