"""``m2kr diff`` from outside: what it finds between two editions, and what it costs."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from support.resign import resign

from m2kr.building.build import build
from m2kr.building.diff import find_versions
from m2kr.building.spec import BuildContext, Builder
from m2kr.building.table import TableWriter, shard_facts
from m2kr.data.rows import read_batches
from m2kr.errors import MissingError, UsageError
from m2kr.schema import GRADES, Column
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
class Made(Builder):
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
    def source(self) -> Source:
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

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[dict]:
        for i, row in self.pool.items():
            yield {"passage_id": i} | row

    def queries(self, ctx: BuildContext, split: str) -> Iterator[dict]:
        for i, row in self.asked.items():
            yield {"question_id": f"{split}-{i}"} | row


def make(made: Made, root: Path, edition: str) -> None:
    """Builds an edition, over an older one of that name."""
    build(made, root, edition=edition, force=True)


def compared(root: Path, cli: Cli, a: Made, b: Made, *options: str, code: int = 1) -> Any:
    """What ``m2kr diff --json`` says of two editions of toy, by table."""
    make(a, root, "a")
    make(b, root, "b")
    return differences(root, cli, "a", "b", *options, code=code)


def differences(root: Path, cli: Cli, *args: str, code: int = 1) -> Any:
    record = only_json(cli("diff", *args, "--data", root, "--json", code=code).stdout)
    (source,) = record["sources"]
    assert record["equal"] == source["equal"] == (not code)
    return {t["name"]: {d["what"]: d for d in t["differences"]} for t in source["tables"]}


def ids(difference: Mapping[str, Any]) -> list[str]:
    return [each["id"] for each in difference["examples"]]


def only_json(stdout: str) -> dict:
    assert stdout.count("\n") == 1, stdout
    return json.loads(stdout)


def test_equal_editions_are_told_by_their_hashes(tmp_path: Path, cli: Cli) -> None:
    assert compared(tmp_path, cli, Made(), Made(), code=0) == {
        "TOY_data/valid": {},
        "TOY_data/test": {},
        "TOY_passages/test_passages": {},
    }
    shown = cli("diff", "a/toy", "b/toy", "--data", tmp_path).stdout
    assert "everything compared is equal" in shown
    assert shown.count("the same files") == 3
    assert shown.count("equal for scoring") == 2
    # The same folders by path, with no data root to look in.
    cli("diff", tmp_path / "a", tmp_path / "b" / "toy", "--data", tmp_path / "none")
    cli("diff", "./a", "./b", "--data", tmp_path / "none", cwd=tmp_path)


def test_changed_rows_are_shown(tmp_path: Path, cli: Cli) -> None:
    pool, other = passages(), passages()
    before = pool["p20"]["passage_content"]
    other["p20"] = {"passage_content": before.replace("text 20", "text twenty", 11), "title": ""}
    other["p22"] = other["p22"] | {"title": ""}
    pool["p23"] = pool["p23"] | {"title": None}
    other["p23"] = other["p23"] | {"title": ""}
    found = compared(tmp_path, cli, Made(pool), Made(other))
    table = found["TOY_passages/test_passages"]
    assert {what: d["rows"] for what, d in table.items()} == {
        "passage_content": 1,
        "title": 3,
        "changed": 3,
    }
    assert table["title"]["examples"] == [
        {"id": "p20", "a": '"T20"', "b": '""'},
        {"id": "p22", "a": '"T22"', "b": '""'},
        {"id": "p23", "a": "null", "b": '""'},
    ]
    # The texts of positives follow from the pool: the queries' own tables are equal.
    assert found["TOY_data/test"] == {}
    shown = cli("diff", "a", "b", "--examples", "1", "--data", tmp_path, code=1).stdout
    assert "NOT equal for scoring (fingerprints that differ: pool, eval)" in shown
    assert "text twenty" in shown and "p20" in shown and "p22" not in shown


def test_a_late_difference_in_a_long_text_is_shown(tmp_path: Path, cli: Cli) -> None:
    text = "a" * 5000 + " [red]tin[/red] " + "b" * 5000
    long = passages(50) | {"p0": {"passage_content": text}}
    other = passages(50) | {"p0": {"passage_content": text.replace("tin", "zinc")}}
    found = compared(tmp_path, cli, Made(long), Made(other))
    (example,) = found["TOY_passages/test_passages"]["passage_content"]["examples"]
    assert len(example["a"]) == 200
    assert example["a"].startswith("…aaa")
    assert " [red]zinc[/red] " in example["b"]


def test_ids_only_in_one(tmp_path: Path, cli: Cli) -> None:
    more, fewer = passages(), passages(90)
    more.pop("p7")
    asked = {i: row for i, row in queries().items() if i not in ("q5", "q6", "q7")}
    fewer_asked = {i: asked[i] for i in list(asked)[:20]}
    a, b = Made(more, asked), Made(fewer, fewer_asked)
    found = compared(tmp_path, cli, a, b, "--examples", "2")
    pool = found["TOY_passages/test_passages"]
    assert {what: d["rows"] for what, d in pool.items()} == {"only in A": 10, "only in B": 1}
    assert ids(pool["only in A"]) == ["p90", "p91"]
    (example,) = pool["only in B"]["examples"]
    assert (example["id"], example["a"]) == ("p7", "null") and "text 7" in example["b"]
    assert found["TOY_data/test"]["only in A"]["rows"] == 17
    assert ids(found["TOY_data/test"]["only in A"]) == ["test-q23", "test-q24"]


def test_positives_are_sets_and_answers_are_lists(tmp_path: Path, cli: Cli) -> None:
    asked = queries()
    for row in asked.values():
        row["pos_item_ids"] = row["pos_item_ids"][::-1]
    compared(tmp_path, cli, Made(), Made(asked=asked), code=0)
    asked["q3"]["pos_item_ids"] = ["p3", "p4", "p99"]
    asked["q4"]["pos_item_ids"] = ["p4"]
    asked["q5"]["answers"] = ["x", "5"]
    asked["q6"]["answers"] = []
    found = compared(tmp_path / "changed", cli, Made(), Made(asked=asked))
    for split in ("valid", "test"):
        table = found[f"TOY_data/{split}"]
        assert table.pop("changed")["rows"] == 4
        assert {what: ids(d) for what, d in table.items()} == {
            "pos_item_ids": [f"{split}-q3", f"{split}-q4"],
            "answers": [f"{split}-q5", f"{split}-q6"],
        }


def test_grades_follow_their_passages(tmp_path: Path, cli: Cli) -> None:
    def graded(*order: int, top: float = 2.0) -> Made:
        rows = queries(3)
        for row in rows.values():
            given = [*zip(row["pos_item_ids"], (top, 1.0, 3.0), strict=True)]
            row["pos_item_ids"], row["pos_item_grades"] = map(
                list, zip(*(given[i] for i in order), strict=True)
            )
        return Made(asked=rows, query_columns=(GRADES,))

    compared(tmp_path, cli, graded(0, 1, 2), graded(2, 0, 1), code=0)
    found = compared(tmp_path, cli, graded(0, 1, 2), graded(2, 0, 1, top=5.0))
    assert found["TOY_data/test"]["pos_item_grades"]["rows"] == 3
    assert "pos_item_ids" not in found["TOY_data/test"]


def test_order_and_shards_do_not_count(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert len(list((tmp_path / "mixed/TOY_passages/test_passages").glob("*.arrow"))) == 9
    for pair in (("a", "mixed"), ("mixed", "a")):
        assert not any(differences(tmp_path, cli, *pair, code=0).values())
    # Changes in rows that come in another order: examples still come in A's order.
    mixed.pool |= {i: {"passage_content": "new"} for i in ("p499", "p3", "p250", "p77")}
    make(mixed, tmp_path, "mixed")
    table = differences(tmp_path, cli, "a", "mixed")["TOY_passages/test_passages"]
    assert table["changed"]["rows"] == 4
    assert ids(table["title"]) == ids(table["passage_content"]) == ["p3", "p77", "p250"]


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
    found = compared(tmp_path, cli, wide, narrow)
    assert list(found) == ["TOY_data/test", "TOY_passages/test_passages"]
    assert list(found["TOY_data/test"]) == ["score: string in A, int64 in B"]
    assert found["TOY_passages/test_passages"] == {}  # no number equals no number
    shown = cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    assert "only A has the splits train" in shown
    assert "only B has the splits valid" in shown
    assert "only A has the columns topic" in shown
    assert "only A has the columns page" in shown
    refused = cli("diff", "a", "b", "--split", "train", "--data", tmp_path, code=2).stderr
    assert "a/toy has train, test" in refused
    # Columns and splits alone are no difference.
    make(replace(wide, asked=narrow.asked, query_columns=narrow.query_columns), tmp_path, "a")
    cli("diff", "a", "b", "--split", "test", "--data", tmp_path)


def test_pools_of_other_names_are_compared_by_the_split_they_serve(
    tmp_path: Path, cli: Cli
) -> None:
    pool = passages() | {"p1": {"passage_content": "other"}}
    one, other = Made(splits={"test": "passages"}), Made(pool, splits={"test": "all_passages"})
    found = compared(tmp_path, cli, one, other)
    assert list(found) == ["TOY_data/test", "TOY_passages/passages ~ TOY_passages/all_passages"]
    assert found["TOY_passages/passages ~ TOY_passages/all_passages"]["changed"]["rows"] == 1


def test_several_sources(tmp_path: Path, cli: Cli) -> None:
    for name, edition in (("toy", "a"), ("toy", "b"), ("two", "a"), ("two", "b"), ("lone", "b")):
        changed = passages() | {"p9": {"passage_content": "other"}}
        made = Made(changed if (name, edition) == ("two", "b") else passages(), name=name)
        make(made, tmp_path, edition)
    whole = only_json(cli("diff", "a", "b", "--json", "--data", tmp_path, code=1).stdout)
    assert {s["a"]: s["equal"] for s in whole["sources"]} == {"a/toy": True, "a/two": False}
    assert "A and B differ" in cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    cli("diff", "a/two", "b", "--data", tmp_path, code=1)
    cli("diff", "a/T-o-y", "b", "--data", tmp_path)
    assert "TWO_data/valid ~ LONE_data/valid" in differences(
        tmp_path, cli, "a/two", "b/lone", code=0
    )


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
    with pytest.raises(MissingError, match="'mini' is not built"):
        find_versions("a/mini", "b", tmp_path)
    with pytest.raises(UsageError, match="share no source"):
        find_versions("a", "c", tmp_path)
    error = only_json(cli("diff", "a", "x", "--json", "--data", tmp_path / "empty", code=3).stdout)
    assert "nothing is built" in error["expected"]
    cli("diff", "a", "--data", tmp_path, code=2)
    cli("diff", "a", "b", "--examples", "-1", "--data", tmp_path, code=2)


def repeat(root: Path, edition: str, texts: list[tuple[str, str]]) -> None:
    """Rewrites a built pool with ids that occur again, as an odd edition may have."""
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
    repeat(tmp_path, "b", [("p1", "x"), ("p1", "w"), ("p2", "same"), ("p1", "z"), ("p3", "c")])
    table = differences(tmp_path, cli, "a", "b")["TOY_passages/test_passages"]
    assert {what: d["rows"] for what, d in table.items()} == {
        "only in A": 1,
        "passage_content": 1,
        "changed": 1,
    }
    assert table["passage_content"]["examples"] == [{"id": "p1", "a": '"y"', "b": '"w"'}]
    shown = cli("diff", "a", "b", "--data", tmp_path, code=1).stdout
    assert "A uses an id again in 3 rows" in shown and "B uses an id again in 2 rows" in shown


def test_files_are_checked_before_they_are_read(tmp_path: Path, cli: Cli) -> None:
    compared(tmp_path, cli, Made(), Made(), code=0)
    shard = tmp_path / "b" / "TOY_data/test/data-00000.arrow"
    data = shard.read_bytes()
    shard.write_bytes(data[:900] + b"\xff" + data[901:])
    error = cli("diff", "a", "b", "--data", tmp_path, code=1).stderr
    assert "TOY_data/test/data-00000" in error and "m2kr build toy" in error
    shard.unlink()
    assert "gone" in cli("diff", "a", "b", "--data", tmp_path, code=3).stderr


COST = """
import json, sys, time
from pathlib import Path
import datasets, numpy, pyarrow.compute, rich.table
from m2kr.building.diff import diff, find_versions
from m2kr.evaluation.result import peak_memory
imports, start = peak_memory(), time.perf_counter()
tables, _ = diff(*find_versions("a", "b", Path(sys.argv[1]))[0], None, 3)
counts = {d.what: d.rows for d in tables[-1].differences}
print(json.dumps({
    "seconds": time.perf_counter() - start, "mb": (peak_memory() - imports) >> 20, "counts": counts,
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
        counts = {"only in A": 2, "only in B": 1, "passage_content": 2_000, "changed": 2_000}
        assert cost["counts"] == counts
        assert cost["seconds"] < 20
        assert cost["mb"] < 600


def test_mini_against_itself(mini_root: Path, cli: Cli) -> None:
    shown = cli("diff", mini_root / "mini", "mini/MINI", "--data", mini_root).stdout
    assert "everything compared is equal" in shown
