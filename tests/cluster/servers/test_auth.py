"""The API key on every endpoint: if these fail, anybody on the network can use or change the server."""

from __future__ import annotations

import httpx
import pytest

from nopsd.cluster.servers.auth import KEY_VARIABLE, RequireKey


def test_the_key_guard_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("reached")

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match=KEY_VARIABLE):
        RequireKey(app)


async def _ok(scope: dict, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"in"})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("header", "path", "status"),
    [
        ("Bearer right", "/pause", 200),
        ("Bearer wrong", "/pause", 401),
        ("Bearer right2", "/pause", 401),
        ("right", "/pause", 401),
        (None, "/pause", 401),
        (None, "/health/", 401),
        (None, "//health", 401),
        (None, "/health", 200),
    ],
)
def test_the_key_guard_lets_in_the_key_alone(
    monkeypatch: pytest.MonkeyPatch, header: str | None, path: str, status: int
) -> None:
    import asyncio

    monkeypatch.setenv(KEY_VARIABLE, "right")

    async def ask() -> int:
        transport = httpx.ASGITransport(RequireKey(_ok))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return (await http.post(path, headers={"Authorization": header} if header else {})).status_code

    assert asyncio.run(ask()) == status
