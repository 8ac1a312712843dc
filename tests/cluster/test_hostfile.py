"""DeepSpeed's hostfile as we read it: the same hosts as DeepSpeed, and every mistake named with its line."""

import pytest
from deepspeed.launcher.runner import _parse_hostfile

from nopsd.cluster.hostfile import Host, hostfile_text, hosts_by_rank, read_hostfile, training_hosts
from nopsd.errors import ConfigError

GOOD = "# ours\n\nworker-0 slots=4\n  worker-1.lan   slots=2\n"


def test_the_hosts_are_those_that_deepspeed_reads(tmp_path):
    """If this fails, we check and watch other hosts than DeepSpeed starts ranks on."""
    file = tmp_path / "hosts"
    file.write_text(GOOD)
    ours = {host.name: host.slots for host in read_hostfile(file)}
    assert ours == dict(_parse_hostfile(GOOD.splitlines())) == {"worker-0": 4, "worker-1.lan": 2}
    again = dict(_parse_hostfile(hostfile_text(read_hostfile(file)).splitlines()))
    assert again == ours


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a slots=1\nb 2\n", 2, "HOST slots=N"),
        ("a slots=1\n\na slots=2\n", 3, "twice"),
        ("a slots=0\n", 1, "slots=0"),
        ("-oProxyCommand=x slots=1\n", 1, "no host name"),
        ("a slots=1 extra\n", 1, "HOST slots=N"),
        ("a slots=99999999999999999999999\n", 1, "slots=9"),
        ("a slots=1\nubuntu@b slots=2\n", 2, "names a user: write b, and in ~/.ssh/config .*`User ubuntu`"),
        ("node1:2222 slots=2\n", 1, "names a port: write node1, .*`Port 2222`"),
        ("fd00::11 slots=2\n", 1, "IPv6 address.*HostName ADDRESS"),
        ("[fd00::11] slots=2\n", 1, "IPv6 address"),
        ("a;reboot slots=2\n", 1, "no host name"),
        ("a\0b slots=2\n", 1, "no host name"),
        ("a slots=1\na..b slots=2\n", 2, "no host name"),
        (f"{'a' * 64} slots=2\n", 1, "no host name"),
        ("a slots=\u0663\n", 1, "HOST slots=N"),
    ],
)
def test_mistakes_name_their_line(tmp_path, text, line, message):
    """A hostfile of 512 lines has one bad one; a name that ssh would take for an option is refused."""
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_hostfile(file)
    assert f"{file}:{line}" in str(error.value)


def test_bytes_of_another_encoding_name_their_line_and_a_mark_is_read_over(tmp_path):
    """A comment in Latin-1 was a traceback; editors on Windows put a mark before the first line."""
    file = tmp_path / "hosts"
    file.write_bytes("# nœud\n# nmíud\na slots=1\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=f"{file}:1: .* save the file as UTF-8"):
        read_hostfile(file)
    file.write_text("\ufeffa slots=1\r\nb slots=2\r\n", newline="")
    assert read_hostfile(file) == [Host("a", 1), Host("b", 2)]


def test_no_file_and_no_host(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        read_hostfile(tmp_path / "none")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="names no host"):
        read_hostfile(tmp_path / "empty")


def test_rollout_hosts_do_not_train():
    hosts = [Host("a", 2), Host("b", 1), Host("c", 1)]
    assert training_hosts(hosts, ["b", "elsewhere"]) == [Host("a", 2), Host("c", 1)]
    assert hosts_by_rank(hosts) == ("a", "a", "b", "c")
    with pytest.raises(ConfigError, match="leave one"):
        training_hosts(hosts[:1], ["a"])
