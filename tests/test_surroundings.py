"""What a process may lack: if these fail, a locale, a user's own file or a missing home ends a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nopsd import cli
from nopsd.commands.registry import COMMANDS
from nopsd.surroundings import crash_report

ROOT = Path(__file__).resolve().parents[1]
DASH = "import nopsd.cli as c, sys; c.parse = lambda argv: print('a – Ω') or sys.exit(7); c.main()"


def run(tmp_path: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**base, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "en_US.ISO-8859-1"},
        {"PYTHONUTF8": "1"},
    ],
)
def test_a_dash_can_be_printed_whatever_the_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    """A table's dash ended a whole run with exit code 1."""
    (tmp_path / "dash.py").write_text(DASH)
    done = run(tmp_path, str(tmp_path / "dash.py"), **environment)
    assert done.returncode == 7 and done.stdout.startswith("a "), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_ends_nothing(tmp_path: Path, closed: str) -> None:
    """A service manager may start commands so: Python's stream is None there."""
    script = f"import subprocess, sys; sys.exit(subprocess.call('{sys.executable} dash.py {closed}', shell=True))"
    (tmp_path / "dash.py").write_text(DASH)
    assert run(tmp_path, "-c", script).returncode == 7


@pytest.mark.parametrize("module", ["random", "socket", "logging", "numbers"])
def test_a_module_of_the_working_folder_does_not_stand_in_for_pythons_own(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('the wrong one')")
    done = run(tmp_path, "-m", "nopsd", "config", "--preset", "lab")
    assert done.returncode == 0 and "the wrong one" not in done.stderr, done.stderr[-500:]


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(arguments: object) -> int:
        from nopsd.commands.command import load

        load(arguments)  # type: ignore[arg-type]
        raise KeyError("nobody thought of it\nsecond line")

    command = COMMANDS["config"]
    monkeypatch.setattr(cli, "parse", lambda argv: parsed(argv, command, crash))


def parsed(argv: list[str], command: object, crash: object) -> object:
    import argparse

    parser = argparse.ArgumentParser()
    command.fill(parser)  # type: ignore[attr-defined]
    parser.set_defaults(run=crash)
    return parser.parse_args(argv[1:])


def test_the_unforeseen_is_one_line_and_a_file_with_the_traceback(
    crashing: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", "--preset", "lab", f"run_dir={tmp_path}"]) == cli.CRASHED
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nopsd: error: unexpected KeyError in " in said
    (log,) = (tmp_path / "logs").glob("crash-*.log")
    assert str(log) in said and "second line" in log.read_text() and "Traceback" in log.read_text()


@pytest.mark.parametrize(
    "words", [("status", "x" * 300), ("init", "x" * 300), ("data", "eval.targets=[%s]" % ("x" * 300))]
)
def test_a_name_that_is_too_long_is_no_bug(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--preset", "lab", "--dry-run"] if words[0] == "data" else []
    assert cli.main([*words, *extra]) == 1
    said = capsys.readouterr().err
    assert "File name too long: shorten it" in said and "unexpected" not in said


def test_a_full_disk_is_said_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/pool.jsonl")

    monkeypatch.setattr(cli, "parse", lambda argv: parsed(argv, COMMANDS["config"], full))
    assert cli.main(["config"]) == 1
    assert "runs/x/pool.jsonl: No space left on device: free some space" in capsys.readouterr().err


def test_where_no_run_folder_is_it_lies_among_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = crash_report(ValueError(""), "/nowhere/at/all")
    assert "no message" in said and len(list(tmp_path.glob("crash-*.log"))) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_an_entry_and_without_a_home_gets_one() -> None:
    code = (
        "import getpass, os, pathlib, pwd, tempfile; from nopsd.surroundings import have_home\n"
        "os.setgid(54321); os.setuid(54321); have_home(); print(getpass.getuser(), pathlib.Path.home())"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        user, home = done.stdout.split() or ["", done.stderr]
        assert user == "54321" and home.startswith(folder), home
