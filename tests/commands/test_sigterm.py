"""A scheduler's SIGTERM to the real command, its launcher, two ranks and the server: the step is done and saved; and a
user's Ctrl-C in a step (soak).

Its short form, in every test run, is in test_interrupted_run.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nopsd.files import read_jsonl
from nopsd.train.checkpoint import COMMITTED
from tests.commands.test_interrupted_run import SMALL, wait_for
from tests.rounding import LOSS

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
ENV = {**os.environ, "DS_ACCELERATOR": "cpu"}
STEPS = 8
PATIENCE_S = 1800.0  # on a machine that others use too


def command(stage: str, folder: Path) -> list[str]:
    settings = [s for s in SMALL if not s.startswith("train.steps")]
    return [
        sys.executable,
        "-m",
        "nopsd",
        stage,
        "--preset",
        "lab",
        f"run_dir={folder}",
        *settings,
        f"train.steps={STEPS}",
        "dist.ranks=2",
    ]


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come to the train stage."""
    folder = tmp_path_factory.mktemp("runs") / "selected"
    done = subprocess.run(
        command("select", folder), capture_output=True, text=True, env=ENV, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


class Training:
    """`nopsd train` of a folder. Use as a context manager: nothing of it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.metrics = folder, folder / "train" / "metrics.jsonl"
        self.out = folder.with_suffix(".out")

    def __enter__(self) -> Training:
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(command("train", self.folder), stdout=out, stderr=out, env=ENV)
        self.family: list[psutil.Process] = []
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(self.family, timeout=40)
        assert not alive, [p.cmdline() for p in alive]

    def rows(self) -> int:
        return self.metrics.read_text().count("\n") if self.metrics.exists() else 0

    def wait_for_rows(self, rows: int) -> None:
        wait_for(lambda: self.process.poll() is not None or self.rows() >= rows, PATIENCE_S, f"row {rows}")
        assert self.process.poll() is None, self.said()
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def said(self) -> str:
        return self.out.read_text()[-3000:]

    def ranks(self) -> list[psutil.Process]:
        return [p for p in self.family if "RANK" in p.environ() and "nopsd" in p.cmdline() and "train" in p.cmdline()]


@pytest.fixture
def train(selected: Path, tmp_path: Path) -> Iterator[Callable[[str], Training]]:
    def start(name: str) -> Training:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(selected, folder)
        return Training(folder)

    yield start


def saved(folder: Path) -> list[int]:
    return sorted(int(p.parent.name.split("_")[1]) for p in folder.glob(f"train/checkpoints/*/{COMMITTED}"))


def test_whoever_is_told_the_step_is_saved_and_the_run_goes_on_to_the_unbroken_ones_losses(
    train: Callable[[str], Training],
):
    """First the command alone, then every process of it, as Slurm does. Broken if DeepSpeed's launcher kills its ranks,
    the server dies before the step is done, a rank saves another step than the others, or the exit code is not 0."""
    with train("whole") as whole:
        assert whole.process.wait(PATIENCE_S) == 0, whole.said()
    for times in (1, 2):
        with train("broken") as broken:
            broken.wait_for_rows(broken.rows() + 1)
            told = [psutil.Process(broken.process.pid), *(broken.family if times == 2 else [])]
            for process in told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGTERM)
            assert broken.process.wait(PATIENCE_S) == 0, broken.said()
            assert broken.said().count("the same command continues") == times, broken.said()
            assert saved(broken.folder)[-1] == broken.rows()
            assert not (broken.folder / "train" / "manifest.json").exists()
    with train("broken") as broken:
        assert broken.process.wait(PATIENCE_S) == 0, broken.said()
    rows = [read_jsonl(run.metrics) for run in (whole, broken)]
    assert [row["step"] for row in rows[1]] == list(range(STEPS))
    for before, after in zip(*rows, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=LOSS)  # vLLM batches, and so rounds, as it likes


def test_a_second_sigterm_ends_all_at_once_where_the_step_hangs(train: Callable[[str], Training]):
    """Broken if a run whose rank hangs can only be ended by SIGKILL."""
    with train("hung") as hung:
        hung.wait_for_rows(1)
        ranks = hung.ranks()
        assert len(ranks) == 2
        ranks[1].suspend()
        hung.process.send_signal(signal.SIGTERM)
        time.sleep(4)
        assert hung.process.poll() is None
        hung.process.send_signal(signal.SIGTERM)
        assert hung.process.wait(60) == 130, hung.said()


def test_ctrl_c_in_a_step_is_one_line_and_the_same_command_goes_on(train: Callable[[str], Training]):
    """As a terminal sends it, to the group in the foreground. Broken if a traceback hides that nothing is lost, ranks
    or the server live on, or what was saved before can't be continued."""
    with train("stopped") as stopped:
        stopped.wait_for_rows(3)  # the first checkpoint is behind it, and a step is under way
        said, rows = len(stopped.out.read_text()), stopped.rows()
        stopped.process.send_signal(signal.SIGINT)
        assert stopped.process.wait(60) == 130, stopped.said()
        *steps, progress, last = stopped.out.read_text()[said:].strip().splitlines()
        assert all("train:" in line for line in steps) and "interrupted after" in progress, stopped.said()
        assert last == "nopsd: error: stopped; the same command continues where it was"
        assert rows < STEPS and not (stopped.folder / "train" / "manifest.json").exists()
    with train("stopped") as again:
        assert again.process.wait(PATIENCE_S) == 0, again.said()
    assert [row["step"] for row in read_jsonl(again.metrics)] == list(range(STEPS))
