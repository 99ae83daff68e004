"""Connections that end in time, and lead where they may: none into private networks by a stranger's word.

A name is looked up and judged before a connection is made, and the other end judged again after: a
name may lead somewhere else the second time. Through a proxy (``HTTPS_PROXY``) only addresses that
are numbers can be judged; the proxy looks names up.
"""

import ipaddress
import os
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from m2kr.building.fetch.retry import Failure

# Set to 1, redirects of downloads to addresses in private networks are followed.
ENV = "M2KR_PRIVATE_REDIRECTS"
# A server may take so many seconds for the head of its answer, however it spreads them.
ANSWER_SECONDS = 120.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddress(Failure):
    """The address is in a private network, or this machine's."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is not a public address")


def is_public(address: str) -> bool:
    """Whether an IP address may be asked: a global one, also if it is written inside of another."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def may_be_private(declared: str, target: str) -> bool:
    """Whether a redirect may lead to an address that isn't public.

    It may where the declared address is of the same private kind, as a mirror in one's own network
    is, or where the environment says so (`ENV`).

    Args:
        declared: The address of a download, as its builder or the user gave it.
        target: Where it redirects to.
    """
    if os.environ.get(ENV, "").strip() not in {"", "0"}:
        return True
    kinds = _kinds(declared)
    return kinds <= {"loopback", "local network"} and _kinds(target) == kinds


def _kinds(url: str) -> set[str]:
    """``public``, ``loopback``, ``local network`` or ``other``, of all addresses of a URL's host."""
    kinds = set()
    for address in _look_up(urlsplit(url).hostname or "", None):
        ip = ipaddress.ip_address(address.partition("%")[0])
        if is_public(address):
            kinds.add("public")
        elif ip.is_loopback:
            kinds.add("loopback")
        elif ip.is_link_local or not ip.is_private or ip.is_unspecified:
            kinds.add("other")
        else:
            kinds.add("local network")
    return kinds or {"other"}


def _look_up(host: str, port: int | None) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # connecting will fail likewise, and say why
    return [str(entry[4][0]) for entry in entries]


def mount(
    session: requests.Session,
    prefix: str = "",
    *,
    guarded: bool = False,
    answer_seconds: float | None = None,
    connections: int = 10,
) -> None:
    """Makes a session's connections ours.

    Args:
        session: The session.
        prefix: The addresses that begin so; all if empty.
        guarded: Addresses that are not public are refused, by `PrivateAddress`.
        answer_seconds: For the head of an answer, in place of `ANSWER_SECONDS`.
        connections: Kept open to a host.
    """
    for scheme in (prefix,) if prefix else ("http://", "https://"):
        adapter = (_Guarded if guarded else _Adapter)(pool_maxsize=connections)
        if answer_seconds is not None:
            kind = type("_Own", (_InTime,), {"seconds": answer_seconds})
            adapter.poolmanager.pool_classes_by_scheme = _pools(kind)
        session.mount(scheme, adapter)


class _InTime:
    """A connection that is cut where the head of an answer doesn't come: each byte resets a timeout."""

    sock: Any
    seconds: float | None = None

    def getresponse(self) -> Any:
        seconds = ANSWER_SECONDS if self.seconds is None else self.seconds
        timer = threading.Timer(seconds, self._cut, [self.sock])
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()

    @staticmethod
    def _cut(sock: Any) -> None:
        with suppress(OSError, AttributeError):
            sock.shutdown(socket.SHUT_RDWR)


class _Public(_InTime):
    """The same, to public addresses alone: of the name before, and of the other end after."""

    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        if not all(map(is_public, _look_up(self.host, self.port))):
            raise PrivateAddress(self.host)
        made: socket.socket = super()._new_conn()  # type: ignore[misc]
        if not is_public(str(made.getpeername()[0])):
            made.close()
            raise PrivateAddress(self.host)
        return made


def _pools(kind: type[_InTime]) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of such connections, by scheme."""

    def pool(base: type[HTTPConnectionPool], connection: type) -> type[HTTPConnectionPool]:
        ours = type(connection.__name__, (kind, connection), {})
        return type(base.__name__, (base,), {"ConnectionCls": ours})

    return {
        "http": pool(HTTPConnectionPool, HTTPConnection),
        "https": pool(HTTPSConnectionPool, HTTPSConnection),
    }


class _Adapter(HTTPAdapter):
    pools = _pools(_InTime)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Makes pools of our connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.pools


class _Guarded(_Adapter):
    pools = _pools(_Public)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Refuses numbers without a connection, whether there is a proxy or not."""
        host = (urlsplit(request.url or "").hostname or "").partition("%")[0]
        with suppress(ValueError):
            ipaddress.ip_address(host)
            if not is_public(host):
                raise PrivateAddress(host)
        return super().send(request, *args, **kwargs)
