"""Rollout servers on other hosts: `nopsd serve` there, over ssh, for as long as this process lives.

In: hosts (`rollout.hosts`, or with `rollout.colocate` those that train), a configuration file that they can read too,
one key for all servers, given on standard input. Out: the URLs, once all are healthy; `close()` ends them. Each host
has one ssh connection: when it ends, for whatever reason and on either side, that host's servers are stopped and
nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from nopsd.cluster.launch_files import passed_on
from nopsd.cluster.logs import ERROR_PREFIX
from nopsd.cluster.ssh import module_command, ssh_command
from nopsd.errors import ServerError
from nopsd.keys import is_secret, new_key

ENDING_S = 40.0  # a server's own grace period, and ssh's
KEPT_LINES = 40  # of a host's standard error, for an error message


class RemoteServers:
    """Use as a context manager, or call `close()`. `key`: the key that every server requires."""

    def __init__(
        self, addresses: Mapping[str, str], config_file: Path, timeout_s: float, ranks: Mapping[str, int] | None = None
    ) -> None:
        """Start them and wait until they are healthy.

        Args:
            addresses: By host name, the host's own address to listen on.
            config_file: The configuration, which every host sees.
            timeout_s: Seconds that they may take.
            ranks: By host name, how many train there; None: none.

        Raises:
            ServerError: Naming a host that fails.
        """
        self.key = new_key()
        self._hosts: dict[str, _Connection] = {}
        try:
            for host, address in addresses.items():
                command = serve_command(host, config_file, address, (ranks or {}).get(host, 0))
                self._hosts[host] = _Connection(host, command, self.key)
            self._wait(time.monotonic() + timeout_s, timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        """In the order of the hosts."""
        return [url for connection in self._hosts.values() for url in connection.urls]

    def close(self) -> None:
        """Stop the servers on all hosts at once; returns when they are gone. May be called twice."""
        for connection in self._hosts.values():
            connection.hang_up()
        deadline = time.monotonic() + ENDING_S
        for connection in self._hosts.values():
            connection.wait(deadline)
        self._hosts = {}

    def __enter__(self) -> RemoteServers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, deadline: float, timeout_s: float) -> None:
        while late := [c for c in self._hosts.values() if c.expected is None or len(c.urls) < c.expected]:
            for connection in late:
                if connection.ended():
                    raise ServerError(f"no rollout server on {connection.host}: {connection.last_error()}")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"the rollout servers on {', '.join(c.host for c in late)} weren't healthy within "
                    f"server.startup_timeout_s={timeout_s:g}; their logs are in the run folder's logs/serve-*"
                )
            time.sleep(0.2)


def serve_command(host: str, config_file: Path, address: str, ranks: int = 0) -> list[str]:
    """Over ssh: `nopsd serve` with this process's settings of the environment, but none of its secrets.

    Args:
        host: As the hostfile names it.
        config_file: The run folder's config.yaml, which it must see there.
        address: Of the host, at which the servers listen.
        ranks: How many train there.
    """
    settings = [f"{k}={v}" for k, v in passed_on(os.environ).items() if not is_secret(k)]
    serve = module_command(
        "nopsd", "serve", "--config", str(config_file), f"server.host={address}", "--ranks", str(ranks)
    )
    return ssh_command(host, ["env", *settings, *serve])


class _Connection:
    """One host's ssh: the servers there run until our end of its standard input closes."""

    def __init__(self, host: str, command: Sequence[str], key: str) -> None:
        self.host, self.urls = host, list[str]()
        self.expected: int | None = None  # servers, once the host has counted its devices
        self._errors: list[str] = []
        # A session of its own: Ctrl-C goes to this process alone, which ends the servers when it needs them no longer.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        for stream, receive in ((self._process.stdout, self._fact), (self._process.stderr, self._error)):
            threading.Thread(target=_each_line, args=(stream, receive), name=f"ssh {host}", daemon=True).start()
        try:
            self._process.stdin.write(f"{key}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # ended() is checked later, and last_error() gives the reason

    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_error(self) -> str:
        time.sleep(0.3)  # for the rest of standard error
        own = [line.split(ERROR_PREFIX, 1)[1] for line in self._errors if ERROR_PREFIX in line]
        return own[-1] if own else " ".join(self._errors[-2:]) or f"ssh ended with {self._process.returncode}"

    def hang_up(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass

    def wait(self, deadline: float) -> None:
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # the host is cut off: its servers end when its sshd notices
            self._process.kill()
            self._process.wait()

    def _fact(self, text: str) -> None:
        try:
            fact = json.loads(text)
        except ValueError:
            return  # a login shell's greeting
        if isinstance(fact, dict) and "starting" in fact:
            self.expected = int(fact["starting"])
        if isinstance(fact, dict) and "url" in fact and "died" not in fact:
            self.urls.append(str(fact["url"]))

    def _error(self, text: str) -> None:
        self._errors = [*self._errors[-KEPT_LINES:], text.strip()]


def _each_line(stream: IO[str], receive: Callable[[str], None]) -> None:
    for text in stream:
        receive(text)
