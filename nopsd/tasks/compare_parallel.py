"""A comparison's runs side by side, each on its own share of this host's devices (`parallel` of a plan).

In: a plan, and how many runs at a time. Out: the same run folders as of one run after the other. A process for each
share (nopsd.tasks.compare_worker) works off runs, with rollout servers and ranks of its own: on GPUs it sees its share
of them, on a CPU its share of the cores. A run waits for the stages that another one is making and that it can share.
If a process dies, its run has failed and a new process takes the next.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nopsd.cluster.child_environment import child_environment
from nopsd.cluster.logs import tail_of
from nopsd.engine.stopping import Notice
from nopsd.errors import ConfigError, Stopped
from nopsd.gpus import VARIABLE, visible_gpus
from nopsd.reporting.compare.plan import Member
from nopsd.run.progress import duration
from nopsd.tasks.compare_stages import unmade

POLL_S = 0.5
MODULE = "nopsd.tasks.compare_worker"
ENDING_S = 90.0  # for a worker to end its servers and ranks


@dataclass(frozen=True)
class Share:
    """The devices of one run: GPUs by number, or on a CPU cores."""

    gpus: tuple[int, ...]
    cores: tuple[int, ...]

    def __str__(self) -> str:
        kind, numbers = ("GPU", self.gpus) if self.gpus else ("core", self.cores)
        return f"{kind}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def shares_of(parallel: int) -> list[Share]:
    """Equal parts of the devices that this process may use; what is left over stays unused.

    Raises:
        ConfigError: There are fewer devices.
    """
    gpus, cores = visible_gpus(), sorted(os.sched_getaffinity(0))
    devices, kind = (gpus, "GPUs") if gpus else (cores, "CPU cores")
    each = len(devices) // parallel
    if not each:
        raise ConfigError(
            f"parallel={parallel}: a run needs a device of its own, and this command may use {len(devices)} {kind}: "
            f"set parallel={len(devices)} or less"
        )
    parts = [tuple(devices[i * each : (i + 1) * each]) for i in range(parallel)]
    return [Share(part, ()) if gpus else Share((), part) for part in parts]


def refuse_shared(parallel: int, runs: Sequence[Member]) -> None:
    """ConfigError for what runs at the same time would have in common: hosts, servers, a port."""
    if parallel == 1:
        return
    for member in runs:
        config = member.config
        for key, value, remedy in (
            ("dist.hostfile", config.dist.hostfile, "its runs take whole hosts: leave parallel out"),
            ("rollout.hosts", config.rollout.hosts, "servers hold one run's weights at a time: leave parallel out"),
            ("rollout.urls", config.rollout.urls, "servers hold one run's weights at a time: leave parallel out"),
            ("server.url", config.server.url, "a server holds one run's weights at a time: leave parallel out"),
            ("server.port", config.server.port, "each run has a server of its own: set server.port=0 for any free one"),
        ):
            if value:
                raise ConfigError(f"{member.name}: parallel={parallel} and {key}={value}: {remedy}")


@dataclass
class Task:
    """One piece of work: what a worker is asked, and how it stands."""

    name: str
    request: Mapping[str, Any]
    member: Member | None = None

    def unmade(self) -> set[str]:
        """What others would make alike and this has still to make."""
        return unmade(self.member) if self.member else set()


class Worker:
    """A process on its share of the devices. `task`: what it is at, None while it is idle."""

    def __init__(self, number: int, share: Share, root: Path) -> None:
        self.number, self.share = number, share
        self.log = root / "logs" / f"worker-{number}.log"
        self.task: Task | None = None
        self.log.parent.mkdir(exist_ok=True)
        words = [sys.executable, "-m", MODULE, str(root / "plan.yaml"), str(number)]
        gpus = {VARIABLE: ",".join(map(str, share.gpus))} if share.gpus else {}
        with open(self.log, "ab") as log, on_cores(share.cores):
            self.began = log.tell()
            self._process = subprocess.Popen(
                [*words, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=child_environment(os.environ) | gpus,
                start_new_session=True,  # Ctrl-C goes to this process alone, which ends the workers
            )
        assert self._process.stdin and self._process.stdout
        self.requests, self.answers = self._process.stdin, self._process.stdout

    def begin(self, task: Task) -> None:
        self.task, self.began_at = task, time.monotonic()
        try:
            print(json.dumps(task.request), file=self.requests, flush=True)
        except BrokenPipeError:
            pass  # the end of its answers is what is noticed

    def answer(self) -> dict[str, Any]:
        """Of the task, once there is something to read."""
        line = self.answers.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self._process.wait()
        return {"died": f"its process ended with exit code {code}; its log is {self.log} and ends\n{self.last_words()}"}

    def last_words(self) -> str:
        return tail_of(self.log, self.began)

    def send(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def close(self) -> None:
        """No more work; `wait` waits for the end."""
        try:
            self.requests.close()
        except BrokenPipeError:
            pass

    def wait(self) -> None:
        """Until it has ended; SIGKILL after ENDING_S, upon which the guardians of its servers and ranks end these."""
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.answers.close()


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile, by this thread, runs on these cores; () for all of this process's."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Workers:
    """All of a comparison's. Use as a context manager: leaving it ends them, at once after an error or Ctrl-C."""

    def __init__(self, root: Path, shares: Sequence[Share]) -> None:
        self.root = root
        self._workers = [Worker(i, share, root) for i, share in enumerate(shares, 1)]

    def work_off(self, tasks: Sequence[Task], done: Callable[[Task, dict[str, Any], float], None]) -> None:
        """All tasks, each by the first worker that is free, a task that shares work with one that is running later.

        Args:
            tasks: In the order in which they begin.
            done: Called with each, its answer, and its seconds.

        Raises:
            Stopped: SIGTERM came; what is running has been asked to finish its step and has ended.
        """
        left, notice, passed_on = list(tasks), Notice(), False
        before = signal.getsignal(signal.SIGTERM)
        notice.listen()
        try:
            while self._busy or (left and not passed_on):
                if notice.came_at is not None and not passed_on:
                    passed_on = True
                    for worker in self._busy:
                        worker.send(signal.SIGTERM)
                if not passed_on:
                    self._begin(left)
                for worker in self._answering():
                    task, seconds = worker.task, time.monotonic() - worker.began_at
                    assert task is not None
                    answer, worker.task = worker.answer(), None
                    if not passed_on:
                        done(task, self._replaced(worker, answer), seconds)
        finally:
            signal.signal(signal.SIGTERM, before)
        if passed_on:
            raise Stopped(f"SIGTERM: runs were asked to finish their step; {len(left)} had not begun")

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _begin(self, left: list[Task]) -> None:
        """Give idle workers what shares nothing with what is running."""
        for worker in self._workers:
            if worker.task is not None or not left:
                continue
            running = set[str]().union(*(w.task.unmade() for w in self._busy if w.task))
            task = next((task for task in left if not running & task.unmade()), None)
            if task is not None:
                left.remove(task)
                print(f"=== {task.name}: on {worker.share}, log {worker.log}", flush=True)
                worker.begin(task)

    def _answering(self) -> list[Worker]:
        """Those that have something to say, after POLL_S at most."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            return [key.data for key, _ in selector.select(POLL_S)]

    def _replaced(self, worker: Worker, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer; one of a worker that died as a failure, and a new worker in its place."""
        if "died" not in answer:
            return answer
        worker.close()
        worker.wait()
        self._workers[self._workers.index(worker)] = Worker(worker.number, worker.share, self.root)
        return {"failed": answer["died"]}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if kind is not None:
                worker.send(signal.SIGINT)
            worker.close()
        for worker in self._workers:
            worker.wait()


def outcome(answer: Mapping[str, Any], seconds: float) -> str:
    """A finished task's line on the console."""
    if "failed" in answer:
        return f"FAILED: {answer['failed']}"
    return f"done in {duration(seconds)}" if answer.get("worked") else "finished before"
