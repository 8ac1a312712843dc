"""The guardian: if these fail, a killed run leaves a server behind, holding memory and a port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from nopsd.cluster import guardian

# A server in miniature: it and its child ignore SIGINT or not; says who they are.
COMMAND = """
import os, signal, subprocess, sys, time
if {stubborn}: signal.signal(signal.SIGINT, signal.SIG_IGN)
grandchild = "import signal, time; {ignore}time.sleep({child_life})"
child = subprocess.Popen([sys.executable, "-c", grandchild])
open({pids!r}, "w").write(f"{{os.getpid()}} {{child.pid}}\\n")
time.sleep({life})
sys.exit(7)
"""


def start(
    tmp_path: Path,
    stubborn: bool = False,
    life: float = 60.0,
    kill: bool = False,
    child_life: float = 60.0,
    stubborn_child: bool = False,
) -> tuple[subprocess.Popen[bytes], list[int]]:
    pids = tmp_path / "pids"
    ignore = "signal.signal(2, signal.SIG_IGN); " if stubborn_child else ""
    code = COMMAND.format(stubborn=stubborn, pids=str(pids), life=life, child_life=child_life, ignore=ignore)
    guard = [sys.executable, "-I", "-S", guardian.__file__, *(["--kill"] if kill else [])]
    command = [*guard, sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 20
    while not (pids.exists() and pids.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, [int(p) for p in pids.read_text().split()]


def all_gone(pids: list[int], within_s: float) -> bool:
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=within_s)
    return not alive


def test_closing_its_input_ends_command_and_grandchildren(tmp_path: Path) -> None:
    process, pids = start(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(15) == 128 + signal.SIGINT
    assert all_gone(pids, 1)


def test_with_kill_even_what_ignores_signals_ends_at_once(tmp_path: Path) -> None:
    """Broken if ranks that hang in a collective would outlast the command by the grace meant for servers."""
    process, pids = start(tmp_path, stubborn=True, kill=True, stubborn_child=True)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(guardian.GRACE_S / 4) == 128 + signal.SIGKILL
    assert all_gone(pids, 1)


def test_a_schedulers_sigterm_to_every_process_ends_none_of_them(tmp_path: Path) -> None:
    """Slurm's notice reaches guardian, command and grandchildren: broken if the server dies before the step is done."""
    process, pids = start(tmp_path, life=2.0, child_life=2.0)
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(15) == 7  # its own end, not the signal's
    assert process.stdin is not None
    process.stdin.close()


def test_it_passes_on_the_exit_code_and_ends_what_the_command_left(tmp_path: Path) -> None:
    """What ignores SIGINT too, after a grace of seconds."""
    process, pids = start(tmp_path, life=0.2, stubborn_child=True)
    assert process.wait(15) == 7
    assert all_gone(pids, 1)
    assert process.stdin is not None
    process.stdin.close()


def test_killing_the_guardian_itself_ends_the_command(tmp_path: Path) -> None:
    process, pids = start(tmp_path)
    process.kill()
    process.wait()
    try:
        assert all_gone(pids[:1], 5)
    finally:
        os.kill(pids[1], signal.SIGKILL)  # in the real server it is vLLM that watches its own children


def test_sigkill_of_the_parent_ends_everything(tmp_path: Path) -> None:
    parent_code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_guardian as t;"
        "p, pids = t.start(Path(sys.argv[2])); print(p.pid, *pids, flush=True); time.sleep(60)"
    )
    here = str(Path(__file__).parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, here, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(pids) == 3 and all_gone(pids, 15)
