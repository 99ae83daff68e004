"""Upstream's own rows through the real builders, with small stand-ins for what the samples lack.

MS MARCO's whole dev.small, CC3M's captions, and the instructions and images of the authors' own queries
(their M2KR challenge). OK-VQA, Infoseek, OVEN, WIT and IGLUE have theirs beside their other tests.
"""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from servers.faulty_server import FaultyServer
from support.golden_tables import ids, make, rows_of
from support.upstream_fixture import served_files, tarred, text

from m2kr.instructions import TEMPLATES, templates_of

SAMPLES = os.environ.get("M2KR_UPSTREAM_SAMPLES")
pytestmark = pytest.mark.skipif(
    not SAMPLES, reason="M2KR_UPSTREAM_SAMPLES names no folder of real files"
)


def sample(name: str) -> bytes:
    return (Path(str(SAMPLES)) / name).read_bytes()


def tsv(content: bytes) -> list[list[str]]:
    """Lines of cells, as upstream has them: nothing is trimmed."""
    return [line.split("\t") for line in content.decode().removesuffix("\n").split("\n")]


def test_the_whole_of_ms_marcos_dev_small(tmp_path: Path) -> None:
    asked = dict(tsv(sample("msmarco/queries.dev.small.tsv")))
    judged = tsv(sample("msmarco/qrels.dev.small.tsv"))
    texts = dict(tsv(sample("msmarco/collection.4103rows.repaired.tsv")))
    assert (len(asked), len(judged), len(texts)) == (6_980, 7_437, 4_103)
    pids = {int(pid) for pid in texts} | {int(row[2]) for row in judged}
    passages = {str(pid): texts.get(str(pid), f"stand-in for {pid}") for pid in sorted(pids)}
    members = {
        name: text(f"msmarco/{name}") for name in ("queries.train.tsv", "qrels.train.tsv")
    } | {
        "collection.tsv": "".join(f"{pid}\t{t}\n" for pid, t in passages.items()).encode(),
        "queries.dev.small.tsv": sample("msmarco/queries.dev.small.tsv"),
        "qrels.dev.small.tsv": sample("msmarco/qrels.dev.small.tsv"),
    }
    files = served_files() | {"/msmarco/collectionandqueries.tar.gz": tarred(members)}
    with FaultyServer(files) as server:
        options = {"test_pool_size": "8000", "train": "judged"}
        built = make(server, tmp_path, "msmarco", options=options, splits=["valid", "test"])
    right: dict[str, list[str]] = {}
    for qid, _, pid, _ in judged:
        right.setdefault(qid, []).append(pid)
    valid = {row["question_id"]: row for row in rows_of(built, "queries", "valid")}
    assert {qid: row["question"] for qid, row in valid.items()} == asked
    assert valid["2"]["question"] == " Androgen receptor define"
    assert {qid: sorted(row["pos_item_ids"]) for qid, row in valid.items()} == {
        qid: sorted(found) for qid, found in right.items()
    }
    sizes = Counter(len(row["pos_item_ids"]) for row in valid.values())
    assert sizes == {1: 6_590, 2: 331, 3: 51, 4: 8}
    assert built.manifest["tables"]["MSMARCO_qrels/valid"]["rows"] == 7_437
    assert built.manifest["splits"]["valid"]["judged"] == 6_980
    test = rows_of(built, "queries", "test")
    assert len(test) == 5_120 and all(row == valid[row["question_id"]] for row in test)
    pool = {
        row["passage_id"]: row["passage_content"]
        for row in rows_of(built, "passages", "test_passages")
    }
    assert len(pool) == 8_000 and {pid for row in judged for pid in row[2:3]} <= set(pool)
    assert {pid: passages[pid] for pid in pool} == pool
    assert not {"dropped", "repaired"} & set(
        built.manifest["tables"]["MSMARCO_data/valid"].get("ledger", {})
    )


def test_cc3ms_own_pairs(tmp_path: Path) -> None:
    content = sample("cc3m/chat.3rows.json")
    given = json.loads(content)
    with FaultyServer(served_files() | {"/cc3m/chat.json": content}) as server:
        drawn = make(server, tmp_path / "list", "cc3m")
        asked = make(server, tmp_path / "chat", "cc3m", options={"instruction": "chat"})
    for built in (drawn, asked):
        passages, queries = (
            rows_of(built, "passages", "train_passages"),
            rows_of(built, "queries", "train"),
        )
        assert [p["passage_content"] for p in passages] == [
            "a sketch of an ostrich",
            "organization is synonymous with azaleas .",
            "large kitchen island with an overhang and dining space next to it",
        ]
        assert [q["img_path"] for q in queries] == [row["image"] for row in given]
        assert [q["pos_item_contents"] for q in queries] == [
            [p["passage_content"]] for p in passages
        ]
    prompts = {q["instruction"] for q in rows_of(asked, "queries", "train")}
    assert prompts == {
        "Provide a brief description of the given image.:",
        "Relay a brief, clear account of the picture shown.:",
    }
    # The prompts beside captions are those of the list that queries are given by default.
    assert prompts <= set(TEMPLATES["caption"].templates)


@pytest.fixture(scope="module")
def challenge() -> dict[str, list[dict[str, Any]]]:
    """The authors' own queries by source: their images' names tell it."""
    rows = pq.read_table(Path(str(SAMPLES)) / "m2kr_challenge" / "m2kr_data.parquet").to_pylist()
    kinds = {"kvqa": r"\d+\.\w+", "oven": r"o\d{8}\.\w+", "wit": r"[0-9a-f]{32}\.jpg"}
    found = {k: [r for r in rows if re.fullmatch(p, r["img_path"])] for k, p in kinds.items()}
    assert {k: len(r) for k, r in found.items()} == {"kvqa": 1_400, "oven": 3_015, "wit": 2_000}
    return found


@pytest.mark.parametrize("source", ["kvqa", "oven", "wit"])
def test_instructions_are_those_of_the_authors_queries(
    challenge: dict[str, list[dict[str, Any]]], source: str
) -> None:
    templates = templates_of(source)
    assert templates is not None
    seen = Counter(row["instruction"] for row in challenge[source])
    assert set(seen) == set(templates.templates)
    weights = Counter(templates.templates)
    share = sum(seen.values()) / len(templates.templates)
    for words, weight in weights.items():
        assert seen[words] == pytest.approx(weight * share, rel=0.15)


def test_images_are_named_by_the_md5_of_their_address(
    challenge: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    files = served_files() | {"/iglue/test_en.jsonl": sample("iglue/test_en.jsonl")}
    with FaultyServer(files) as server:
        built = make(server, tmp_path, "iglue")
    own = {row["img_path"] for row in rows_of(built, "queries", "test")}
    addresses = [
        json.loads(line)["image_url"] for line in sample("iglue/test_en.jsonl").splitlines()
    ]
    assert own == {f"{hashlib.md5(url.encode()).hexdigest()}.jpg" for url in addresses}
    assert len(own) == len(ids(built, "queries", "test")) == 685
    assert len(own & {row["img_path"] for row in challenge["wit"]}) == 55
