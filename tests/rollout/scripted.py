"""A client whose server is a function: for answers that a real one gives only when it is broken."""

from __future__ import annotations

import functools
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
