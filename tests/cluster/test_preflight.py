"""From hosts' facts to rank 0's address and port: if these fail, ranks get a loopback address or a used port."""

import pytest

from nopsd.cluster.preflight import address_of, master_address, master_port, shared_mark
from nopsd.errors import UserError


def facts(**addresses):
    return {"names": addresses, "ports_free": [20001, 20002]}


def test_the_address_that_the_others_see_comes_first_and_ipv4_before_ipv6():
    hosts = {"a": facts(a=["127.0.1.1"], b=["10.0.0.2"]), "b": facts(a=["fe80::1", "10.0.0.1"], b=["127.0.1.1"])}
    assert master_address(hosts) == "10.0.0.1" and address_of(hosts, "b") == "10.0.0.2"
    assert master_port(hosts) == 20001


def test_loopback_alone_and_no_free_port_are_errors():
    hosts = {"a": facts(a=["127.0.1.1", "::1"])}
    with pytest.raises(UserError, match=r"no host has an address for a but loopback"):
        address_of(hosts, "a")
    with pytest.raises(UserError, match="host a: none of 8 random ports is free"):
        master_port({"a": {"ports_free": []}})


def test_the_mark_of_a_shared_folder_is_removed(tmp_path):
    with shared_mark(tmp_path / "run") as (mark, token):
        assert mark.read_text() == token
    assert list((tmp_path / "run").iterdir()) == []
