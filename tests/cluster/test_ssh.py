"""Commands on other hosts: what each failure says. A stand-in for ssh runs the command here, or fails."""

import sys
from pathlib import Path

import pytest

import nopsd
from nopsd.cluster.ssh import HostError, ask, ask_all, module_command

SSH = """#!/bin/sh
for last in "$@"; do host=$command; command=$last; done
case $host in
    gone) echo "ssh: connect to host gone: No route to host" >&2; exit 255 ;;
    slow) exec sleep 30 ;;
    *) exec sh -c "$command" ;;
esac
"""


@pytest.fixture(autouse=True)
def ssh(tmp_path, monkeypatch):
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)


def test_a_command_runs_in_this_folder_with_its_input(tmp_path):
    """Else a host starts its ranks in its home folder, without the checkout."""
    assert ask("a", ["cat"], "two words", 20.0) == "two words"
    assert ask("a", ["pwd"], "", 20.0).strip() == str(tmp_path)
    assert ask("a", ["printf", "%s", "it's $HOME"], "", 20.0) == "it's $HOME"  # nothing is expanded on the way


def test_a_users_module_there_does_not_stand_in_for_pythons_own(tmp_path):
    """`cd FOLDER && python -m …` would import the folder's json.py, and nopsd from wherever the host finds one."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "nopsd.py").write_text("raise SystemExit('the wrong one')")
    assert ask("a", module_command("json.tool"), "{}", 20.0) == "{}\n"
    found = ask("a", [sys.executable, "-c", "import json, nopsd; print(nopsd.__file__)"], "", 20.0)
    assert Path(found.strip()) == Path(nopsd.__file__)


@pytest.mark.parametrize(
    ("host", "command", "words"),
    [
        ("gone", ["true"], r"host gone can't be reached by ssh \(.*No route.*without a password"),
        ("a", ["sh", "-c", "echo no torch >&2; exit 3"], r"host a can't run sh -c .*\(no torch\).*same environment"),
        ("slow", ["true"], r"host slow gave no answer within 0.3 s: check `ssh slow true`"),
    ],
)
def test_each_failure_names_the_host_and_the_remedy(host, command, words):
    """A user with sixteen hosts must know which one to repair, and how."""
    with pytest.raises(HostError, match=words) as failed:
        ask(host, command, "", 0.3 if host == "slow" else 20.0)
    assert failed.value.host == host


def test_many_hosts_are_asked_at_once_and_failures_come_in_their_order():
    """One lost host must not hide another, nor the answers of the rest."""
    answers, failures = ask_all(["b", "gone", "a"], lambda host: ask(host, ["printf", host], "", 20.0))
    assert answers == {"b": "b", "a": "a"} and [error.host for error in failures] == ["gone"]
