"""One odd row of the release never makes a source unbuildable: it is repaired, told and counted."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import release_fixture as fixture

import m2kr
from m2kr.building.build import Built, build
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.verify import verify
from m2kr.data.rows import open_shards

Row = dict[str, Any]
Odd = Callable[[list[Row], int], None]  # changes a table at a row


def _set(**cells: Any) -> Odd:
    return lambda rows, n: rows[n].update(cells)


def _like_first(rows: list[Row], n: int) -> None:
    rows[n]["question_id"] = rows[0]["question_id"]


def _copy(rows: list[Row], n: int) -> None:
    rows.insert(n, copy.deepcopy(rows[n]))


def _taken_number(rows: list[Row], n: int) -> None:
    _copy(rows, n)
    _copy(rows, n)
    rows.append(copy.deepcopy(rows[n]) | {"question_id": f"{rows[n]['question_id']}#2"})


def _other_passage(rows: list[Row], n: int) -> None:
    rows.insert(n + 1, rows[n] | {"passage_content": "quite another text"})


def _more(own: Any, text: Any) -> Odd:
    def odd(rows: list[Row], n: int) -> None:
        rows[n]["pos_item_ids"] = [own, *rows[n]["pos_item_ids"]]
        rows[n]["pos_item_contents"] = [text, *rows[n]["pos_item_contents"]]

    return odd


# What is wrong with a query -> how, and the rule that it is told under.
QUERIES: dict[str, tuple[Odd, str]] = {
    "an id again": (_like_first, "a query id used again"),
    "a row again": (_copy, "a query id used again"),
    "an id three times, and the next is taken": (_taken_number, "a query id used again"),
    "no id": (_set(question_id=None), "a row without an id"),
    "a blank id": (_set(question_id=" "), "a row without an id"),
    "no other positive": (
        _set(pos_item_ids=["gone"], pos_item_contents=["x"]),
        "positive not in the pool",
    ),
    "one positive more": (_more("gone", "x"), "positive not in the pool"),
    "an empty dummy": (_set(pos_item_ids=["1"], pos_item_contents=[""]), "positive without text"),
    "a blank dummy": (_set(pos_item_ids=["1"], pos_item_contents=[" "]), "positive without text"),
    "a null dummy": (_set(pos_item_ids=["1"], pos_item_contents=[None]), "positive without text"),
    "a tab as dummy": (_more("1", "\t\n"), "positive without text"),
    "a positive of no name": (_more(None, "x"), "positive without id"),
    "a positive of blank name": (_more(" ", "x"), "positive without id"),
    "no texts": (_set(pos_item_contents=["x", "y", "z"]), "texts of positives left out"),
    "no positives": (_set(pos_item_ids=None, pos_item_contents=None), ""),
}
PASSAGES: dict[str, tuple[Odd, str]] = {
    "a passage again": (_copy, "a passage twice"),
    "an id again": (_other_passage, "an id used for another text"),
    "no id": (lambda rows, n: rows.append(rows[n] | {"passage_id": None}), "a row without an id"),
    "a blank id": (
        lambda rows, n: rows.append(rows[n] | {"passage_id": ""}),
        "a row without an id",
    ),
}


def odd_build(source: str, root: Path, changes: list[tuple[str, Odd, int]]) -> Built:
    """A release with some tables changed, built."""
    tables = copy.deepcopy(fixture.tables(source))
    for suffix, odd, n in changes:
        rows = next(rows for name, rows in tables.items() if name.endswith(suffix))
        odd(rows, min(n, len(rows) - 1))
    for name, rows in tables.items():
        if name.endswith(("/test", "/test_passages")):
            fixture.write_table(root / "files", name, rows)
    release = ReleaseBuilder(source, root / "files", any_counts=True)
    return build(release, root / "data", splits=["test"])


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Sources without an odd row."""
    folder = tmp_path_factory.mktemp("clean")
    return {name: odd_build(name, folder / name, []) for name in ("oven", "evqa")}


def rules(built: Built, suffix: str) -> Counter[str]:
    """What the ledger says of a table, and how often."""
    (path,) = built.folder.glob("*_ledger.parquet")
    rows = pq.read_table(path).to_pylist()
    return Counter(r["rule"] for r in rows if r["table"].endswith(suffix) and r["row"])


def rows_of(built: Built, suffix: str) -> list[Row]:
    (name,) = [name for name in built.manifest["tables"] if name.endswith(suffix)]
    found: list[Row] = open_shards(built.folder / name).to_pylist()
    return found


