"""`nopsd doctor --hostfile` on two real hosts: it sees both, measures their wire, and finds planted faults."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.soak, pytest.mark.engine]


def diagnosis(hosts, tmp_path: Path, *more: str) -> tuple[dict, int]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "nopsd",
        "doctor",
        "--hostfile",
        str(hosts.hostfile),
        "--json",
        "--preset",
        "lab",
        f"run_dir={tmp_path / 'run'}",
        *more,
    ]
    done = hosts.run("node1", command, 400, environment)
    return json.loads(done.stdout[done.stdout.index("{") :]), done.returncode


def errors(found: dict) -> dict[str, str]:
    return {f"{f['check']} {f['host']}": f["message"] for f in found["findings"] if f["level"] == "error"}


def test_two_healthy_hosts(two_hosts, tmp_path):
    """Else a user can't believe `doctor` of a cluster: every check green, and a measured link."""
    found, code = diagnosis(two_hosts, tmp_path)
    assert code == 0, errors(found)
    assert set(found["hosts"]) == {"node1", "node2"} and found["hosts"]["node2"]["host"] == "node2"
    link = found["links"]["node1 - node2"]
    assert link["gib_per_s"] > 0.01 and 0 < link["latency_ms"] < 1000


def test_a_host_behind_a_cut_wire_is_named(two_hosts, tmp_path):
    """With what to try; and the other host's facts are there all the same."""
    two_hosts.cut("node2")
    try:
        found, code = diagnosis(two_hosts, tmp_path)
    finally:
        two_hosts.reconnect("node2")
    assert code == 1 and "ssh" in errors(found)["hosts node2"] and set(found["hosts"]) == {"node1"}


def test_a_port_in_use_on_one_host_alone(two_hosts, tmp_path):
    """Checked on the host itself: from the head it can't be seen."""
    held = two_hosts.popen(
        "node2",
        [
            sys.executable,
            "-c",
            "import socket, time; s = socket.socket(); s.bind(('', 34567)); s.listen(); time.sleep(300)",
        ],
    )
    try:
        found, code = diagnosis(two_hosts, tmp_path, "server.port=34567")
    finally:
        held.kill()
    assert code == 1 and list(errors(found)) == ["ports node2"]
