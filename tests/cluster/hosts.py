"""Separate hosts on one machine, by Linux namespaces: each its own network, addresses, processes, hostname, sshd and
keys.

In: a folder, a number of hosts. Out: `Hosts`. Needs root, util-linux, iproute2,
OpenSSH's server and pdsh; `lacking()` says what isn't there. The bridge lies in a namespace of its own, so that
nothing of this machine's network is touched and several sets of hosts can be up at once. Whatever ends this process
ends the hosts.

By hand: python tests/cluster/hosts.py 2 COMMAND…   (runs COMMAND on node1, with $HOSTFILE set)
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

NETWORK = "10.77.0"
PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "pdsh": "pdsh",
}
PR_SET_PDEATHSIG = 1
UP_S = 15.0

SSH_CONFIG = """Host *
  IdentityFile /etc/ssh/id
  IdentitiesOnly yes
  GlobalKnownHostsFile /etc/ssh/ssh_known_hosts
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  LogLevel ERROR
"""
SSHD_CONFIG = """Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PrintMotd no
MaxStartups 100
PidFile none
"""
# The last line makes the shell a reaper of orphans, as an init is.
INIT = """hostname {name}
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount --bind {folder}/etc_hosts /etc/hosts
mount --bind {folder}/etc_ssh /etc/ssh
mount -t tmpfs tmpfs {folder}/local
[ ! -d "$HOME/.ssh" ] || mount -t tmpfs tmpfs "$HOME/.ssh"
read -r _   # until the network is there
{sshd} -D -e -f {folder}/sshd_config_{name} &
while :; do wait; sleep 1; done
"""


def lacking() -> str | None:
    """Why hosts can't be made here, or None if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "separate hosts need Linux namespaces, and those need root"
    for program, package in PROGRAMS.items():
        if which(program) is None:
            return f"{program} is not installed (Debian: apt-get install {package})"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "ip", "link", "add", "sw", "type", "bridge"],
        capture_output=True,
        text=True,
    )
    return f"namespaces are not permitted here: {tried.stderr.strip()}" if tried.returncode else None


def which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def as_a_login_would() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs, this process perhaps, ignore it


