"""Connections for addresses that strangers wrote: none into private networks, and nothing remembered.

A name is looked up and judged before a connection is made, and the other end judged again after: a
name may lead somewhere else the second time. Through a proxy (``HTTPS_PROXY``) only addresses that
are numbers can be judged; the proxy looks names up.
"""

import ipaddress
import socket
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from m2kr.build.download.connection import is_http
from m2kr.build.download.job import Failure

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddress(Failure):
    """The address is in a private network, or this machine's."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is not a public address")


class Redirected(Exception):
    """The answer is a redirect: its target is asked for under its own host's rules.

    Args:
        target: The address, absolute.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


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


def may_follow(before: str, target: str) -> bool:
    """Whether a redirect is followed: to addresses that we open, and never out of https."""
    try:
        target.encode()
    except UnicodeEncodeError:
        return False
    secure = urlsplit(before).scheme == "https"
    return is_http(target) and not (secure and urlsplit(target).scheme != "https")


def open_session(*, private: bool) -> requests.Session:
    """A session for one thread.

    Args:
        private: Addresses that are not public are asked, too.
    """
    session = _Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    if not private:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Guarded())
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: Any) -> str | None:
        """Leaves redirects to the caller."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        resp.close()
        raise Redirected(urljoin(resp.url, target))


class _Guarded(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Makes pools of guarded connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Refuses numbers without a connection, whether there is a proxy or not."""
        host = (urlsplit(request.url or "").hostname or "").partition("%")[0]
        with suppress(ValueError):
            ipaddress.ip_address(host)
            if not is_public(host):
                raise PrivateAddress(host)
        return super().send(request, *args, **kwargs)


def _refuse(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return  # connecting will fail likewise, and say why
    if not all(is_public(str(entry[4][0])) for entry in found):
        raise PrivateAddress(host)


def _judge(host: str, made: socket.socket) -> socket.socket:
    if not is_public(str(made.getpeername()[0])):
        made.close()
        raise PrivateAddress(host)
    return made


class _Http(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        _refuse(self.host, self.port)
        return _judge(self.host, super()._new_conn())


class _Https(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        _refuse(self.host, self.port)
        return _judge(self.host, super()._new_conn())


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https