@pytest.mark.parametrize("kind", QUERIES)
def test_an_odd_query(kind: str, clean: dict[str, Built], tmp_path: Path) -> None:
    odd, rule = QUERIES[kind]
    built = odd_build("oven", tmp_path, [("_data/test", odd, 1)])
    assert [f for f in verify(built.folder, built.manifest) if f.problem] == []
    before, after = rules(clean["oven"], "_data/test"), rules(built, "_data/test")
    assert set(after - before) == ({rule} if rule else set())
    whole = rows_of(clean["oven"], "_data/test")
    found = rows_of(built, "_data/test")
    lost = [row.pop("lost_item_ids", []) for row in found]
    added = {"a row again": 1, "an id three times, and the next is taken": 3}.get(kind, 0)
    assert len(found) == len(whole) + added, "a mean is over as many queries as the authors'"
    assert len({row["question_id"] for row in found}) == len(found)
    assert found[0] == whole[0]
    if kind == "one positive more":
        assert found == whole
        assert lost[:2] == [[], ["gone"]]
        assert not any(lost[2:])
        (result,) = m2kr.evaluate(
            "oven", "oracle", split="test", data=tmp_path / "data", metrics="full"
        )
        right = len(found[1]["pos_item_ids"])
        for name in ("map@100", "set_recall@5"):
            assert result.scores[name][1] == right / (right + 1), "what can't be found is missed"
        assert result.scores["ndcg@10"][1] < 1
        assert result.scores["hit_rate@5"][1] == 1
    elif kind.startswith(("one positive", "a positive", "a tab", "no texts")):
        assert found == whole
    if kind in ("no other positive", "a blank dummy"):
        (result,) = m2kr.evaluate("oven", "bm25", split="test", data=tmp_path / "data")
        counted = result.metrics["hit_rate@5"]["n"]
        assert counted == len(found), "a query without a right passage is a miss, as published"


@pytest.mark.parametrize("source", ["oven", "evqa"])
@pytest.mark.parametrize("kind", PASSAGES)
def test_an_odd_passage(source: str, kind: str, clean: dict[str, Built], tmp_path: Path) -> None:
    odd, rule = PASSAGES[kind]
    built = odd_build(source, tmp_path, [("/test_passages", odd, 2)])
    assert [f for f in verify(built.folder, built.manifest) if f.problem] == []
    assert set(rules(built, "/test_passages") - rules(clean[source], "/test_passages")) == {rule}
    ids = [row["passage_id"] for row in rows_of(built, "/test_passages")]
    assert (
        len(set(ids))
        == len(ids)
        == len(rows_of(clean[source], "/test_passages")) + (rule[:3] != "a p")
    )
    queries = [r["pos_item_ids"] for r in rows_of(clean[source], "_data/test")]
    assert [r["pos_item_ids"] for r in rows_of(built, "_data/test")] == queries


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(QUERIES)), st.integers(0, 9))
        | st.sampled_from(sorted(PASSAGES)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["okvqa", "msmarco", "kvqa"]),
)
@example([("an id three times, and the next is taken", 0), ("a row again", 9)], "okvqa")
def test_odd_rows_together(
    tmp_path_factory: pytest.TempPathFactory, odd: list[Any], source: str
) -> None:
    changes = [
        ("/test_passages", PASSAGES[kind][0], 0)
        if isinstance(kind, str)
        else ("_data/test", QUERIES[kind[0]][0], kind[1])
        for kind in odd
    ]
    built = odd_build(source, tmp_path_factory.mktemp("odd"), changes)
    assert [f for f in verify(built.folder, built.manifest) if f.problem] == []
    pool = {row["passage_id"] for row in rows_of(built, "/test_passages")}
    assert all(set(row["pos_item_ids"]) <= pool for row in rows_of(built, "_data/test"))


def test_strings_that_are_no_utf8(tmp_path: Path) -> None:
    """Parquet readers don't look; a half of a pair is U+FFFD, as everywhere."""
    for name, rows in fixture.tables("okvqa").items():
        (path,) = fixture.write_table(tmp_path / "files", name, rows)
        table = pq.read_table(path)
        for column in ("passage_content", "question", "answers"):
            if column not in table.column_names:
                continue
            values = table.column(column).to_pylist()
            raw = b"a \xed\xa0\xbd half"
            values[0] = [raw] if isinstance(values[0], list) else raw
            kind = pa.list_(pa.binary()) if isinstance(values[0], list) else pa.binary()
            array = pa.array(values, kind)
            if isinstance(values[0], list):
                strings = array.values.cast(pa.string(), safe=False)
                array = pa.ListArray.from_arrays(array.offsets, strings)
            else:
                array = array.cast(pa.string(), safe=False)
            place = table.column_names.index(column)
            table = table.set_column(place, table.schema.field(place), array)
        pq.write_table(table, path)
    built = build(ReleaseBuilder("okvqa", tmp_path / "files", any_counts=True), tmp_path / "data")
    assert [f for f in verify(built.folder, built.manifest) if f.problem] == []
    query, passage = rows_of(built, "_data/test")[0], rows_of(built, "/test_passages")[0]
    assert query["question"] == passage["passage_content"] == "a \ufffd half"
    assert query["answers"] == ["a \ufffd half"]
