"""The downloads folder: what is verified, locked, placed by hand, and what a fetch would do with it."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from servers.faulty_server import FOREVER, Fault
from support.downloads import BODY, FAST, asset, finished, get, sha

from m2kr.building.fetch.fetch import fetch, plan_downloads
from m2kr.building.fetch.folder import asset_sha256
from m2kr.building.fetch.retry import Policy
from m2kr.errors import CheckError, InputError, M2KRError, MissingError, UpstreamError


def test_first_seen_hashes_are_locked(server, tmp_path):
    wanted = asset(server.url("/a.bin"))
    get(tmp_path, wanted)
    lock = tmp_path / "lock.json"
    entry = {"url": server.url("/a.bin"), "size": len(BODY), "sha256": sha(BODY)}
    assert json.loads(lock.read_text()) == {"x/a.bin": entry}

    other = tmp_path / "colleague"
    other.mkdir()
    shutil.copy(lock, other / "lock.json")
    server.files["/a.bin"] = changed = BODY[:-1]
    with pytest.raises(UpstreamError) as caught:
        get(other, wanted)
    for fact in (sha(BODY), sha(changed), "delete the entry 'x/a.bin'", str(other / "lock.json")):
        assert fact in str(caught.value)
    assert finished(other) == set()

    (other / "lock.json").write_text("{}")
    assert get(other, wanted) == changed
    assert json.loads((other / "lock.json").read_text())["x/a.bin"]["sha256"] == sha(changed)


def test_published_hashes_need_no_lock(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    get(tmp_path, asset(server.url("/a.bin"), name="b", md5=hashlib.md5(BODY).hexdigest()))
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1}', '{"a": {"size": 1, "sha256": "?"}}', "[" * 9999]
)
def test_a_broken_lock_file_is_named(text, server, tmp_path):
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(InputError, match=r"lock\.json"):
        get(tmp_path, asset(server.url("/a.bin")))


def test_a_verified_file_is_not_hashed_again_until_it_changes(server, tmp_path):
    path = tmp_path / "x/a.bin"
    wanted = asset(server.url("/a.bin"), sha256=sha(BODY))
    get(tmp_path, wanted)
    before = path.stat()
    path.write_bytes(b"x" * len(BODY))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert get(tmp_path, wanted) != BODY  # the price of not reading 40 GB
    os.utime(path)
    assert get(tmp_path, wanted) == BODY
    assert len(server.requests) == 2
    path.touch()
    assert get(tmp_path, wanted) == BODY
    assert len(server.requests) == 2


def test_a_file_whose_published_hash_changed_is_fetched_again(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    server.files["/a.bin"] = new = BODY[::-1]
    assert get(tmp_path, asset(server.url("/a.bin"), sha256=sha(new))) == new


def test_an_old_file_stays_until_the_new_one_is_right(server, tmp_path):
    get(tmp_path, asset(server.url("/a.bin"), sha256=sha(BODY)))
    server.fail("/a.bin", Fault(truncate=9), times=FOREVER)
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    with pytest.raises(UpstreamError):
        get(tmp_path, asset(server.url("/a.bin"), sha256=sha(b"new")))
    assert (tmp_path / "x/a.bin").read_bytes() == BODY


def placed(folder: Path, data: bytes) -> Path:
    path = folder / "x/a.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("facts", [{"sha256": sha(BODY)}, {"size": len(BODY)}, {}])
def test_a_file_placed_by_hand_is_verified_and_used(facts, server, tmp_path):
    placed(tmp_path, BODY)
    assert get(tmp_path, asset(server.url("/a.bin"), **facts)) == BODY
    assert get(tmp_path, asset(manual="ask the authors", **facts), offline=True) == BODY
    assert server.requests == []


@pytest.mark.parametrize(
    "facts", [{"sha256": sha(BODY)}, {"size": len(BODY)}, {"md5": hashlib.md5(BODY).hexdigest()}]
)
def test_a_wrong_file_placed_by_hand_is_refused_and_kept(facts, server, tmp_path):
    path = placed(tmp_path, b"something else")
    with pytest.raises(CheckError, match="placed by hand is not the right one") as caught:
        get(tmp_path, asset(server.url("/a.bin"), **facts))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"something else"
    assert server.requests == []


def test_a_file_that_has_to_be_placed_by_hand(server, tmp_path):
    by_hand = asset(manual="sign the form at example.org", name="kvqa.tar")
    with pytest.raises(MissingError) as caught:
        get(tmp_path, asset(server.url("/a.bin")), by_hand)
    assert caught.value.exit_code == 3
    assert "sign the form at example.org" in str(caught.value)
    assert str(tmp_path / "kvqa.tar") in str(caught.value)
    assert server.requests == []  # told before anything is downloaded


def test_a_folder_placed_by_hand(server, tmp_path):
    images = asset(name="images", images=True, manual="unpack the archive")
    (tmp_path / "images").mkdir()
    with pytest.raises(MissingError, match="unpack the archive"):
        fetch([images], tmp_path)
    (tmp_path / "images/1.jpg").write_bytes(b"1")
    assert fetch([images], tmp_path) == {"images": tmp_path / "images"}
    before = asset_sha256(images, tmp_path)
    (tmp_path / "images/2.jpg").write_bytes(b"2")
    assert asset_sha256(images, tmp_path) != before
    with pytest.raises(CheckError, match="a folder is where a file belongs"):
        fetch([asset(server.url("/a.bin"), name="images")], tmp_path)


def test_offline_uses_what_is_there_and_names_what_is_not(server, tmp_path):
    here, gone = asset(server.url("/a.bin")), asset(server.url("/b.bin"), name="b.bin")
    get(tmp_path, here)
    assert get(tmp_path, here, offline=True) == BODY
    with pytest.raises(MissingError) as caught:
        get(tmp_path, here, gone, offline=True)
    assert str(tmp_path / "b.bin") in str(caught.value)
    assert "a.bin" not in str(caught.value)
    assert len(server.requests) == 1


def test_offline_does_not_trust_a_changed_file(server, tmp_path):
    wanted = asset(server.url("/a.bin"))
    get(tmp_path, wanted)
    (tmp_path / "x/a.bin").write_bytes(b"changed")
    with pytest.raises(MissingError):
        get(tmp_path, wanted, offline=True)


def test_a_disk_too_small_is_told_before_the_first_byte(server, tmp_path):
    with pytest.raises(M2KRError, match="not enough disk space: 1,000,000,000,000,000,000 bytes"):
        get(tmp_path, asset(server.url("/a.bin"), size=10**18))
    assert server.requests == []


def test_a_rough_size_refuses_nothing_and_the_servers_own_does(server, tmp_path):
    rough = asset(server.url("/a.bin"), about=10**18)
    get(tmp_path / "fits", rough)
    with pytest.raises(M2KRError, match=f"nearly so: {len(BODY):,} bytes"):
        get(tmp_path / "full", rough, policy=Policy(spare=10**18))
    assert not list((tmp_path / "full").rglob("a.bin"))


def test_space_to_spare_is_left(server, tmp_path):
    policy = Policy(spare=10**18)
    with pytest.raises(M2KRError, match="not enough disk space"):
        get(tmp_path, asset(server.url("/a.bin"), size=len(BODY)), policy=policy)


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/.partial/b", ".verified/a", "a\\b", "C:/x",
     "lock.json", "a\nb", "a/"],
)  # fmt: skip
def test_names_stay_in_the_folder(name, server, tmp_path):
    with pytest.raises(InputError, match="can't be named"):
        get(tmp_path / "downloads", asset(server.url("/a.bin"), name=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/a", "/a", "", "https://", "https://u:hunter2@host/a", "s3://b/k",
     "package:", "package:mod", "package:mod/../../x", "http://[::1/a", "http://host:99999/a"],
)  # fmt: skip
def test_other_addresses_are_refused_without_being_shown(url, tmp_path):
    with pytest.raises(InputError, match="can't be used") as caught:
        get(tmp_path, asset(url))
    assert "hunter2" not in str(caught.value)


def test_one_name_is_one_file(server, tmp_path):
    one = asset(server.url("/a.bin"), licence="MIT")
    assert get(tmp_path, one, asset(server.url("/a.bin"), images=True)) == BODY
    assert len(server.requests) == 1
    with pytest.raises(InputError, match="two different files"):
        get(tmp_path, one, asset(server.url("/b.bin")))


def test_files_come_at_once_and_one_failure_spoils_no_other(server, tmp_path):
    server.files |= {f"/{n}": bytes([n]) * 1000 for n in range(8)}
    for n in range(8):
        server.fail(f"/{n}", Fault(delay=0.25))
    many = [asset(server.url(f"/{n}"), name=f"{n}") for n in range(8)]
    start = time.monotonic()
    assert list(fetch(many, tmp_path / "a", jobs=8, policy=FAST)) == list("01234567")
    assert time.monotonic() - start < 1.9  # 2 if one by one

    broken = [asset(server.url(f"/no{n}"), name=f"no{n}") for n in range(2)]
    with pytest.raises(UpstreamError) as caught:
        fetch([broken[0], *many, broken[1]], tmp_path / "b", jobs=2, policy=FAST)
    assert "2 files failed" in str(caught.value)
    assert all(a.urls[0] in str(caught.value) for a in broken)
    assert finished(tmp_path / "b") == set("01234567")


def test_a_file_in_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "toyfiles"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "data/a.bin").write_bytes(BODY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    wanted = asset("package:toyfiles/data/a.bin", sha256=sha(BODY))
    assert get(tmp_path / "d", wanted, offline=True) == BODY
    with pytest.raises(MissingError, match="wrong content"):
        get(tmp_path / "e", asset("package:toyfiles/data/a.bin", sha256=sha(b"")))
    with pytest.raises(MissingError, match="no such file"):
        get(tmp_path / "f", asset("package:toyfiles/data/b.bin"))
    absent = asset("package:no_such_package/a", manual="pip install no-such-package")
    with pytest.raises(MissingError, match="pip install no-such-package"):
        get(tmp_path / "g", absent)


def test_the_plan_says_what_would_happen(server, tmp_path):
    (tmp_path / "here.bin").write_bytes(b"12345")
    server.fail("/a.bin", Fault(truncate=9_000))
    server.fail("/a.bin", Fault(status=404), times=FOREVER)
    with pytest.raises(UpstreamError):
        get(tmp_path, asset(server.url("/a.bin"), size=len(BODY), name="part.bin"))
    asked = len(server.requests)
    items = plan_downloads(
        [
            asset(server.url("/x"), name="here.bin", licence="MIT"),
            asset(server.url("/a.bin"), name="part.bin"),
            asset(server.url("/c.bin"), name="missing.bin", size=7),
            asset(name="hand.bin"),
        ],
        tmp_path,
    )
    assert [(i.name, i.size, i.have, i.state) for i in items] == [
        ("here.bin", 5, 5, "present"),
        ("part.bin", len(BODY), 9_000, "partial"),
        ("missing.bin", 7, 0, "missing"),
        ("hand.bin", None, 0, "manual"),
    ]
    assert (items[0].licence, items[0].url, items[3].url) == ("MIT", server.url("/x"), None)
    assert len(server.requests) == asked
