"""The address of rank 0: if it fails, ranks on other hosts are sent to a loopback address."""

import pytest

from nopsd.cluster import planning
from nopsd.cluster.deepspeed_command import Plan
from nopsd.cluster.hostfile import Host
from nopsd.config import load_config
from nopsd.errors import ConfigError


def test_the_first_host_by_its_address(monkeypatch):
    """Ranks must not be sent to 127.0.1.1, which is what many hosts know themselves by."""
    table = {"a": ["10.0.0.1", "fe80::1"], "b": ["10.0.0.2"], "me": ["127.0.1.1"], "nobody": []}
    monkeypatch.setattr(planning, "resolve", table.__getitem__)
    monkeypatch.setattr(planning.socket, "gethostname", lambda: "me")
    monkeypatch.setattr(planning, "address_towards", lambda host: f"the one towards {host}")
    assert planning._as_seen_here(["a", "b"]) == "10.0.0.1"
    assert planning._as_seen_here(["me", "b"]) == "the one towards b"
    assert planning._as_seen_here(["me", "nobody"]) == "me" and planning._as_seen_here(["nobody", "b"]) == "nobody"


def test_more_ranks_than_gpus_are_refused_at_the_start(monkeypatch, tmp_path):
    """Else the third rank fails after the rollouts."""
    monkeypatch.setattr(planning, "visible_gpus", lambda: [1, 3])
    config = load_config("lab", ["dist.ranks=3"])
    with pytest.raises(ConfigError, match=r"dist\.ranks=3: .*sees 2 .*set dist\.ranks=2"):
        planning.check_hosts(config, tmp_path)
    assert planning.make_plan(load_config("lab", ["dist.ranks=1"]), tmp_path).gpus == (1,)


@pytest.fixture
def hostfile(tmp_path):
    (tmp_path / "hosts").write_text("a slots=4\nb slots=4\n")
    return f"dist.hostfile={tmp_path / 'hosts'}"


def test_servers_beside_the_ranks_of_every_host(hostfile):
    """Broken if hosts idle through the rollouts, or servers take the ranks' devices while others are free."""
    config = load_config("lab", [hostfile, "rollout.colocate=true"])
    assert planning.serving_hosts(config) == {"a": 4, "b": 4}
    assert config.server.weight_sync == "gloo", "nccl refuses rank 0's own device, which the first server may share"
    assert planning.serving_hosts(load_config("lab", [hostfile, "rollout.hosts=[b]"])) == {"b": 0}
    assert planning.serving_hosts(load_config("lab", ["rollout.colocate=true"])) == {}
    with pytest.raises(ConfigError, match=r"rollout\.colocate=true starts servers over ssh, and dist\.launcher=slurm"):
        planning.serving_hosts(load_config("lab", [hostfile, "rollout.colocate=true", "dist.launcher=slurm"]))
    with pytest.raises(ConfigError, match=r"rollout\.colocate and rollout\.hosts both say"):
        load_config("lab", [hostfile, "rollout.colocate=true", "rollout.hosts=[b]"])


def test_a_run_that_rank_0_cannot_be_served_in_is_refused_at_the_start(hostfile, tmp_path, monkeypatch, capsys):
    """Else rank 0, on another host than the command, asks its own loopback for a server, hours later."""
    plan = Plan((Host("a", 4), Host("b", 4)), str(tmp_path / "hosts"), master_addr="10.0.0.1")
    monkeypatch.setattr(planning, "make_plan", lambda config, run_dir: plan)
    monkeypatch.setattr(planning, "is_this_host", lambda address: False)
    config = load_config("lab", [hostfile])
    with pytest.raises(
        ConfigError, match=r"server\.host=127.0.0.1: .* rank 0 runs on a, .* start this command on a, set"
    ):
        planning.check_hosts(config, tmp_path, served=True)
    planning.check_hosts(config, tmp_path, served=False)
    for given in ("server.host=10.0.0.9", "server.url=http://c:1", "rollout.hosts=[c]", "rollout.colocate=true"):
        planning.check_hosts(load_config("lab", [hostfile, given]), tmp_path, served=True)
    capsys.readouterr()
    monkeypatch.setattr(planning, "is_this_host", lambda address: address == "10.0.0.1")
    planning.check_hosts(config, tmp_path, served=True)
    assert "rollouts come from a alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("slots", "extra", "message"),
    [
        (16, ["train.batch=8"], r"8 x train.n=1 sequences a step are fewer than the 32 groups .* the 32 slots of"),
        (3, ["dist.sequence_parallel=4"], r"dist.sequence_parallel=4 doesn't divide the 6 slots of"),
    ],
)
def test_a_step_is_shared_over_the_slots_of_the_hostfile(tmp_path, slots, extra, message):
    """`dist.ranks` means nothing with a hostfile: idle ranks are refused before they are paid for."""
    (tmp_path / "hosts").write_text(f"a slots={slots}\nb slots={slots}\n")
    config = load_config("lab", [f"dist.hostfile={tmp_path / 'hosts'}", *extra])
    with pytest.raises(ConfigError, match=message):
        planning.hosts_that_train(config)
