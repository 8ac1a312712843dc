"""ASGI middleware: every path of the rollout server but /health needs the API key.

vLLM's own `--api-key` guards /v1 alone; its development endpoints (/pause, /collective_rpc,
/update_weights, ...) would answer anybody. Given to vLLM as `--middleware nopsd.cluster.servers.auth.RequireKey`.
The key comes from the environment (VLLM_API_KEY), never from the command line, where `ps` shows it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

KEY_VARIABLE = "VLLM_API_KEY"
OPEN_PATHS = ("/health",)


class RequireKey:
    """Answers 401 to HTTP, and closes websockets, without the header `Authorization: Bearer KEY`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise RuntimeError(f"{KEY_VARIABLE} must be set: the server would be open to anybody")
        self.app = app
        self._expected = b"Bearer " + key.encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        guarded = scope["type"] in ("http", "websocket") and scope["path"] not in OPEN_PATHS
        if not guarded or self._has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized: API key missing or wrong"}'})

    def _has_key(self, scope: dict[str, Any]) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and secrets.compare_digest(given[0], self._expected)
