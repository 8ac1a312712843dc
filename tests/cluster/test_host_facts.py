"""A host's own facts, asked as over ssh: if these fail, unlike hosts train together, or a good one is refused."""

import json
import socket
import subprocess
import sys

from nopsd.cluster.host_facts import SOURCE, Wanted, model_hash, request, source_hash
from nopsd.models import LAB_MODEL


def test_facts_come_as_one_line_of_json(tmp_path):
    (tmp_path / "mark").write_text("token")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folders, names = {"run_dir": str(tmp_path / "not" / "yet")}, ["localhost", "nowhere.invalid"]
        wanted = Wanted(folders, str(LAB_MODEL), names, [port], str(tmp_path / "mark"))
        command = [sys.executable, "-m", "nopsd.cluster.host_facts"]
        done = subprocess.run(command, input=request(wanted), capture_output=True, text=True, check=True, timeout=60)
    facts = json.loads(done.stdout)
    assert facts["host"] == socket.gethostname() and facts["token"] == "token" and facts["ports_in_use"] == [port]
    assert facts["folders"]["run_dir"]["writable"] and facts["folders"]["run_dir"]["free"] > 0
    assert facts["names"]["nowhere.invalid"] == [] and facts["names"]["localhost"]
    assert facts["source"] == source_hash(SOURCE) and facts["model"] == model_hash(str(LAB_MODEL))


def test_a_changed_file_of_source_or_model_changes_the_hash(tmp_path):
    assert (SOURCE / "cluster" / "host_facts.py").is_file(), "the package's own folder is hashed"
    (tmp_path / "a.py").write_text("1")
    before = source_hash(tmp_path)
    (tmp_path / "a.py").write_text("2")
    assert source_hash(tmp_path) != before and model_hash(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("{}")
    first = model_hash(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert first != model_hash(str(tmp_path))
