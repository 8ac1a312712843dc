"""Whatever ends a rank or its launcher, all ranks end soon, and one message names who, where and what to do."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nopsd.cluster.launch_files import read_launch_file
from nopsd.cluster.watchdog import innermost

HEARTBEAT_S = 3.0
BOUND_S = 12.0  # for a heartbeat, the decision, the last messages, and a busy machine


def test_orderly_ranks_leave_no_trace(start_group):
    """If this fails, a run that went well is called a failure, or leaves processes behind."""
    group = start_group()
    (group.folder / "disconnect").touch()
    assert "kind" not in group.result()
    group.ended_after(time.monotonic(), BOUND_S)
    assert [process.returncode for process in group.ranks] == [0, 0]
    left = read_launch_file(group.folder / "launch.json")
    assert left.port == 0 and left.key == "", "the key was left behind"


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (lambda g: os.kill(g.pid(1), signal.SIGKILL), "vanished", "rank 1 on"),
        (lambda g: os.kill(g.pid(0), signal.SIGSTOP), "hung", "it is stopped"),
        pytest.param(
            lambda g: (g.folder / "raise.1").touch(), "raised", "ValueError: of its own", marks=pytest.mark.soak
        ),
    ],
    ids=["killed", "stopped", "raised"],
)
def test_a_lost_rank_ends_all(start_group, how, kind, message):
    """If this fails, a dead or hung rank leaves the others waiting, on paid devices, until a timeout of minutes."""
    group = start_group(HEARTBEAT_S)
    began = time.monotonic()
    how(group)
    result = group.result()
    assert result["kind"] == kind and message in result["message"] and socket.gethostname() in result["message"]
    assert group.ended_after(began, BOUND_S) < BOUND_S
    assert all(process.returncode != 0 for process in group.ranks)


@pytest.mark.soak
def test_the_consequence_is_not_taken_for_the_cause(start_group):
    """Rank 1's error comes first, but it only noticed that rank 0 had ended: the message must name rank 0."""
    group = start_group(HEARTBEAT_S)
    (group.folder / "raise.all").touch()
    time.sleep(0.2)
    os.kill(group.pid(0), signal.SIGKILL)
    result = group.result()
    assert result["rank"] == 0 and result["kind"] == "vanished"


def test_ranks_do_not_outlive_what_launched_them(start_group):
    """If this fails, killing the launching command leaves ranks on every host."""
    group = start_group(HEARTBEAT_S)
    began = time.monotonic()
    os.kill(group.head.pid, signal.SIGKILL)
    assert group.ended_after(began, BOUND_S) < BOUND_S


@pytest.mark.soak
def test_a_rank_does_not_outlive_its_sentinel(start_group):
    """If this fails, a rank whose sentinel was killed goes on unwatched."""
    group = start_group(HEARTBEAT_S)
    (sentinel,) = [pid for pid in _sentinels(group) if _parent(pid) == group.pid(1)]
    os.kill(sentinel, signal.SIGKILL)
    assert group.result()["rank"] == 1
    group.ended_after(time.monotonic(), BOUND_S)


def test_ranks_started_by_hand_watch_each_other(tmp_path):
    """Without a launching command rank 0's sentinel coordinates; if this fails, typed commands hang for ever."""
    code = (
        "import os, sys, time, json; from nopsd.cluster import rank; rank.setup('hand'); p = sys.argv[1]\n"
        "if os.environ['RANK'] == '0': json.dump(rank.run_coordinator(2.0, 'hand'), open(p + '.part', 'w')); "
        "os.rename(p + '.part', p)\n"
        "else:\n"
        "    while not os.path.exists(p): time.sleep(.05)\n"
        "    rank.join_coordinator(**json.load(open(p)))\n"
        "    open(p + '.joined', 'w')\n"
        "time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(root)}
    env.pop("NOPSD_LAUNCH", None)
    file = tmp_path / "where.json"
    command = [sys.executable, "-c", code, str(file)]
    ranks = [
        subprocess.Popen(command, env={**env, "RANK": str(i)}, stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    try:
        while not Path(f"{file}.joined").exists():
            assert all(r.poll() is None for r in ranks)
            time.sleep(0.05)
        began = time.monotonic()
        ranks[1].kill()
        _, printed = ranks[0].communicate(timeout=BOUND_S)
        assert ranks[0].returncode != 0 and "rank 1 on" in printed and "was killed" in printed
        assert time.monotonic() - began < BOUND_S
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def test_the_place_is_nopsds_own(lab_model_dir):
    """A heartbeat names our code, not the library that it waits in; if this fails, phases are meaningless."""
    from nopsd.files import sha256_file

    seen = []
    real = open

    class Spy:
        def __call__(self, *arguments):
            seen.append(innermost(sys._getframe()))
            return real(*arguments)

    import builtins

    builtins.open = Spy()
    try:
        sha256_file(lab_model_dir / "config.json")
    finally:
        builtins.open = real
    assert seen[0].startswith("files.py:") and seen[0].endswith("sha256_file")


def _sentinels(group) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"nopsd.cluster.sentinel" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
