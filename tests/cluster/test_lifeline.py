"""What ends with whom: if these fail, a killed run leaves an engine with gigabytes that no SIGTERM ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCHING = """
import subprocess, sys, time
from nopsd.cluster.lifeline import end_with
other = int(sys.argv[1])
end_with(other)
print("watching", flush=True)
time.sleep(60)
"""
# vLLM in miniature: a server with an engine, which forks a worker; all as deaf to SIGTERM as vllm_main makes them.
SERVER = """
import multiprocessing, os, time
def work(say):
    say.send(os.getpid())
    time.sleep(60)
def engine(say):
    say.send(os.getpid())
    multiprocessing.get_context("fork").Process(target=work, args=(say,)).start()
    time.sleep(60)
def serve(method):
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context(method).Process(target=engine, args=(there,)).start()
    print(os.getpid(), here.recv(), here.recv(), flush=True)
    time.sleep(60)
"""


def gone(pids: list[int], within_s: float) -> bool:
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=within_s)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_process_ends_with_another_that_is_not_its_parent() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    watcher = subprocess.Popen([sys.executable, "-c", WATCHING, str(other.pid)], stdout=subprocess.PIPE, cwd=ROOT)
    assert watcher.stdout is not None and watcher.stdout.readline() == b"watching\n"
    other.kill()
    other.wait()
    assert watcher.wait(10) == -signal.SIGKILL
    watcher.stdout.close()


@pytest.fixture
def fake_vllm(tmp_path: Path) -> dict[str, str]:
    """An environment in which `vllm.entrypoints.openai.api_server` is SERVER."""
    folder = tmp_path / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    for package in (tmp_path / "vllm", tmp_path / "vllm" / "entrypoints", folder):
        (package / "__init__.py").write_text("")
    (folder / "code.py").write_text(SERVER)
    main = "import sys\nfrom vllm.entrypoints.openai.code import serve\nif __name__ == '__main__': serve(sys.argv[1])\n"
    (folder / "api_server.py").write_text(main)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("killed", ["all", "server"])
def test_engine_and_worker_end_with_the_server_however_it_is_killed(
    fake_vllm: dict[str, str], method: str, killed: str
) -> None:
    """`kill -9` of guardian and server at once left the engine behind, which had SIGTERM blocked."""
    command = [sys.executable, "-m", "nopsd.cluster.servers.vllm_main", method]
    guard = [sys.executable, "-I", "-S", str(ROOT / "nopsd" / "cluster" / "guardian.py"), *command]
    guardian = subprocess.Popen(
        guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=fake_vllm, cwd=ROOT, start_new_session=True
    )
    assert guardian.stdout is not None and guardian.stdin is not None
    server, engine, worker = (int(pid) for pid in guardian.stdout.readline().split())
    for pid in (server, engine, worker):  # a scheduler's notice to every process: the present step needs the server
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    assert all(psutil.pid_exists(pid) for pid in (server, engine, worker))
    for pid in (guardian.pid, server) if killed == "all" else (server,):
        os.kill(pid, signal.SIGKILL)
    assert gone([server, engine, worker], 10)
    guardian.stdin.close()
    guardian.wait(15)
    guardian.stdout.close()
