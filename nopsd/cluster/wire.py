"""What sentinels and the coordinator say to each other: JSON lines over TCP, opened by a challenge.

The coordinator sends a random challenge; the sentinel's first line carries HMAC-SHA256(key, challenge + rank), so the
key itself never travels and nobody without it is listened to. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from typing import Any

LONGEST_LINE = 1 << 16


def proof(key: str, challenge: str, rank: int) -> str:
    """What shows that a rank holds the key."""
    return hmac.new(key.encode(), f"{challenge} {rank}".encode(), hashlib.sha256).hexdigest()


def same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


def line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Bytes as they come, JSON objects as they are complete."""

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
    """A connection that notices a small line at once. OSError if there is none within the time."""
    connection = socket.create_connection((address, port), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
