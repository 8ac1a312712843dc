"""Rollout servers on other hosts, with stand-ins for `nopsd serve` and ssh: what is started, reported and ended."""

import os
import sys
import time

import pytest

from nopsd.cluster.servers import remote
from nopsd.cluster.servers.remote import RemoteServers
from nopsd.errors import ServerError

FAKE = """
import json, os, sys
folder, host, count = sys.argv[1:]
key = sys.stdin.readline().strip()
assert len(key) > 30
print("Welcome to", host)
print(json.dumps({"starting": int(sys.argv[3])}), flush=True)
for i in range(int(count)):
    print(json.dumps({"url": f"http://{host}:{i}", "pid": os.getpid()}), flush=True)
open(f"{folder}/{host}.key", "w").write(key)
while sys.stdin.read(1): pass
open(f"{folder}/{host}.gone", "w")
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """`stand_in(count)`: every host's command starts so many servers."""

    def use(count: int = 2, code: str = FAKE) -> None:
        monkeypatch.setattr(
            remote, "ssh_command", lambda host, command: [sys.executable, "-c", code, str(tmp_path), host, str(count)]
        )

    return use


def test_all_are_heard_and_all_end(stand_in, tmp_path):
    """One key for all, the URLs in the order of the hosts, and nothing left when we are done."""
    stand_in()
    with RemoteServers({"b": "10.0.0.2", "a": "10.0.0.1"}, tmp_path / "config.yaml", 20) as up:
        assert up.urls == ["http://b:0", "http://b:1", "http://a:0", "http://a:1"]
        deadline = time.monotonic() + 10
        while not ((tmp_path / "a.key").exists() and (tmp_path / "b.key").exists()):
            assert time.monotonic() < deadline
        time.sleep(0.2)
        assert {(tmp_path / f"{h}.key").read_text() for h in "ab"} == {up.key}
        assert not list(tmp_path.glob("*.gone"))
    assert {path.name for path in tmp_path.glob("*.gone")} == {"a.gone", "b.gone"}


def test_one_that_fails_is_named_and_the_others_end(stand_in, tmp_path):
    """If this fails, a server that can't start leaves other hosts' servers running, or the user without a reason."""
    code = FAKE.replace("key =", "if host == 'b': sys.exit('nopsd: error: port 8000 is in use')\nkey =")
    stand_in(1, code)
    with pytest.raises(ServerError, match="no rollout server on b: port 8000 is in use"):
        RemoteServers({"a": "10.0.0.1", "b": "10.0.0.2"}, tmp_path / "config.yaml", 20)
    deadline = time.monotonic() + 10
    while not (tmp_path / "a.gone").exists():
        assert time.monotonic() < deadline, "the other host's server was left running"


def test_one_that_is_late_is_named(stand_in, tmp_path):
    stand_in(1, FAKE.replace('"starting": int(sys.argv[3])', '"starting": 2'))
    with pytest.raises(ServerError, match="on a weren't healthy within"):
        RemoteServers({"a": "10.0.0.1"}, tmp_path / "config.yaml", 2)


def test_no_secret_is_on_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "NOPSD_SERVER_KEY", "s3cret")
    monkeypatch.setitem(os.environ, "HF_TOKEN", "s3cret")
    command = " ".join(remote.serve_command("node9", tmp_path / "config.yaml", "10.0.0.9"))
    assert "--ranks 0" in command and "--ranks 4" in " ".join(remote.serve_command("n", tmp_path, "10.0.0.9", 4))
    assert "s3cret" not in command and "server.host=10.0.0.9" in command and "BatchMode=yes" in command
