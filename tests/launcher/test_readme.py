"""launcher/README.md takes a user from two bare hosts to a run: if this fails, what they type there doesn't work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd.cli import parse
from nopsd.config import all_keys

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "launcher" / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)


def commands() -> list[list[str]]:
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith("nopsd ")]
    return [shlex.split(line.replace("$SMALL", small())) for line in lines]


def small() -> str:
    return re.search(r'^SMALL="(.*)"', PAGE, re.M)[1]


def test_every_command_is_one():
    """Flags, stages and keys are those of the parser; the blocks are what a shell reads."""
    assert len(commands()) >= 5
    for words in commands():
        seen = parse(words[1:])
        assert {item.split("=")[0] for item in seen.overrides} <= {key.name for key in all_keys()}, words
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", PAGE, re.M | re.S):
        assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0, block


def test_every_named_key_is_a_key():
    named = re.findall(r"`((?:dist|rollout|server|train)\.[a-z_.]+)[`=]", PAGE)
    assert named and set(named) <= {key.name for key in all_keys()}


@pytest.mark.soak
def test_the_page_as_written(two_hosts, tmp_path):
    """Every `bash` block, in order, in one shell on node1; SHARED is set as the page says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "SHARED": str(tmp_path),
    }
    script = f"set -euo pipefail\ncd {ROOT}\n" + "".join(BLOCKS)
    done = two_hosts.run("node1", ["bash", "-c", script], 3000, env)
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert (tmp_path / "runs" / "two" / "report" / "report.html").exists()
    assert f"--hostfile {tmp_path / 'hosts'} --exclude node2" in done.stdout
    assert not [pid for name in two_hosts.names for pid in two_hosts.pids(name, "-m nopsd")]
