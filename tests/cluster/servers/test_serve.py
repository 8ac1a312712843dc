"""`nopsd serve` apart from vLLM: if these fail, servers are open to others, stay behind, or share a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd.cluster.servers import serve as serve_module
from nopsd.cluster.servers.serve import read_key
from nopsd.errors import UserError
from nopsd.keys import SERVER_KEY_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
# `serve` with servers that never come up, or are up at once; says what happens to them.
SERVE = """
import sys, time
from nopsd.config import Config
from nopsd.cluster.servers import serve
class Server:
    url, pid, log_path = "http://x", 1, "log"
    def check_alive(self): print("looked at", flush=True)
def start(config, model, dtype, logs, device, key, ready, ranks):
    assert key == "k1", key
    try:
        print("starting", flush=True)
        if sys.argv[1] == "slow": time.sleep(60)
        ready(Server())
        return [Server()]
    except BaseException:
        print("taken down while starting", flush=True)
        raise
serve.start_servers = start
serve.stop_servers = lambda servers: print("stopped", len(servers), flush=True)
serve.serve(Config(), "m", __import__("pathlib").Path("."), "cpu")
print("returned", flush=True)
"""


def run(how: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k != SERVER_KEY_VARIABLE}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("k1\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"starting": 1}
    assert process.stdout.readline() == "starting\n"
    return process


@pytest.mark.parametrize(("how", "by"), [("slow", "end of input"), ("up", "SIGTERM")])
def test_servers_end_with_the_input_or_a_signal_even_while_they_start(how: str, by: str) -> None:
    """A launcher that gives up while vLLM loads its model for minutes must not leave it behind."""
    process = run(how)
    assert process.stdin is not None and process.stdout is not None
    if how == "up":
        assert process.stdout.readline() == '{"url": "http://x", "pid": 1, "log": "log"}\n'
        assert process.stdout.readline() == "looked at\n"
    if by == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    assert process.wait(15) == 0
    ends = {"slow": "taken down while starting\nstopped 0\nreturned\n", "up": "stopped 1\nreturned\n"}
    assert process.stdout.read().replace("looked at\n", "") == ends[how]


def given_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    monkeypatch.setattr(serve_module.sys, "stdin", os.fdopen(reading, "rb", buffering=0))
    return reading


def test_the_key_is_the_first_line_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffered read would swallow the end of input that the servers live by."""
    monkeypatch.delenv(SERVER_KEY_VARIABLE, raising=False)
    descriptor = given_input(monkeypatch, b" secret \nrest")
    assert read_key() == "secret" and os.read(descriptor, 10) == b"rest"


def test_the_environments_key_comes_first_and_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER_KEY_VARIABLE, raising=False)
    given_input(monkeypatch, b"")
    with pytest.raises(UserError, match=SERVER_KEY_VARIABLE):
        read_key()
    monkeypatch.setenv(SERVER_KEY_VARIABLE, "own")
    assert read_key() == "own"
