"""Commands on other hosts by ssh without a terminal or a password, several hosts at a time.

In: host names, a command, its standard input. Out: its standard output by host, or an error that names the host and
the remedy.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nopsd.cluster.child_environment import python_environment
from nopsd.cluster.deepspeed_command import SSH_OPTIONS
from nopsd.errors import UserError

AT_A_TIME = 64
UNREACHABLE = 255  # ssh's own exit code
T = TypeVar("T")


class HostError(UserError):
    """A host can't be reached, or can't run what it is asked to; `host` names it."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(message)
        self.host = host


def ssh_command(host: str, command: Sequence[str], cwd: str | None = None) -> list[str]:
    """A command on a host, with a Python that takes no module from the folder it runs in.

    Args:
        host: As ssh knows it.
        command: What is run; no shell expands it.
        cwd: In this folder, which must be there too; None: this process's.
    """
    python = [f"{name}={value}" for name, value in python_environment(os.environ).items()]
    there = f"cd {shlex.quote(cwd or os.getcwd())} && exec env {shlex.join([*python, *command])}"
    return ["ssh", *SSH_OPTIONS, host, there]


def module_command(module: str, *arguments: str) -> list[str]:
    """This interpreter with one of our modules; hosts are expected to have the same environment at the same path."""
    return [sys.executable, "-m", module, *arguments]


def ask(host: str, command: Sequence[str], given: str, timeout_s: float) -> str:
    """The standard output of a command on a host.

    Args:
        host: As ssh knows it.
        command: What is run.
        given: Its standard input.
        timeout_s: Seconds that it may take.

    Raises:
        HostError: ssh or the command fails.
    """
    try:
        done = subprocess.run(
            ssh_command(host, command), input=given, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(host, f"host {host} gave no answer within {timeout_s:g} s: check `ssh {host} true`") from error
    last = (done.stderr.strip().splitlines() or ["no word of it"])[-1]
    if done.returncode == UNREACHABLE:
        raise HostError(
            host,
            f"host {host} can't be reached by ssh ({last}): `ssh -o BatchMode=yes {host} true` must work without "
            "a password; start its sshd, add your key there, or take the host out of the hostfile",
        )
    if done.returncode != 0:
        raise HostError(
            host,
            f"host {host} can't run {shlex.join(command[:3])} in {os.getcwd()} ({last}): it needs the same "
            "checkout and the same environment at the same path (launcher/setup_env.sh)",
        )
    return done.stdout


def ask_all(hosts: Sequence[str], one: Callable[[str], T]) -> tuple[dict[str, T], list[HostError]]:
    """`one(host)` of every host at once; answers by host, and what failed, in the order of the hosts."""
    answers: dict[str, T] = {}
    failures: list[HostError] = []
    with ThreadPoolExecutor(max(1, min(AT_A_TIME, len(hosts))), thread_name_prefix="ssh") as pool:
        for host, future in [(host, pool.submit(one, host)) for host in hosts]:
            try:
                answers[host] = future.result()
            except HostError as error:
                failures.append(error)
    return answers, failures
