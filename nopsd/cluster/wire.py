"""The protocol between sentinels and the coordinator: JSON lines over TCP, opened by a challenge.

The coordinator sends a random challenge; the sentinel's first line carries HMAC-SHA256(key, challenge + rank), so the
key itself is never sent and a process without it is disconnected. Standard library only.

Sentinel to coordinator: {"rank", "host", "proof"} once; {"at"} as heartbeat; {"failed", "message", "at", "of_rank"};
{"disconnect": true} before an orderly end. Coordinator to sentinel: {"challenge"}; {"alive": true} as heartbeat;
{"end": kind, "at_once": true?}.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from typing import Any

LONGEST_LINE = 1 << 16


def proof(key: str, challenge: str, rank: int) -> str:
    """What proves that a rank holds the key."""
    return hmac.new(key.encode(), f"{challenge} {rank}".encode(), hashlib.sha256).hexdigest()


def same(a: str, b: str) -> bool:
    """Equality in a time that does not depend on where they differ."""
    return hmac.compare_digest(a.encode(), b.encode())


def line(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Collects received bytes and returns the JSON objects that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[dict[str, Any]]:
        """The objects that are complete now. ValueError on what is no JSON object, or on an endless line."""
        *whole, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise ValueError("a line without an end")
        messages = [json.loads(text) for text in whole if text]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a JSON object")
        return messages


def connect(address: str, port: int, timeout_s: float) -> socket.socket:
    """A connection that sends small lines at once. OSError if there is none within the time."""
    connection = socket.create_connection((address, port), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
