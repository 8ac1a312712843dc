"""Ranks on unlike hosts, for launchers without ssh: if these fail, they train together until a collective hangs."""

import pytest

from nopsd.cluster.agreement import check_agreement, own_environment
from nopsd.config import Config
from nopsd.errors import UserError


class TwoRanks:
    """This rank as rank 0, and a second one whose environment is `other`."""

    def __init__(self, **other):
        self.other = other

    def all_gather_json(self, value):
        _, own = value
        changed = {name: found for name, found in {**own, **self.other}.items() if found is not None}
        return [["node1", own], ["node2", changed]]


def test_equal_hosts_agree():
    check_agreement(TwoRanks(), Config())
    assert {"torch", "Python", "nopsd's source", "config"} <= own_environment(Config()).keys()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"torch": "1.0"}, "host node2 has torch 1.0, node1 has"),
        ({"deepspeed": None}, "host node2 has deepspeed not at all"),
        ({"nopsd's source": "0123"}, "host node2 has nopsd's source 0123"),
    ],
)
def test_the_host_and_what_differs_are_named(other, message):
    with pytest.raises(UserError, match=message):
        check_agreement(TwoRanks(**other), Config())
