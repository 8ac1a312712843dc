"""nopsd.cli: every command is found, understood and described; what a command does not take is an error."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from nopsd import cli
from nopsd.commands.command import ALIASES, EXIT_CODES
from nopsd.commands.registry import COMMANDS
from nopsd.errors import ConfigError
from nopsd.run import runner
from nopsd.stages.registry import STAGES
from nopsd.tasks import status as tasks_status
from nopsd.terminal import painted


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message of a command line that can't be understood."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(argv))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_stages_are_commands_in_their_order() -> None:
    """Breaks if a stage has no command, or help lists stages in another order than that in which they run."""
    names = [name for name in COMMANDS if name in STAGES]
    assert tuple(names) == STAGES.names and set(ALIASES.values()) <= set(STAGES.names)


def test_score_is_the_neurons_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if the alias runs or redoes something else than the stage itself."""
    called = []
    monkeypatch.setattr(runner, "run_one", lambda stages, config, name, redo: called.append((name, redo)))
    assert cli.main(["score", "--preset", "lab", "--redo", "score"]) == 0
    assert called == [("neurons", "neurons")]


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    """Breaks if a command can't be found, or `nopsd --help` takes the seconds that torch takes."""
    code = """
import sys
from nopsd import cli
try:
    cli.main(["--help"])
except SystemExit as stopped:
    print("exit", stopped.code, {"torch", "numpy", "pandas", "matplotlib", "transformers"} & set(sys.modules))
"""
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "exit 0 set()" in text
    assert set(COMMANDS) <= {line.split()[0] for line in text.splitlines() if line.startswith("  ")}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if an example of a command's help is refused by its own parser."""
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert COMMANDS[name].help in capsys.readouterr().out
    shown = []
    for line in COMMANDS[name].examples.splitlines():
        words = line.split("   ")[0].strip().split() if "   " in line.strip() else line.split()
        assert words[0] == "nopsd", line
        shown.append(cli.parse(words[1:]).command)
    assert name in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["config", "--preset", "lab", "train.steps=3"],
        ["config", "train.steps=3", "preset=lab"],
        ["config", "train.steps=3", "--preset", "lab"],
        ["--preset", "lab", "config", "train.steps=3"],
        ["--local_rank=0", "config", "--preset", "lab", "train.steps=3"],  # as DeepSpeed's launcher writes it
        ["--local_rank", "0", "config", "train.steps=3", "--preset", "lab"],
    ],
)
def test_options_and_overrides_may_be_mixed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if a place of an option that is used, by users or launchers, is refused or its value lost."""
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "run_dir: runs/lab" in shown and "\n  steps: 3\n" in shown


def test_an_unknown_command_gets_the_nearest_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'trian': did you mean 'train'?" in refused(capsys, "trian", "--preset", "lab")
    assert "did you mean" not in refused(capsys, "xyzzy")
    assert "required: COMMAND" in refused(capsys)


@pytest.mark.parametrize(
    ("argv", "option", "having"),
    [
        (["config", "--question", "q01"], "--question", "inspect"),
        (["run", "--correct", "file"], "--correct", "inspect"),
        (["doctor", "--dry-run"], "--dry-run", "run, data"),
        (["run", "--hostfile", "hosts"], "--hostfile", "doctor, launch"),
        (["status", "--redo", "train"], "--redo", "run, data"),
    ],
)
def test_options_of_other_commands_are_refused(
    argv: list[str], option: str, having: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that is silently ignored looks as if it had worked."""
    assert f"{option} belongs to: nopsd {having}" in refused(capsys, *argv)


def test_main_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if a program that calls `main` in-process loses its own SIGTERM handler, mask or environment."""
    seen = []

    def status(config: object, as_json: bool) -> str:
        seen.append(signal.getsignal(signal.SIGTERM))
        if len(seen) == 2:
            raise ConfigError("it failed")
        return ""

    def own(number: int, frame: object) -> None:
        raise AssertionError("not sent")

    monkeypatch.setattr(tasks_status, "status", status)
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    before = signal.signal(signal.SIGTERM, own)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        environment = dict(os.environ)
        assert [cli.main(["status", "--preset", "lab"]) for _ in range(2)] == [0, 1]
        assert len(seen) == 2 and own not in seen, "while it runs, SIGTERM is main's"
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert dict(os.environ) == environment
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_sigterm_is_an_orderly_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if a scheduler's signal kills the command before it has ended its server and ranks."""
    monkeypatch.setattr(tasks_status, "status", lambda config, as_json: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["status", "--preset", "lab"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_help_is_one_screen_in_stage_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if a user has to scroll for a command, or reads the stages in another order than they run in."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_its_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if a script has to guess what a code means."""
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    codes = capsys.readouterr().out.split("exit codes:\n")[1]
    assert [int(line.split()[0]) for line in codes.splitlines()] == sorted(EXIT_CODES)


def test_quiet_prints_errors_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(stages: object, config: object, name: str, redo: object) -> None:
        print("progress")
        raise ConfigError("it failed")

    monkeypatch.setattr(runner, "run_one", chatty)
    assert cli.main(["select", "--preset", "lab", "-q"]) == 1
    assert capsys.readouterr() == ("", "nopsd: error: it failed\n")
    assert cli.main(["select", "--preset", "lab"]) == 1
    assert capsys.readouterr().out == "progress\n"


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks if an interrupt shows a traceback, or a script can't tell it from a failure."""

    def interrupted(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    for module, name in ((runner, "run_one"), (runner, "run_all"), (tasks_status, "status")):
        monkeypatch.setattr(module, name, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        ended = [cli.main([command, "--preset", "lab"]) for command in ("select", "run", "status")]
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [130] * 3
    assert capsys.readouterr().err == "nopsd: error: stopped; the same command continues where it was\n" * 3


def test_a_closed_pipe_is_no_traceback() -> None:
    """Breaks if `nopsd config | head -1` ends in a traceback."""
    command = f"{sys.executable} -m nopsd config --explain train | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks if a log file or a pipe gets escape codes, or NO_COLOR is ignored."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert painted("error", "red", io.StringIO()) == "error"
    assert painted("error", "red", Terminal()) == "\033[31merror\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("error", "red", Terminal()) == "error"
