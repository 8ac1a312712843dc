"""Addresses and ports: if these fail, a server listens where nobody looks, or two processes take one port."""

import re
import socket

import pytest

from nopsd.errors import UserError
from nopsd.network import (
    address_towards,
    free_port,
    hold_port,
    in_url,
    is_loopback,
    is_wildcard,
    resolve,
    why_no_url,
    why_unusable,
)


def test_a_free_port_can_be_used_and_a_taken_one_is_reported():
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        assert why_unusable(port, "127.0.0.1") and why_unusable(port)
    assert why_unusable(port, "127.0.0.1") is None


def test_the_address_towards_a_host_is_this_hosts_own():
    assert address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(UserError, match=r"can't reach nowhere\.invalid"):
        address_towards("nowhere.invalid")
    with pytest.raises(UserError, match="no name of a host"):
        address_towards("a" * 300)
    assert resolve("a..b") == [], "Python's own error there is no OSError"
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


@pytest.mark.parametrize(
    "host", ["", "*", "0", "0x0", "00", "0.0", "0.0.0.0", "::", "::0", "0::0", "[::]", "::ffff:0.0.0.0", "::%eth0"]
)
def test_every_dress_of_the_wildcard_is_known(host):
    """A server that listens on `0` listens on every interface."""
    assert is_wildcard(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "node0", "localhost", "10.0.0.0", "fe80::1%eth0", "0a", "1"])
def test_other_hosts_are_no_wildcard(host):
    assert not is_wildcard(host)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host:99999", "range"),
        ("http://host:0", "port 0"),
        ("http://[::1", "IPv6|bracket"),
        ("host:8000", "http://HOST:PORT"),
        ("ftp://host", "http://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("http://host:port", "port|could not"),
    ],
)
def test_what_is_no_url_says_why(url, why):
    """httpx raises a dozen classes of its own for these, in the middle of a run."""
    assert re.search(why, why_no_url(url), re.I)


@pytest.mark.parametrize("url", ["http://host:8000", "https://10.0.0.1/", "http://[fd00::1]:8000", "http://a.b_c:1"])
def test_urls_of_servers_are_taken(url):
    assert why_no_url(url) is None


def test_a_held_port_is_nobody_elses_until_it_is_let_go():
    with hold_port() as held:
        port = held.getsockname()[1]
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)) as server:  # what it is held for sets SO_REUSEADDR
            assert server.getsockname()[1] == port
