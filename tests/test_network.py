"""Addresses and ports: if these fail, a server listens where nobody looks, or two processes take one port."""

import socket

import pytest

from nopsd.errors import UserError
from nopsd.network import address_towards, free_port, in_url, is_loopback, resolve, why_unusable


def test_a_free_port_can_be_used_and_a_taken_one_is_reported():
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        assert why_unusable(port, "127.0.0.1") and why_unusable(port)
    assert why_unusable(port, "127.0.0.1") is None


def test_the_address_towards_a_host_is_this_hosts_own():
    assert address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(UserError, match=r"can't reach nowhere\.invalid"):
        address_towards("nowhere.invalid")
    assert resolve("nowhere.invalid") == [] and "127.0.0.1" in resolve("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.1.1", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("n", False),
    ],
)
def test_loopback_addresses_are_known(host, loopback):
    """Ranks on other hosts must not be sent to them."""
    assert is_loopback(host) == loopback


def test_ipv6_addresses_have_brackets_in_urls():
    assert in_url("::1") == "[::1]" and in_url("10.0.0.1") == "10.0.0.1"
