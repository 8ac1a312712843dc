"""One host that isn't as the others: another package version, another clock, a stranger on the port. --soak.

What is planted lies in an overlay over the environment's packages, in node2's mount namespace alone, so that node2's
own Python, started over ssh, is what has the fault.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(sysconfig.get_path("purelib"))
NOPSD = (sys.executable, "-m", "nopsd")
pytestmark = [pytest.mark.soak, pytest.mark.engine]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"PATH": path, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


@contextmanager
def planted(hosts, name: str, folder: Path, files: dict[str, str]) -> Iterator[None]:
    """These files among a host's installed packages, seen there alone."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    mount = ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={folder}:{PACKAGES}", str(PACKAGES)]
    done = hosts.run(name, mount)
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stdout}")
    try:
        yield
    finally:
        assert hosts.run(name, ["umount", "--lazy", str(PACKAGES)]).returncode == 0


def launched(hosts, tmp_path: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """`nopsd launch neurons`, which must end before any stage has begun."""
    began = time.monotonic()
    words = [*NOPSD, "launch", "--hostfile", str(hosts.hostfile), "neurons", "--preset", "lab", *more]
    done = hosts.run("node1", [*words, f"run_dir={tmp_path / 'run'}"], 300, environment())
    return done, time.monotonic() - began


def test_another_package_version_on_one_host(two_hosts, tmp_path):
    """Named with host and remedy before anything starts: else two versions of one optimizer train one model."""
    found = metadata.distribution("peft")
    folder = next(p.parent.name for p in found.files if p.name == "METADATA")
    text = (PACKAGES / folder / "METADATA").read_text().replace(f"Version: {found.version}", "Version: 0.0.1", 1)
    with planted(two_hosts, "node2", tmp_path / "planted", {f"{folder}/METADATA": text}):
        done, seconds = launched(two_hosts, tmp_path)
    print(f"another version: refused after {seconds:.1f} s: {done.stdout[-300:]}")
    assert done.returncode != 0
    assert f"host node2: peft is 0.0.1, on the head {found.version}: install the same environment there" in done.stdout
    assert not (tmp_path / "run" / "rollout").exists(), "a stage had begun"


def test_another_clock_on_one_host(two_hosts, tmp_path):
    """A stand-in for a clock that is off: node2's Python adds 60 s to what the kernel says. `doctor` names the host."""
    skew = "import time; time.time = lambda real=time.time: real() + 60\n"
    with planted(two_hosts, "node2", tmp_path / "planted", {"zz_skewed_clock.pth": skew}):
        words = [*NOPSD, "doctor", "--hostfile", str(two_hosts.hostfile), "--json", "--preset", "lab"]
        done = two_hosts.run("node1", [*words, f"run_dir={tmp_path / 'run'}"], 400, environment())
    found = json.loads(done.stdout[done.stdout.index("{") :])["findings"]
    clocks = {f["host"]: f["message"] for f in found if f["check"] == "clock" and f["level"] == "error"}
    print(clocks)
    assert done.returncode == 1 and "node2" in clocks and "start chrony or ntpd there" in clocks["node2"]


def test_a_stale_process_on_the_ranks_port(two_hosts, tmp_path):
    """Without ssh the port is 29500 on every node. A left-over listener on it is reported on its host, with what to do;
    the other node, which connects to it instead of rank 0, ends too."""
    held = two_hosts.popen(
        "node1",
        [
            sys.executable,
            "-c",
            "import socket, time; s = socket.socket(); "
            "s.bind(('', 29500)); s.listen(); print(flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    held.stdout.readline()
    began, nodes = time.monotonic(), []
    config = ["--preset", "lab", f"run_dir={tmp_path / 'run'}", "dist.master_addr=10.77.0.1", "dist.timeout_s=30"]
    try:
        for number, name in enumerate(two_hosts.names):
            words = [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "--node-rank", str(number), "neurons"]
            nodes.append(
                two_hosts.popen(
                    name, [*words, *config], environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        printed = [node.communicate(timeout=400)[0] for node in nodes]
    finally:
        held.kill()
        held.wait()
    print(
        f"stale port: both ended after {time.monotonic() - began:.1f} s\n{printed[0][-600:]}\n---\n{printed[1][-600:]}"
    )
    assert all(node.returncode != 0 for node in nodes)
    assert "10.77.0.1:29500" in printed[0] and "listens on the ranks' port already" in printed[0]
    assert not [pid for name in two_hosts.names for pid in two_hosts.pids(name, "-m nopsd neurons")]
