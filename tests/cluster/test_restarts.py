"""What `nopsd launch --restarts` starts again, and on which hosts: if these fail, a bug is run again and again."""

from dataclasses import replace

import pytest

from nopsd.cluster.hostfile import read_hostfile
from nopsd.cluster.preflight import HostsError
from nopsd.cluster.restarts import is_transient, should_restart, without_hosts
from nopsd.cluster.root_cause import Failure
from nopsd.config import Config, DistConfig, RolloutConfig
from nopsd.errors import ServerError, UserError


def test_only_transient_failures_restart():
    """--restarts must not run a bug again and again; a broken connection, or a lost rank, may not come again."""
    assert is_transient(Failure("vanished", 1, "a")) and is_transient(Failure("silent", 1, "a"))
    assert is_transient(Failure("raised", 1, "a", message="RuntimeError: [gloo] Connection closed by peer"))
    lost = "no rollout server is left: http://a (no answer to 3 calls of /health in a row): see their logs"
    assert is_transient(Failure("raised", 0, "a", message=lost)), "the command's servers are started again with it"
    assert not is_transient(Failure("raised", 1, "a", message="ValueError: bad row"))
    assert should_restart(ServerError(lost)) and should_restart(HostsError(["a"], "host a can't be reached"))
    assert not should_restart(ServerError("the server at http://a refuses our API key: set server.api_key"))


def test_hosts_are_left_out_only_if_enough_remain(tmp_path):
    """--min-nodes: without it, or with too few left, nothing starts; else the next hostfile lacks the lost host."""
    (tmp_path / "hosts").write_text("a slots=2\nb slots=2\nc slots=2\n")
    config = Config(run_dir=str(tmp_path), dist=DistConfig(hostfile=str(tmp_path / "hosts")))
    left = without_hosts(config, ["b"], 2)
    assert [host.name for host in read_hostfile(left.dist.hostfile)] == ["a", "c"]
    assert without_hosts(config, [], None) is config
    for lost, least in ((["b"], None), (["a", "b"], 2), (["a", "b", "c"], 1)):
        with pytest.raises(UserError, match="lost for good: a|lost for good: b"):
            without_hosts(config, lost, least)
    serving = replace(config, rollout=RolloutConfig(hosts=["b", "c"]))
    left = without_hosts(serving, ["c"], 1)
    assert left.rollout.hosts == ["b"] and [h.name for h in read_hostfile(left.dist.hostfile)] == ["a", "b"]
    with pytest.raises(UserError, match="no host of rollout.hosts is left"):
        without_hosts(serving, ["b", "c"], 1)
