"""Pages, forms and errors that servers send in place of a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.downloads import FAST

from m2kr.building.fetch import pages
from m2kr.building.fetch.assets import Asset
from m2kr.building.fetch.fetch import fetch
from m2kr.errors import CheckError

PAGES = {
    "html": b"<!DOCTYPE html><title>Sign in</title>",
    "html in utf-16": "<html><form>".encode("utf-16"),
    "after a comment": b"\xef\xbb\xbf  <!-- made by x -->\n<HTML lang=en>",
    "virus scan": b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>",
    "xhtml": b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C">',
    "storage": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "json": b'{"error": "Unauthorized", "status": 401}',
    "json message": b'{"message": "Invalid username or password."}\n',
    "hub": b"Access to dataset owner/name is restricted. You must be authenticated to access it.",
    "log in": b"Please log in to continue",
    "limit": b"Download limit exceeded, please retry later",
}


@pytest.mark.parametrize("name", ["a.bin", "a.tsv", "a.json", "a.jsonl", "a.zip", "a.txt"])
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_pages_are_not_the_file(tmp_path, page, name):
    (tmp_path / "x").write_bytes(page)
    assert pages.instead_of(tmp_path / "x", name)


FILES = {
    "a.json": b'[{"error": "no", "id": 1}]',
    "b.json": b'{"questions": [], "error": "none"}',
    "a.jsonl": b'{"message": "hi", "id": "1"}\n{"message": "log in to x", "id": "2"}\n',
    "a.tsv": b"1\tlog in to what\n2\taccess denied\n",
    "a.csv": b"id,text\n1,forbidden planet\n" * 400,
    "a.html": b"<html>",
    "a.xml": b"<?xml version='1.0'?><Error/>",
    "a.zip": b"PK\x03\x04",
    "a.gz": b"\x1f\x8b\x08",
    "a.txt": b"a < b",
    "a.bin": b"\x00" * 64,
}


@pytest.mark.parametrize("name, data", FILES.items(), ids=FILES.keys())
def test_files_are_no_pages(tmp_path, name, data):
    (tmp_path / "x").write_bytes(data)
    assert pages.instead_of(tmp_path / "x", name) is None


@given(st.binary(max_size=300))
def test_whatever_bytes_have_an_answer(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(data)
    assert pages.instead_of(path, "a.bin") is None or data


def test_a_page_placed_by_hand_is_refused_too(tmp_path):
    (tmp_path / "a.zip").write_bytes(PAGES["virus scan"])
    with pytest.raises(CheckError, match="a web page"):
        fetch([Asset("a.zip", manual="from its page")], tmp_path, policy=FAST)
