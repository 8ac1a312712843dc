"""Addresses and ports of this host: the one place that probes sockets. Opens no listening socket."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import psutil

from nopsd.errors import UserError

LOOPBACK = "127.0.0.1"
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = re.compile(rf"(?=.{{1,253}}$)(?!_){LABEL}(\.{LABEL})*(?<!_)")  # of a host; longer ones no resolver takes
DISCARD_PORT = 9  # nothing is sent: only the route to an address is asked for


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port of `host`, one of this host's addresses ("" for all), that nothing uses at this moment."""
    with _probe(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def hold_port(host: str = LOOPBACK) -> socket.socket:
    """A free port of `host`, for a server that binds it later: until this is closed nobody is given it as a free one.

    Bound with SO_REUSEADDR and not listening, so that a server that sets SO_REUSEADDR too, as most do, can still take
    it. Close it once the server answers. OSError if `host` is no address of this host.
    """
    held = _probe(host)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, 0))
    except OSError:
        held.close()
        raise
    return held


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
    except (OSError, UnicodeError) as error:
        here, why = socket.gethostname(), getattr(error, "strerror", None) or "no name of a host"
        raise UserError(f"{here} can't reach {host} ({why}): check its name and routes") from error


def resolve(name: str) -> list[str]:
    """The addresses of a name as this host sees them; empty if it does not resolve."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except (socket.gaierror, UnicodeError):  # UnicodeError: a label of more than 63 characters
        return []


def is_this_host(host: str) -> bool:
    """Whether `host` is loopback, or resolves to it or to an address of one of this host's interfaces."""
    own = {address.address.split("%")[0] for found in psutil.net_if_addrs().values() for address in found}
    return is_loopback(host) or any(address in own or is_loopback(address) for address in resolve(host))


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of the loopback interface, or `localhost`. Other names are not resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an IPv4 or IPv6 address as these are usually written."""
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


def is_wildcard(host: str) -> bool:
    """Whether `host` means every interface, in whatever dress: `0.0.0.0`, `0`, `0x0`, `::`, `::0`, `*`, or empty."""
    plain = host.strip("[]").split("%")[0]
    if plain in ("", "*"):
        return True
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        try:
            return not any(socket.inet_aton(plain))  # the C library's forms: 0, 0x0, 0.0
        except (OSError, ValueError):  # ValueError: a NUL
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(address.is_unspecified or (mapped is not None and mapped.is_unspecified))


def why_no_host_name(name: str) -> str | None:
    """Why ssh and DeepSpeed can't be given this as a host's name, and what to do; None if they can."""
    if is_wildcard(name):
        return f"{name!r} means every interface, and no host: write the host's name"
    if NAME.fullmatch(name):
        return None
    alias = "in ~/.ssh/config give it a name of its own (`Host NAME`, `HostName ADDRESS`"
    user, at, host = name.rpartition("@")
    if at and NAME.fullmatch(host):
        return f"{name!r} names a user: write {host}, and {alias}, `User {user}`)"
    host, colon, port = name.rpartition(":")
    if colon and port.isdecimal() and NAME.fullmatch(host):
        return f"{name!r} names a port: write {host}, and {alias}, `Port {port}`)"
    try:
        ipaddress.IPv6Address(name.strip("[]").split("%")[0])
    except ValueError:
        return f"{name!r} is no host name: letters, digits, dots, hyphens and underscores make one"
    return f"{name!r} is an IPv6 address, which DeepSpeed takes for HOST:PORT: {alias})"


def why_no_url(url: str) -> str | None:
    """Why this can't be a server's URL; None if it can."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # a port out of range, a bracket left open
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "it must be http://HOST:PORT"
    if is_wildcard(parts.hostname):
        return (
            f"{parts.hostname} means every interface: write an address that reaches the server, {LOOPBACK} on its host"
        )
    if not is_address(parts.hostname) and not NAME.fullmatch(parts.hostname):
        return f"{parts.hostname!r} is no host: letters, digits, dots, hyphens and underscores make a name"
    return "port 0 is none" if port == 0 else None


def in_url(host: str) -> str:
    """`host` as URLs write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def family_of(address: str) -> socket.AddressFamily:
    """IPv6 for an address with a colon, else IPv4."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _probe(host: str) -> socket.socket:
    return socket.socket(family_of(host), socket.SOCK_STREAM)
