"""Where a webhook may go. Its URL is a stranger's, and this server stands where strangers do not: so its name is
resolved once, every address of it is judged, and the connection goes to the very address that was judged."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpcore

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks: TypeAlias = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NEVER = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # for protocols, and the metadata of one cloud; not every version of `ipaddress` knows them
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # public by its number, and the metadata of another cloud
        "::/96",  # IPv4 addresses in an old form
        "64:ff9b:1::/48",  # local NAT64
        "2001::/23",  # for protocols: Teredo and others
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
]
"""Not public, beside what `ipaddress` itself says is not."""


class Forbidden(Exception):
    """The webhook would reach what this server must not speak to for a stranger."""


def check_url(url: str, allowed: Networks) -> None:
    """What can be known of an URL before its name is resolved. Raises Forbidden."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Forbidden(f"it cannot be read: {error}") from error
    if not host or port == 0 or parts.username is not None or parts.fragment or not url.isascii():
        raise Forbidden("it is not of the form https://host[:port]/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and allowed):
        raise Forbidden("only https is taken here")
    if (literal := _literal(host)) is not None:
        judge([literal], parts.scheme == "https", allowed)


def judge(addresses: Iterable[Address], encrypted: bool, allowed: Networks) -> None:
    """Raise Forbidden unless all of them are public and the way is encrypted, or the operator allows the address."""
    for address in addresses:
        if any(address in network for network in allowed):
            continue
        if not _is_public(address):
            raise Forbidden("its address is not a public one")
        if not encrypted:
            raise Forbidden("only https is taken here")


class Guard(httpcore.NetworkBackend):
    """Connects to addresses that `judge` lets through, all within one time. For one request."""

    def __init__(self, allowed: Networks, encrypted: bool, seconds: float) -> None:
        self.allowed = allowed
        self.encrypted = encrypted
        self.deadline = time.monotonic() + seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        address = resolve(host, port, self.encrypted, self.allowed)
        stream = httpcore.SyncBackend().connect_tcp(str(address), port, _left(self.deadline), None, socket_options)
        return _Hurried(stream, self.deadline)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise Forbidden("a socket of this machine")


def resolve(host: str, port: int, encrypted: bool, allowed: Networks) -> Address:
    """The first address of a name, all of which may be reached. Raises Forbidden, or httpcore.ConnectError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"its name was not resolved: {error}") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    judge(addresses, encrypted, allowed)
    return addresses[0]


class _Hurried(httpcore.NetworkStream):
    """A connection whose every step ends with the time of the whole: slow drops of bytes keep nobody waiting."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self.stream = stream
        self.deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(self.deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(self.deadline))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Hurried(self.stream.start_tls(ssl_context, server_hostname, _left(self.deadline)), self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for an answer is over")
    return left


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    """Judged by what it stands for: an IPv6 address may carry an IPv4 one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour]
        if address in NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if not all(_is_public(carried) for carried in inner if carried is not None):
            return False
        if address.ipv4_mapped is not None or address in NAT64:
            return True
        if address.is_site_local:
            return False
    if any(address in network for network in NEVER):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
