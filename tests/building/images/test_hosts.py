"""Whose rules a host has, which addresses are public, and where Wikimedia has its thumbnails."""

import pytest

from m2kr.building.fetch.addresses import is_public
from m2kr.building.images.from_urls import may_follow
from m2kr.building.images.hosts import (
    WIKIMEDIA,
    HostRule,
    Rules,
    thumbnail_width,
    wikimedia_addresses,
)
from m2kr.errors import UsageError


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of the first
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("64:ff9b::7f00:1", False),
        ("example.org", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("before", "target", "follow"),
    [
        ("http://a.org/x", "http://b.org/y", True),
        ("http://a.org/x", "https://b.org/y", True),
        ("https://a.org/x", "https://b.org/y", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("http://a.org/x", "ftp://b.org/y", False),
        ("http://a.org/x", "file:///etc/passwd", False),
        ("http://a.org/x", "http://me:secret@b.org/y", False),
        ("http://a.org/x", "http://b.org/\ud800", False),
        ("http://a.org/x", "http:///y", False),
    ],
)
def test_which_redirects_are_followed(before, target, follow):
    assert may_follow(before, target) is follow


C = "https://upload.wikimedia.org/wikipedia"
LONG = "L" * 155 + "%C3%BC" + ".JPG"  # 161 bytes
ODD = "B%C3%BC_%28x%29.png"


@pytest.mark.parametrize(
    ("file", "width", "thumb", "original"),
    [
        ("commons/a/ab/A.jpg", None, None, True),
        ("commons/a/ab/A.jpg", 300, "330px-A.jpg", True),
        ("commons/a/ab/A.JPG", 330, "330px-A.JPG", True),
        ("commons/a/ab/A.jpeg", 3840, "3840px-A.jpeg", True),
        ("commons/a/ab/A.gif", 1, "20px-A.gif", True),
        ("commons/a/ab/A.webp", 500, "500px-A.webp.png", True),
        ("commons/a/ab/A.tif", 900, "lossy-page1-960px-A.tif.jpg", True),
        ("commons/a/ab/A.tif", None, None, True),
        ("commons/a/ab/A.svg", 250, "250px-A.svg.png", False),
        ("commons/a/ab/A.svg", None, "500px-A.svg.png", False),
        ("commons/a/ab/A.pdf", 250, "page1-250px-A.pdf.jpg", False),
        ("commons/a/ab/A.djvu", 250, "page1-250px-A.djvu.jpg", False),
        ("commons/a/ab/A.ogg", 250, None, True),
        ("commons/a/ab/A", 250, None, True),
        ("en/a/ab/A.png", 20, "20px-A.png", True),
        (f"commons/a/ab/{ODD}", 20, f"20px-{ODD}", True),
        (f"commons/a/ab/{LONG}", 40, "40px-thumbnail.jpg", True),
        (f"commons/a/ab/{LONG[1:]}", 40, f"40px-{LONG[1:]}", True),
    ],
)
def test_where_wikimedia_has_thumbnails(file, width, thumb, original):
    site, _, place = file.partition("/")
    expected = [f"{C}/{site}/thumb/{place}/{thumb}"] if thumb else []
    expected += [f"{C}/{file}"] if original else []
    for url in (f"{C}/{file}", f"{C}/{file}".replace("https", "http")):
        assert list(wikimedia_addresses(url, width)) == expected
    if thumb and width:
        # A thumbnail leads to the same as its file does.
        assert list(wikimedia_addresses(f"{C}/{site}/thumb/{place}/77px-x", width)) == expected


@pytest.mark.parametrize(
    ("name", "form", "width", "thumb"),
    [
        ("A.jpg", "250px-A.jpg", None, "250px-A.jpg"),
        ("A.jpg", "300px-A.jpg", None, "330px-A.jpg"),  # no longer served
        ("A.jpg", "9000px-A.jpg", None, None),
        ("A.jpg", "300px-A.jpg", 960, "960px-A.jpg"),
        ("A.tif", "lossy-page1-300px-A.tif.jpg", None, "lossy-page1-330px-A.tif.jpg"),
        ("A.svg", "300px-A.svg.png", None, "330px-A.svg.png"),
        ("A.svg", "9000px-A.svg.png", None, "500px-A.svg.png"),
    ],
)
def test_thumbnails_in_the_data_become_ones_that_are_served(name, form, width, thumb):
    base = f"{C}/commons/thumb/a/ab/{name}"
    expected = [f"{base}/{thumb}"] if thumb else []
    expected += [] if name.endswith("svg") else [f"{C}/commons/a/ab/{name}"]
    assert list(wikimedia_addresses(f"{base}/{form}", width)) == expected


@pytest.mark.parametrize(
    "url",
    [
        f"{C}/commons/archive/a/ab/2011!A.jpg",
        f"{C}/commons/a/ab/A.jpg/B",
        f"{C}/commons/thumb/a/ab/A.jpg",
        "https://commons.wikimedia.org/wiki/File:A.jpg",
        "http://example.org/wikipedia/a.jpg",
    ],
)
def test_what_is_no_file_stays_as_it_is(url):
    assert wikimedia_addresses(url, 250) == (url,)


def test_only_widths_that_are_served_are_asked_for():
    assert [thumbnail_width(w) for w in (1, 20, 21, 336, 3840)] == [20, 20, 40, 500, 3840]
    for width in (0, -1, 3841):
        with pytest.raises(UsageError, match="no thumbnails"):
            Rules(thumb_width=width)


def test_whose_rules_a_host_has():
    rules = Rules()
    for host in (
        "upload.wikimedia.org",
        "thumb.wikimedia.org",
        "COMMONS.wikimedia.org.",
        "wikimedia.org",
    ):
        assert rules.of(f"https://{host}/a") == ("wikimedia.org", WIKIMEDIA)
    for host in ("wikimedia.org.example.com", "notwikimedia.org", "example.org"):
        assert rules.of(f"http://{host}:81/a") == (host, rules.other)


def test_budgets_of_nothing_and_contacts_that_are_none_are_refused():
    for wrong in ({"connections": 0}, {"per_second": 0}, {"bytes_per_second": -1.0}):
        with pytest.raises(UsageError, match="a budget of nothing"):
            HostRule(**wrong)
    for no_contact in ("", "me", "a b@c.de", "x@y.z\r\nHost: evil", "ü@x.org", "you@example"):
        with pytest.raises(UsageError, match="no way to reach you"):
            Rules(contact=no_contact)
    for contact in ("you@example.org", "https://example.org/you"):
        assert f"({contact})" in Rules(contact=contact).user_agent


def test_wikimedia_is_asked_as_its_policy_says():
    assert WIKIMEDIA.contact
    assert WIKIMEDIA.connections <= 2
    assert WIKIMEDIA.bytes_per_second * 8 <= 25e6
