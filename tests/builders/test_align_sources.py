"""``--align release`` through the real builders: upstream's files held to a release of our making.

The release is the same upstream content, under the release's own ids where these aren't upstream's, with
fewer and shuffled rows and other instructions.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers.faulty_server import FaultyServer
from support.upstream_fixture import Served, served_files

import m2kr
from m2kr.building.build import build
from m2kr.building.release.aligned import AlignedBuilder
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.verify import verify
from m2kr.data.rows import open_shards
from m2kr.retrieval.batches import Batch
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.schema import arrow_schema, columns

NAMES = ("msmarco", "okvqa", "infoseek", "evqa", "kvqa", "cc3m", "oven", "llava", "wit", "iglue")
# The release calls these otherwise than upstream does.
_BOTH = ("question_id", "passage_id")
RENAMED = {"evqa": ("question_id",)} | dict.fromkeys(
    ("msmarco", "kvqa", "cc3m", "oven", "llava"), _BOTH
)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(served_files()) as running:
        yield running


def released(name: str, rebuilt: Path, splits: dict[str, str], folder: Path) -> Path:
    """Parquet files of a release with the content of a rebuild."""
    served = Served(name, "")
    config, draw = served.source.config, random.Random(name)
    renamed = RENAMED.get(name, ())

    def own(column: str, value: str) -> str:
        if name == "evqa" and column == "passage_id":
            return value.split("#")[0]  # the release uses an id twice
        return f"R-{value}" if column in renamed else value

    keep: dict[str, set[str]] = {pool: set() for pool in splits.values()}
    for split, pool in splits.items():
        rows = open_shards(rebuilt / f"{config}_data" / split).to_pylist()
        draw.shuffle(rows)
        for row in rows[:-1]:
            keep[pool].update(row["pos_item_ids"])
        for row in rows:
            row["question_id"] = own("question_id", row["question_id"])
            for column in ("pos_item_ids", "related_item_ids"):
                row[column] = [own("passage_id", i) for i in row.get(column, ())]
            row["instruction"] = draw.choice(["Find it: ", "Look for it: "])
        cols = columns("queries", served.source.query_columns)
        write(folder / f"{config}_data" / f"{split}-00000-of-00001.parquet", rows[:-1], cols)
    for pool, needed in keep.items():
        rows = open_shards(rebuilt / f"{config}_passages" / pool).to_pylist()
        draw.shuffle(rows)
        rows = [r for i, r in enumerate(rows) if i % 5 or r["passage_id"] in needed]
        for row in rows:
            row["passage_id"] = own("passage_id", row["passage_id"])
        cols = columns("passages", served.source.passage_columns)
        cols = tuple(c for c in cols if c.name != "scored_as")
        write(folder / f"{config}_passages" / f"{pool}-00000-of-00001.parquet", rows, cols)
    return folder


def write(path: Path, rows: list[dict[str, Any]], cols: tuple[Any, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = arrow_schema(cols)
    names = set(schema.names)
    plain = [{k: v for k, v in row.items() if k in names} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), path)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_builder_is_held_to_the_release(
    server: FaultyServer, tmp_path: Path, name: str
) -> None:
    base = server.url("").rstrip("/")
    # Everything that could be in the release: no sampling in the rebuild it is made of.
    options = {
        "msmarco": {"test_pool_size": "1000000", "train": "judged"},
        "infoseek": {"test_images": "all", "distractors": "1000000"},
        "evqa": {"shared_passages": "1000000"},
        "oven": {"per_entity": "all"},
    }.get(name, {})
    rebuilt = build(Served(name, base), tmp_path / "one", options=options)
    splits = {s: f["pool"] for s, f in rebuilt.manifest["splits"].items()}
    files = released(name, rebuilt.folder, splits, tmp_path / "files")

    root = tmp_path / "two"
    release = ReleaseBuilder(name, files, any_counts=True)
    built = build(AlignedBuilder(name, release, Served(name, base)), root)
    assert built.manifest["aligned"]["differ"] == []
    for split in splits:
        theirs = m2kr.load(name, split, edition="m2kr", data=root)
        ours = m2kr.load(name, split, edition="aligned", data=root)
        assert ours.fingerprints == theirs.fingerprints
        assert len(ours.queries) == rebuilt.manifest["splits"][split]["queries"] - 1 > 0
        assert set(ours.queries["question_id"]) == set(theirs.queries["question_id"])
        # Texts, answers and images are upstream's own.
        row = ours.queries[0]
        assert bool(row["question"]) == (Served(name, base).source.task != "I2T")
        if "related_item_ids" in row:
            related = theirs.query(row["question_id"])["related_item_ids"]
            assert row["related_item_ids"] == related
        assert row["instruction"] in {"Find it: ", "Look for it: "}
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]
    for facts in built.manifest["tables"].values():
        for flow in facts.get("inputs", {}).values():
            told = sum(flow.get(k, 0) for k in ("used", "filtered", "dropped"))
            assert told == flow["read"]


class Letters(EncoderRetriever):
    """Counts of letters; may be kept from run to run."""

    name = "letters"

    def cache_key(self, side: str) -> dict[str, Any]:
        return {}

    def encode_document(self, batch: Batch) -> np.ndarray:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return np.array([[text.lower().count(each) for each in letters] for text in batch.texts])

    encode_query = encode_document


@pytest.mark.parametrize("first", ["m2kr", "aligned"])
def test_release_and_aligned_edition_score_alike_in_one_data_root(
    server: FaultyServer, tmp_path: Path, first: str
) -> None:
    """Fingerprints are equal, and rows lie in another order: one's kept rows must not be the other's."""
    rebuilt = build(Served("okvqa", server.url("").rstrip("/")), tmp_path / "one")
    splits = {s: f["pool"] for s, f in rebuilt.manifest["splits"].items()}
    files, root = released("okvqa", rebuilt.folder, splits, tmp_path / "files"), tmp_path / "two"
    release = ReleaseBuilder("okvqa", files, any_counts=True)
    build(AlignedBuilder("okvqa", release, Served("okvqa", server.url("").rstrip("/"))), root)
    runs = []
    for edition in sorted(("m2kr", "aligned"), key=lambda each: each != first):
        split = m2kr.load("okvqa", "test", edition=edition, data=root, missing_images="black")
        results = m2kr.evaluate(split, [Letters(), "bm25"], k=5, cache=True)
        runs.append([result.run for result in results])
    assert (
        split.queries["question_id"]
        != m2kr.load("okvqa", "test", edition=first, data=root).queries["question_id"]
    )
    for one, other in zip(*runs, strict=True):
        for query in one.query_ids:
            assert one.passage_ids(query) == other.passage_ids(query)
            assert one.scores(query).tolist() == other.scores(query).tolist()