class Hosts:
    """`count` hosts node1, node2, … at 10.77.0.1, .2, …, which reach each other by name over ssh without a password.

    Files are this machine's, as on a cluster with a shared file system, apart from /dev/shm, /run and `local`,
    which are each host's own. Use as a context manager.
    """

    def __init__(self, folder: Path, count: int = 2, slots: int = 1) -> None:
        self.folder, self.names = Path(folder), [f"node{i + 1}" for i in range(count)]
        self.hostfile = self.folder / "hostfile"
        self.local = self.folder / "local"
        self._inits: dict[str, subprocess.Popen[bytes]] = {}
        self._switch: subprocess.Popen[bytes] | None = None
        self._write_files(slots)

    def __enter__(self) -> Hosts:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def address(self, name: str) -> str:
        return f"{NETWORK}.{self.names.index(name) + 1}"

    def popen(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, **kwargs: object):
        """Start a command on a host, as a login there would. It leads a session of its own and dies with us."""
        entered = ["nsenter", "--target", str(self.inner(name)), "--all", f"--wdns={os.getcwd()}"]
        # nsenter forks: the child must die with it too.
        guarded = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        return subprocess.Popen(
            [*entered, "--", *guarded],
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=as_a_login_would,
            **kwargs,
        )

    def run(
        self, name: str, command: Sequence[str], timeout: float = 120.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end; its stdout and stderr come together as `.stdout`."""
        process = self.popen(
            name, command, env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"{shlex.join(command)} on {name}: not done in {timeout:g} s\n{output}") from None
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    def pids(self, name: str, containing: str) -> list[int]:
        """Processes of a host, by this machine's ids, whose command line contains a text."""
        found = []
        here = os.stat(f"/proc/{self.inner(name)}/ns/pid").st_ino
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.stat(entry / "ns/pid").st_ino != here:
                    continue
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue  # it has just ended
            if containing in line and state != "Z" and not line.startswith(("nsenter", "setpriv")):
                found.append(int(entry.name))
        return sorted(found)

    def cut(self, name: str) -> None:
        """Take the host's link down."""
        self._on_switch("ip", "link", "set", f"to-{name}", "down")

    def reconnect(self, name: str) -> None:
        self._on_switch("ip", "link", "set", f"to-{name}", "up")

    def stop(self) -> None:
        """End the hosts with all that runs on them."""
        for process in [*self._inits.values(), *([self._switch] if self._switch else [])]:
            process.kill()  # unshare --kill-child takes the host's first process along, and so all the others
            process.wait()
            if process.stdin:
                process.stdin.close()
        self._inits, self._switch = {}, None

    def _start(self) -> None:
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent)
        for name in self.names:
            with open(self.folder / f"{name}.log", "wb") as log:
                self._inits[name] = subprocess.Popen(
                    [
                        "unshare",
                        "--net",
                        "--uts",
                        "--mount",
                        "--pid",
                        "--fork",
                        "--mount-proc",
                        "--kill-child",
                        "bash",
                        str(self.folder / f"init_{name}.sh"),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,
                    start_new_session=True,
                )
        ours = os.stat("/proc/self/ns/net").st_ino
        for process in (self._switch, *self._inits.values()):
            self._until(lambda p=process: os.stat(f"/proc/{p.pid}/ns/net").st_ino != ours, "a network namespace")
        self._on_switch("ip", "link", "add", "sw", "type", "bridge")
        self._on_switch("ip", "link", "set", "sw", "up")
        for name, process in self._inits.items():
            port = f"to-{name}"
            inner = ["peer", "name", "eth0", "netns", str(process.pid)]
            self._on_switch("ip", "link", "add", port, "type", "veth", *inner)
            self._on_switch("ip", "link", "set", port, "master", "sw", "up")
            inside = ["nsenter", "--target", str(process.pid), "--net", "ip"]
            for words in (
                ["addr", "add", f"{self.address(name)}/24", "dev", "eth0"],
                ["link", "set", "lo", "up"],
                ["link", "set", "eth0", "up"],
            ):
                subprocess.run([*inside, *words], check=True, capture_output=True)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        for name in self.names:
            self._until(lambda n=name: self._answers(n), f"ssh to {name}")

    def _answers(self, name: str) -> bool:
        return self.run(self.names[0], ["ssh", name, "true"], 10).returncode == 0

    def _until(self, true, what: str) -> None:
        deadline = time.monotonic() + UP_S
        while not true():
            if time.monotonic() > deadline:
                logs = "".join((self.folder / f"{n}.log").read_text() for n in self.names)
                raise RuntimeError(f"no {what} after {UP_S:g} s; their logs: {logs}")
            time.sleep(0.05)

    def inner(self, name: str) -> int:
        """The host's first process, by this machine's ids."""
        outer = self._inits[name].pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _on_switch(self, *command: str) -> None:
        assert self._switch is not None
        entered = ["nsenter", "--target", str(self._switch.pid), "--net"]
        subprocess.run([*entered, *command], check=True, capture_output=True)

    def _write_files(self, slots: int) -> None:
        folder, ssh = self.folder, self.folder / "etc_ssh"
        ssh.mkdir(parents=True)
        self.local.mkdir()
        for key in (ssh / "id", folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "authorized_keys").write_text(f'from="{NETWORK}.0/24" {(ssh / "id.pub").read_text()}')
        public = " ".join((folder / "host_key.pub").read_text().split()[:2])
        known = [f"{name},{self.address(name)} {public}\n" for name in self.names]
        (ssh / "ssh_known_hosts").write_text("".join(known))
        (ssh / "ssh_config").write_text(SSH_CONFIG)
        named = [f"{self.address(name)} {name}\n" for name in self.names]
        (folder / "etc_hosts").write_text("127.0.0.1 localhost\n" + "".join(named))
        self.hostfile.write_text("".join(f"{name} slots={slots}\n" for name in self.names))
        for name in self.names:
            values = {"name": name, "folder": folder, "address": self.address(name), "sshd": which("sshd")}
            (folder / f"sshd_config_{name}").write_text(SSHD_CONFIG.format(**values))
            (folder / f"init_{name}.sh").write_text(INIT.format(**values))


def main() -> int:
    reason = lacking()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, Hosts(Path(folder) / "hosts", int(sys.argv[1])) as hosts:
        return hosts.popen(hosts.names[0], sys.argv[2:], {"HOSTFILE": str(hosts.hostfile)}).wait()


if __name__ == "__main__":
    sys.exit(main())
