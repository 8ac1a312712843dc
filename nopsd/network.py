"""Addresses and ports of this host: the one place that probes sockets. Opens no listening socket that stays."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from nopsd.errors import UserError

LOOPBACK = "127.0.0.1"
DISCARD_PORT = 9  # nothing is sent: only the route to an address is asked for


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port of `host`, one of this host's addresses ("" for all), that nothing uses at this moment."""
    with _probe(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def why_unusable(port: int, host: str = "") -> str | None:
    """Why a server could not listen on this port of `host` ("" for all addresses); None if it could."""
    with _probe(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return str(error.strerror)
    return None


def address_towards(host: str) -> str:
    """This host's own address on the route to `host`. UserError if the name does not resolve or no route exists."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        here = socket.gethostname()
        raise UserError(f"{here} can't reach {host} ({error.strerror}): check its name and routes") from error


def resolve(name: str) -> list[str]:
    """The addresses of a name as this host sees them; empty if it does not resolve."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except socket.gaierror:
        return []


def is_this_host(host: str) -> bool:
    """Whether `host` is loopback, or resolves to an address of one of this host's interfaces."""
    if is_loopback(host):
        return True
    own = {address.address.split("%")[0] for found in psutil.net_if_addrs().values() for address in found}
    return not own.isdisjoint(resolve(host))


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of the loopback interface, or `localhost`. Other names are not resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """`host` as URLs write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def family_of(address: str) -> socket.AddressFamily:
    """IPv6 for an address with a colon, else IPv4."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _probe(host: str) -> socket.socket:
    return socket.socket(family_of(host), socket.SOCK_STREAM)
