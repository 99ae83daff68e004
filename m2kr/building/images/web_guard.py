"""Sessions for addresses that strangers wrote: none into private networks, and nothing remembered.

Their connections are those of `m2kr.building.fetch.addresses`.
"""

from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from m2kr.building.fetch.addresses import PrivateAddress, is_public, mount
from m2kr.building.fetch.http import is_http

__all__ = ["PrivateAddress", "Redirected", "is_public", "may_follow", "open_session"]


class Redirected(Exception):
    """The answer is a redirect: its target is asked for under its own host's rules.

    Args:
        target: The address, absolute.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


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
    mount(session, guarded=not private)
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: Any) -> str | None:
        """Leaves redirects to the caller."""
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        resp.close()
        raise Redirected(urljoin(resp.url, target))
