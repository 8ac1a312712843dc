"""The address of rank 0: if it fails, ranks on other hosts are sent to a loopback address."""

import pytest

from nopsd.cluster import planning
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
