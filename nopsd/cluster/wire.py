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
LONGEST_MESSAGE = 1 << 13  # characters of an error that is reported: a line must hold it, whatever JSON makes of it


def proof(key: str, challenge: str, rank: int) -> str:
    """What proves that a rank holds the key, in hexadecimal.

    Args:
        key: Of the group, which never travels.
        challenge: Of the coordinator, another one for each connection.
        rank: That connects.
    """
    return hmac.new(key.encode(), f"{challenge} {rank}".encode(), hashlib.sha256).hexdigest()


def same(a: str, b: str) -> bool:
    """Equality in a time that does not depend on where they differ."""
    return hmac.compare_digest(a.encode(errors="surrogatepass"), b.encode(errors="surrogatepass"))


def line(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Collects received bytes and returns the JSON objects that are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[dict[str, Any]]:
        """The objects that are complete now. ValueError, and nothing else, on any other bytes: what is no JSON object
        in UTF-8, a line that is too long, or nested too deeply to be read."""
        *whole, self._rest = (self._rest + received).split(b"\n")
        if any(len(text) > LONGEST_LINE for text in (*whole, self._rest)):
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        try:
            messages = [json.loads(text.decode()) for text in whole if text]
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a JSON object")
        return messages


def connect(address: str, port: int, timeout_s: float) -> socket.socket:
    """A connection that sends small lines at once.

    Raises:
        OSError: There is none within `timeout_s` seconds.
    """
    connection = socket.create_connection((address, port), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
