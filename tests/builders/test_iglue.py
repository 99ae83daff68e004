"""IGLUE: its rows in WIT, and its own file.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from servers.faulty_server import FaultyServer
from support.golden_tables import ids, ledger_of, make, rows_of
from support.upstream_fixture import Served, text
from support.upstream_wit import cells, upstream

from m2kr.building.build import Built, build
from m2kr.building.content import rows_in
from m2kr.building.options import resolve_options
from m2kr_builders import iglue

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")


def named(annotation: dict[str, Any], **changes: str) -> dict[str, str]:
    """A row of WIT of what an annotation names."""
    keys = ("page_url", "image_url", "caption_reference_description")
    return cells(0, 0) | {key: annotation[key] for key in keys} | changes


def built(root: Path, annotations: bytes, wit: dict[str, list[Any]], **choices: Any) -> Built:
    files = {f"/{name}": body for name, body in upstream(wit).items()}
    with FaultyServer(files | {"/iglue/test_en.jsonl": annotations}) as server:
        return build(Served("iglue", server.url("")), root, **choices)


def test_wits_first_row_is_taken_and_train_if_asked(tmp_path: Path) -> None:
    row = json.loads(text("iglue/test_en.jsonl").splitlines()[0])
    line = json.dumps(row).encode() + b"\n"
    wit = {
        "train-00002": [named(row, page_title="of train")],
        "val-00001": [named(row, language="de"), named(row, page_url="another")],
        "test-00000": [named(row, page_title="of test"), named(row, page_title="of test, again")],
        "test-00003": [named(row, page_title="of test, later")],
    }

    def title(root: Path, lacking: tuple[str, ...] = (), **options: str) -> str | None:
        rest = {name: rows for name, rows in wit.items() if not name.startswith(lacking)}
        edition = built(root, line, rest, options=options)
        (passage,) = rows_of(edition, "passages", "test_passages")
        found: str | None = passage["title"]
        return found

    assert title(tmp_path / "plain") == "of test"
    assert title(tmp_path / "with train", wit="val-test-train") == "of test"
    assert title(tmp_path / "train", ("test",), wit="val-test-train") == "of train"
    assert title(tmp_path / "itself", ("test",)) == "Old Pier"


def test_wits_files_are_shared(server: FaultyServer, tmp_path: Path) -> None:
    make(server, tmp_path, "wit")
    before = len(server.requests)
    make(server, tmp_path, "iglue")
    assert len(server.requests) == before + 1, "all but the annotations were there"


def test_a_look_at_the_first_bytes() -> None:
    own = iglue.BUILDER().assets(resolve_options(iglue.SOURCE, {}))[0]
    line = text("iglue/test_en.jsonl").splitlines()[0] + b"\n"
    found = rows_in(line * 40 + line[:99], own.name, own.shape, whole=False)
    assert found is not None and found == 40


@pytest.mark.skipif(not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files")
def test_every_real_annotation_comes_through(tmp_path: Path) -> None:
    content = (Path(str(SAMPLES)) / "iglue" / "test_en.jsonl").read_bytes()
    assert len(content) == iglue.BUILDER().assets(resolve_options(iglue.SOURCE, {}))[0].size
    rows = [json.loads(line) for line in content.splitlines()]
    # WIT has two of three, in val or in test.
    found = [row for n, row in enumerate(rows) if n % 3]
    wit = {
        "val-00002": [named(row, page_title="in val") for row in found[::2]],
        "test-00002": [named(row, page_title="in test") for row in found[1::2]],
    }
    edition = built(tmp_path, content, wit)
    assert edition.manifest["count_warnings"] == []
    passages = rows_of(edition, "passages", "test_passages")
    assert [p["passage_id"] for p in passages] == [f"IGLUE_{n}" for n in range(1_000)]
    assert Counter(p["title"] for p in passages if p["title"].startswith("in ")) == {
        "in val": 333,
        "in test": 333,
    }
    for n, (row, passage) in enumerate(zip(rows, passages, strict=True)):
        own = hashlib.md5(row["image_url"].encode()).hexdigest()
        assert passage["img_path"] == f"{own}.jpg"
        assert row["caption_reference_description"] in passage["passage_content"]
        if n % 3 == 0:
            title = unquote(row["page_url"].split("/wiki/")[1]).replace("_", " ")
            assert passage["title"] == title and "%" not in title
    queries = rows_of(edition, "queries", "test")
    assert len(queries) == len(ids(edition, "queries", "test")) == 685
    right = sorted(own for query in queries for own in query["pos_item_ids"])
    assert right == sorted(p["passage_id"] for p in passages)
    assert ledger_of(edition, "dropped", "repaired") == {
        "IGLUE_passages/test_passages": {"test_en.jsonl": {"repaired": list(range(1, 1001, 3))}}
    }
