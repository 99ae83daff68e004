"""``m2kr diff`` from outside: what it finds between two editions, and what it costs."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from resign import resign

from m2kr.build.compare.diff import SourceDiff, diff
from m2kr.build.compare.names import find_versions
from m2kr.build.run import build
from m2kr.build.spec import BuildContext
from m2kr.build.tables import read_batches
from m2kr.build.write import TableWriter
from m2kr.errors import CheckError, MissingError, UsageError
from m2kr.schema import Column
from m2kr.sources import Source

Rows = dict[str, dict[str, Any]]


def passages(n: int = 100) -> Rows:
    return {f"p{i}": {"passage_content": f"text {i} " * 20, "title": f"T{i}"} for i in range(n)}


def queries(n: int = 40) -> Rows:
    return {
        f"q{i}": {
            "question": f"what is {i}?",
            "instruction": "Find: ",
            "pos_item_ids": [f"p{i}", f"p{i + 1}", f"p{i + 2}"],
            "answers": [str(i), "x"],
            "gold_answer": str(i),
        }
        for i in range(n)
    }


@dataclass
class Made:
    """A source made of rows that a test can change."""

    pool: Rows = field(default_factory=passages)
    asked: Rows = field(default_factory=queries)
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"valid": "test_passages", "test": "test_passages"}
    )
    name: str = "toy"
    query_columns: tuple[Column, ...] = ()
    passage_columns: tuple[Column, ...] = ()

    @property
    def SOURCE(self) -> Source:
        return Source(
            self.name,
            self.name.upper(),
            "A toy",
            "Q2T",
            dict(self.splits),
            "hit_rate@5",
            "CC0-1.0",
            query_columns=self.query_columns,
            passage_columns=self.passage_columns,
        )

    def assets(self, options: Mapping[str, str]) -> list:
        return []

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[dict]:
        for i, row in self.pool.items():
            yield {"passage_id": i} | row

    def queries(self, ctx: BuildContext, split: str) -> Iterator[dict]:
        for i, row in self.asked.items():
            yield {"question_id": f"{split}-{i}"} | row


def make(made: Made, root: Path, edition: str) -> None:
    """Builds an edition, over an older one of that name."""
    build(made, root, edition=edition, force=True)


def compared(root: Path, a: Made, b: Made, **options: Any) -> SourceDiff:
    make(a, root, "a")
    make(b, root, "b")
    ((one, other),) = find_versions("a", "b", root)
    return diff(one, other, **options)


def by_name(found: SourceDiff) -> dict[str, Any]:
    return {table.a: table for table in found.tables}


def only_json(stdout: str) -> dict:
    assert stdout.count("\n") == 1, stdout
    return json.loads(stdout)


def test_equal_editions_are_told_by_their_hashes(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared(tmp_path, Made(), Made())
    assert found.equal
    assert [t.a for t in found.tables] == [
        "TOY_data/valid",
        "TOY_data/test",
        "TOY_passages/test_passages",
    ]
    assert all(t.same_files for t in found.tables)
    shown = cli("diff", "a/toy", "b/toy", "--data", tmp_path).stdout
    assert "everything compared is equal" in shown
    assert shown.count("equal, the same files") == 3
    assert shown.count("equal for scoring") == 2
    # The same folders by path, with no data root to look in.
    cli("diff", tmp_path / "a", tmp_path / "b" / "toy", "--data", tmp_path / "none")
    cli("diff", "./a", "./b", "--data", tmp_path / "none", cwd=tmp_path)


def test_one_passage_text(tmp_path: Path, cli: Cli) -> None:
    pool = passages()
    before = pool["p20"]["passage_content"]
    pool["p20"] = pool["p20"] | {"passage_content": before.replace("text 20", "text twenty", 11)}
    pool["p21"] = pool["p21"] | {
        "passage_content": pool["p21"]["passage_content"].replace(" ", "\t ")
    }
    pool["p22"] = pool["p22"] | {"title": ""}
    pool["p23"] = pool["p23"] | {"title": None}
    other = passages()
    other["p23"] = other["p23"] | {"title": ""}
    found = compared(tmp_path, Made(other), Made(pool))
    table = by_name(found)["TOY_passages/test_passages"]
    assert (table.rows, table.only_a.rows, table.only_b.rows) == ((100, 100), 0, 0)
    assert table.changed == 4
    texts, titles = table.columns
    assert (texts.column, texts.rows, texts.space_only) == ("passage_content", 2, 1)
    assert [e.id for e in texts.examples] == ["p20", "p21"]
    assert texts.examples[0].a == before
    assert [(e.id, e.a, e.b) for e in titles.examples] == [("p22", "T22", ""), ("p23", "", None)]
    assert found.fingerprints["test"] == {
        "queries": True,
        "judgements": True,
        "pool": False,
        "eval": False,
        "image_paths": True,
    }
    # The texts of positives follow from the pool: the queries' own tables are equal.
    assert by_name(found)["TOY_data/test"].equal
    assert not by_name(found)["TOY_data/test"].same_files
    shown = cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    assert "passage_content 2 (1 in white space alone)" in shown
    assert "NOT equal for scoring" in shown
    assert re.search(r'p23 +│ A "" +│', shown)
    assert re.search(r"│ B null +│", shown)


def test_a_late_difference_in_a_long_text_is_shown(tmp_path: Path, cli: Cli) -> None:
    text = "a" * 5000 + " [red]tin[/red] " + "b" * 5000
    long = passages(50) | {"p0": {"passage_content": text}}
    other = passages(50) | {"p0": {"passage_content": text.replace("tin", "zinc")}}
    compared(tmp_path, Made(long), Made(other))
    shown = cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    assert " [red]tin[/red] " in shown
    assert " [red]zinc[/red] " in shown
    record = only_json(cli("diff", "a", "b", "--data", tmp_path, "--json", code=1).stdout)
    (column,) = record["sources"][0]["tables"][2]["columns"]
    assert len(column["examples"][0]["a"]) == 200
    assert column["examples"][0]["a"].startswith("…aaa")


def test_ids_only_in_one(tmp_path: Path) -> None:
    more, fewer = passages(), passages(90)
    more.pop("p7")
    asked = {i: row for i, row in queries().items() if i not in ("q5", "q6", "q7")}
    fewer_asked = {i: asked[i] for i in list(asked)[:20]}
    found = compared(tmp_path, Made(more, asked), Made(fewer, fewer_asked), examples=2)
    pool = by_name(found)["TOY_passages/test_passages"]
    assert (pool.rows, pool.only_a.rows, pool.only_b.rows, pool.changed) == ((99, 90), 10, 1, 0)
    assert [i for i, _ in pool.only_a.examples] == ["p90", "p91"]
    assert pool.only_b.examples == (("p7", "text 7 " * 20),)
    asked_diff = by_name(found)["TOY_data/test"]
    assert asked_diff.only_a.rows == 17
    assert asked_diff.only_a.examples[0] == ("test-q23", "what is 23?")
    assert asked_diff.only_b.rows == 0
    assert not found.equal


def test_positives_are_sets_and_answers_are_lists(tmp_path: Path) -> None:
    asked = queries()
    for row in asked.values():
        row["pos_item_ids"] = row["pos_item_ids"][::-1]
    found = compared(tmp_path, Made(), Made(asked=asked))
    assert found.equal
    assert not any(t.same_files for t in found.tables if t.kind == "queries")
    asked["q3"]["pos_item_ids"] = ["p3", "p4", "p99"]
    asked["q4"]["pos_item_ids"] = ["p4"]
    asked["q5"]["answers"] = ["x", "5"]
    asked["q6"]["answers"] = []
    found = compared(tmp_path / "changed", Made(), Made(asked=asked))
    for split in ("valid", "test"):
        table = by_name(found)[f"TOY_data/{split}"]
        assert table.changed == 4
        columns = {c.column: [e.id for e in c.examples] for c in table.columns}
        assert columns == {
            "pos_item_ids": [f"{split}-q3", f"{split}-q4"],
            "answers": [f"{split}-q5", f"{split}-q6"],
        }
    assert found.fingerprints["test"]["pool"]
    assert not found.fingerprints["test"]["judgements"]


@pytest.mark.parametrize("block_bytes", [1, 160_000_000])
def test_order_and_shards_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("m2kr.build.compare.rows.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("m2kr.build.compare.rows.SLICE_ROWS", 13)
    plain = Made(passages(500), queries(80))
    make(plain, tmp_path, "a")
    draw = random.Random(3)
    mixed = replace(
        plain,
        pool=dict(draw.sample(list(plain.pool.items()), 500)),
        asked=dict(draw.sample(list(plain.asked.items()), 80)),
    )
    defaults = TableWriter.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "shard_rows", 60)
    monkeypatch.setitem(defaults, "batch_rows", 20)
    make(mixed, tmp_path, "mixed")
    make(plain, tmp_path, "b")
    assert len(list((tmp_path / "b/TOY_passages/test_passages").glob("*.arrow"))) == 9
    for other, same_order in (("mixed", False), ("b", True)):
        ((one, two),) = find_versions("a", other, tmp_path)
        for found in (diff(one, two), diff(two, one)):
            assert found.equal
            assert all(parts["eval"] for parts in found.fingerprints.values())
            assert not any(t.same_files for t in found.tables)
            assert {t.same_order for t in found.tables} == {same_order}
    # Changes in rows that come in another order: examples still come in A's order.
    mixed.pool |= {i: {"passage_content": "new"} for i in ("p499", "p3", "p250", "p77")}
    make(mixed, tmp_path, "mixed")
    ((one, two),) = find_versions("a", "mixed", tmp_path)
    table = by_name(diff(one, two))["TOY_passages/test_passages"]
    assert table.changed == 4
    assert [[e.id for e in c.examples] for c in table.columns] == [["p3", "p77", "p250"]] * 2


def test_splits_and_columns_that_only_one_has(tmp_path: Path, cli: Cli) -> None:
    asked = {i: row | {"topic": "x", "score": i} for i, row in queries().items()}
    pool = {i: row | {"page": 1, "rank": float("nan")} for i, row in passages().items()}
    wide = Made(
        pool,
        asked,
        {"train": "train_passages", "test": "test_passages"},
        query_columns=(Column("topic", doc="t"), Column("score", doc="s")),
        passage_columns=(Column("page", "int64", doc="p"), Column("rank", "float64", doc="r")),
    )
    narrow = Made(
        {i: row | {"rank": float("nan")} for i, row in passages().items()},
        {i: row | {"score": 1} for i, row in queries().items()},
        query_columns=(Column("score", "int64", doc="s"),),
        passage_columns=(Column("rank", "float64", doc="r"),),
    )
    found = compared(tmp_path, wide, narrow)
    assert found.tables_a == ["TOY_data/train", "TOY_passages/train_passages"]
    assert found.tables_b == ["TOY_data/valid"]
    tables = by_name(found)
    assert list(tables) == ["TOY_data/test", "TOY_passages/test_passages"]
    assert tables["TOY_passages/test_passages"].equal  # no number equals no number
    assert tables["TOY_passages/test_passages"].columns_a == ["page"]
    assert tables["TOY_data/test"].columns_a == ["topic"]
    assert tables["TOY_data/test"].retyped == [("score", "string", "int64")]
    assert (tables["TOY_data/test"].changed, tables["TOY_data/test"].equal) == (0, False)
    assert list(found.fingerprints) == ["test"]
    shown = cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    assert "only A has TOY_data/train, TOY_passages/train_passages" in shown
    assert "only B has TOY_data/valid" in shown
    assert "TOY_data/test: only A has the columns topic" in shown
    assert "score: string in A, int64 in B" in shown
    refused = cli("diff", "a", "b", "--split", "train", "--data", tmp_path, code=2).stderr
    assert "a/toy has train, test" in refused
    one_split = only_json(
        cli("diff", "a", "b", "--split", "test", "--json", "--data", tmp_path, code=1).stdout
    )
    assert one_split["sources"][0]["tables_only_a"] == []


def test_extra_columns_and_splits_alone_are_no_difference(tmp_path: Path, cli: Cli) -> None:
    more = Made(
        {i: row | {"page": "1"} for i, row in passages().items()},
        splits={"test": "test_passages", "valid": "test_passages", "train": "train_passages"},
        passage_columns=(Column("page", doc="p"),),
    )
    assert compared(tmp_path, Made(), more).equal
    cli("diff", "a", "b", "--data", tmp_path)


def test_pools_of_other_names_are_compared_by_the_split_they_serve(tmp_path: Path) -> None:
    pool = passages() | {"p1": {"passage_content": "other"}}
    one, other = Made(splits={"test": "passages"}), Made(pool, splits={"test": "all_passages"})
    found = compared(tmp_path, one, other)
    table = found.tables[1]
    assert (table.a, table.b) == ("TOY_passages/passages", "TOY_passages/all_passages")
    assert table.changed == 1
    assert found.tables_a == found.tables_b == []


def test_several_sources(tmp_path: Path, cli: Cli) -> None:
    for name, edition in (("toy", "a"), ("toy", "b"), ("two", "a"), ("two", "b"), ("lone", "b")):
        changed = passages() | {"p9": {"passage_content": "other"}}
        made = Made(changed if (name, edition) == ("two", "b") else passages(), name=name)
        make(made, tmp_path, edition)
    whole = only_json(cli("diff", "a", "b", "--json", "--data", tmp_path, code=1).stdout)
    assert {s["a"]["source"]: s["equal"] for s in whole["sources"]} == {"toy": True, "two": False}
    cli("diff", "a", "b", "--source", "TOY", "--data", tmp_path)
    cli("diff", "a", "b", "--source", "two", "--data", tmp_path, code=1)
    cli("diff", "a/T-o-y", "b", "--data", tmp_path)
    across = only_json(cli("diff", "a/two", "b/lone", "--json", "--data", tmp_path).stdout)
    assert across["equal"]
    assert across["sources"][0]["tables"][0]["b"] == "LONE_data/valid"


def test_names_that_mean_nothing(tmp_path: Path, cli: Cli) -> None:
    make(Made(), tmp_path, "a")
    make(Made(), tmp_path, "b")
    make(Made(name="two"), tmp_path, "c")
    lost = cli("diff", "a/toy", "nowhere/toy", "--data", tmp_path, code=3).stderr
    assert "'nowhere/toy' is no edition" in lost
    assert "a/toy; b/toy; c/two" in lost
    lost = cli("diff", "a/toi", "b", "--data", tmp_path, code=2).stderr
    assert "did you mean 'toy'" in lost
    with pytest.raises(UsageError, match="no source 'two'"):
        find_versions("a/two", "b", tmp_path)
    with pytest.raises(MissingError, match="'mini' is not built in 'a'"):
        find_versions("a/mini", "b", tmp_path)
    with pytest.raises(UsageError, match="share no source"):
        find_versions("a", "c", tmp_path)
    with pytest.raises(UsageError, match="--source"):
        find_versions("a/toy", "b", tmp_path, "toy")
    error = only_json(cli("diff", "a", "x", "--json", "--data", tmp_path / "empty", code=3).stdout)
    assert "nothing is built" in error["expected"]
    cli("diff", "a", "--data", tmp_path, code=2)
    cli("diff", "a", "b", "--examples", "-1", "--data", tmp_path, code=2)


def test_the_shape_of_json(tmp_path: Path, cli: Cli) -> None:
    asked = queries() | {"q9": queries()["q9"] | {"gold_answer": None}}
    pool = passages() | {"new": {"passage_content": "fresh " * 100}}
    compared(tmp_path, Made(), Made(pool, asked))
    args = ("diff", "a/toy", "b/toy", "--split", "TEST", "--examples", "1", "--data", tmp_path)
    record = only_json(cli(*args, "--json", code=1).stdout)
    assert (record["data"], record["equal"]) == (str(tmp_path), False)
    (source,) = record["sources"]
    assert source["a"] == {"edition": "a", "source": "toy", "folder": str(tmp_path / "a")}
    table, pools = source["tables"]
    assert table == {
        "kind": "queries",
        "a": "TOY_data/test",
        "b": "TOY_data/test",
        "equal": False,
        "rows": {"a": 40, "b": 40},
        "same_files": False,
        "same_order": True,
        "repeated": {"a": 0, "b": 0},
        "only_a": {"rows": 0, "examples": []},
        "only_b": {"rows": 0, "examples": []},
        "changed": 1,
        "columns": [
            {
                "column": "gold_answer",
                "rows": 1,
                "space_only": 0,
                "examples": [{"id": "test-q9", "a": '"9"', "b": "null"}],
            }
        ],
        "columns_only_a": [],
        "columns_only_b": [],
        "retyped": [],
    }
    (example,) = pools["only_b"]["examples"]
    assert example["id"] == "new"
    assert example["text"].startswith("fresh fresh")
    assert len(example["text"]) == 200
    assert source["splits"] == [
        {
            "split": "test",
            "fingerprints_equal": {
                "queries": True,
                "judgements": True,
                "pool": False,
                "eval": False,
                "image_paths": True,
            },
            "equal_for_scoring": False,
        }
    ]


def repeat(root: Path, edition: str, texts: list[tuple[str, str]]) -> None:
    """Rewrites a built pool with ids that occur again, as an odd edition may have."""
    from m2kr.build.tables import shard_facts
    from m2kr.data.lookup import write_index
    from m2kr.schema import columns

    folder = root / edition / "TOY_passages/test_passages"
    for shard in folder.glob("*.arrow"):
        shard.unlink()
    writer = TableWriter(folder, columns("passages"))
    writer.write_rows({"passage_id": i, "passage_content": text} for i, text in texts)
    shards = [shard_facts(shard) for shard in writer.close()]
    write_index(folder, (b.column("passage_id") for b in read_batches(folder)))
    tables = resign(root / edition, "TOY")["tables"]
    tables["TOY_passages/test_passages"] |= {"rows": len(texts), "shards": shards}
    resign(root / edition, "TOY", tables=tables)


def test_ids_that_occur_again(tmp_path: Path, cli: Cli) -> None:
    make(Made(), tmp_path, "a")
    make(Made(), tmp_path, "b")
    one = [("p1", "x"), ("p2", "same"), ("p1", "y"), ("p1", "z"), ("p3", "c"), ("p3", "d")]
    repeat(tmp_path, "a", one)
    repeat(tmp_path, "b", [("p1", "z"), ("p1", "w"), ("p2", "same"), ("p1", "x"), ("p3", "d")])
    ((a, b),) = find_versions("a", "b", tmp_path)
    table = by_name(diff(a, b))["TOY_passages/test_passages"]
    assert table.repeated == (3, 2)
    assert (table.changed, table.only_a.rows, table.only_b.rows) == (1, 1, 0)
    assert [(e.id, e.a, e.b) for e in table.columns[0].examples] == [("p1", "y", "w")]
    assert table.only_a.examples == (("p3", "c"),)
    assert (
        "A uses an id again in 3 rows" in cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    )


def test_damaged_tables_are_refused(tmp_path: Path, cli: Cli) -> None:
    compared(tmp_path, Made(), Made(passages() | {"p3": {"passage_content": "x"}}))
    folder = tmp_path / "b" / "TOY_passages/test_passages"
    index = np.load(folder / "ids.npy")

    def refused(match: str) -> None:
        resign(tmp_path / "b", "TOY")  # as if it had been built so
        with pytest.raises(CheckError, match=match):
            diff(*find_versions("a", "b", tmp_path)[0])

    for wrong in (index[:-1], index[::-1], np.sort(index["hash"])):
        np.save(folder / "ids.npy", wrong)
        refused("ids")
    index["row"] = index["row"][::-1].copy()
    np.save(folder / "ids.npy", index)
    refused("does not fit")
    shard = folder / "data-00000.arrow"
    for content in (shard.read_bytes()[:-2000], shard.read_bytes()[:-1] + b"x"):
        shard.write_bytes(content)
        error = cli("diff", "a", "b", "--data", tmp_path, code=1).stderr
        assert str(shard) in error
        assert "m2kr build toy" in error
    (folder / "ids.npy").unlink()
    with pytest.raises(MissingError, match=r"ids\.npy.*gone"):
        diff(*find_versions("a", "b", tmp_path)[0])


def test_equal_files_are_not_read_but_checked(tmp_path: Path) -> None:
    compared(tmp_path, Made(), Made())
    shard = tmp_path / "b" / "TOY_data/test/data-00000.arrow"
    data = shard.read_bytes()
    shard.write_bytes(data[:900] + b"\xff" + data[901:])
    with pytest.raises(CheckError, match="TOY_data/test/data-00000"):
        diff(*find_versions("a", "b", tmp_path)[0])


def test_one_hash_for_two_ids_is_no_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(Made(), tmp_path, "a")
    make(
        Made({i.replace("p", "P", i == "p99"): row for i, row in passages().items()}),
        tmp_path,
        "b",
    )
    for edition in "ab":  # p99 and P99 are filed under one hash
        path = tmp_path / edition / "TOY_passages/test_passages/ids.npy"
        index = np.load(path)
        index["hash"][index["row"] == 99] = 2**63
        np.save(path, np.sort(index, order="hash"))
        resign(tmp_path / edition, "TOY")
    monkeypatch.setattr("m2kr.build.compare.rows.id_hash", lambda _: 2**63)
    ((a, b),) = find_versions("a", "b", tmp_path)
    table = by_name(diff(a, b))["TOY_passages/test_passages"]
    assert [i for i, _ in table.only_a.examples + table.only_b.examples] == ["p99", "P99"]
    assert (table.changed, table.only_a.rows, table.only_b.rows) == (0, 1, 1)


COST = """
import json, sys, time
from pathlib import Path
import datasets, numpy, pyarrow.compute, rich.table
from m2kr.build.compare.diff import diff
from m2kr.build.compare.names import find_versions
from m2kr.evaluation.environment import peak_memory
imports, start = peak_memory(), time.perf_counter()
found = diff(*find_versions("a", "b", Path(sys.argv[1]))[0])
t = next(t for t in found.tables if t.kind == "passages")
print(json.dumps({
    "seconds": time.perf_counter() - start, "mb": (peak_memory() - imports) >> 20, "order": t.same_order,
    "changed": t.changed, "only_a": t.only_a.rows, "only_b": t.only_b.rows,
}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.slow
def test_the_cost_of_a_big_pool(tmp_path: Path) -> None:
    """200,000 rows, 1 % changed, in the same order and in another."""
    rows = 200_000
    pool = {f"p{i}": {"passage_content": f"passage {i} of a big pool " * 12} for i in range(rows)}
    changed = dict(pool)
    for i in range(0, rows, 100):
        changed[f"p{i}"] = {"passage_content": f"passage {i}, changed"}
    del changed["p1"], changed["p77777"]
    splits = {"test": "test_passages"}
    make(Made(pool, splits=splits), tmp_path, "a")
    for order in (True, False):
        if not order:
            changed = dict(random.Random(0).sample(list(changed.items()), len(changed)))
        asked = {"q": {"question": "?", "pos_item_ids": ["p2"]}}
        make(
            Made(changed | {"new": {"passage_content": "new"}}, asked, splits),
            tmp_path,
            "b",
        )
        done = subprocess.run(
            [sys.executable, "-c", COST, tmp_path], capture_output=True, text=True, check=True
        )
        cost = json.loads(done.stdout)
        print(f"m2kr diff of {rows:,} rows: {cost}")
        assert (cost["changed"], cost["only_a"], cost["only_b"]) == (2_000, 2, 1)
        assert cost["order"] == order
        assert cost["seconds"] < 20
        assert cost["mb"] < 600


def test_mini_against_itself(mini_root: Path, cli: Cli) -> None:
    shown = cli("diff", mini_root / "mini", "mini/MINI", "--data", mini_root).stdout
    assert "everything compared is equal" in shown
