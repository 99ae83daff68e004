"""Loading mini: both Hugging Face ways, rows by id, images, pickling."""

import pickle
import random
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset

import m2kr
from m2kr.data.rows import RowReader, shards_of
from m2kr.errors import MissingError
from m2kr.schema import PASSAGE_COLUMNS, QUERY_COLUMNS


@pytest.mark.parametrize(
    ("config", "core"), [("MINI_data", QUERY_COLUMNS), ("MINI_passages", PASSAGE_COLUMNS)]
)
def test_both_loads_give_the_same_rows(
    mini_root: Path, tmp_path: Path, config: str, core: tuple
) -> None:
    folder = mini_root / "mini"
    mapped = DatasetDict.load_from_disk(str(folder / config))
    copied = load_dataset(str(folder), config, cache_dir=str(tmp_path))
    assert list(mapped) == list(copied)
    for split in mapped:
        assert mapped[split].column_names[: len(core)] == [c.name for c in core]
        assert mapped[split].features == copied[split].features
        assert mapped[split].to_list() == copied[split].to_list()


def test_a_split_is_made_of_memory_mapped_datasets(mini_root: Path) -> None:
    mini = m2kr.load("mini", data=mini_root)
    for table in (mini.queries, mini.passages, mini.qrels):
        assert isinstance(table, Dataset)
        assert table.cache_files
    judged = sum(len(row["pos_item_ids"]) for row in mini.queries)
    assert len(mini.qrels) == judged


def test_rows_by_id_equal_rows_by_number(mini_root: Path) -> None:
    mini = m2kr.load("mini", data=mini_root)
    for number in random.Random(0).sample(range(len(mini.passages)), 200):
        row = mini.passages[number]
        assert mini.passage(row["passage_id"]) == row
    for row in mini.queries.select(range(50)):
        assert mini.query(row["question_id"]) == row


def test_the_row_reader_reads_every_type(tmp_path: Path) -> None:
    rows = [
        {"id": "ü", "tags": ["a", ""], "n": -3, "x": 0.5, "flag": True, "title": None},
        {"id": "", "tags": [], "n": 2**40, "x": -1.0, "flag": False, "title": "t"},
    ] * 9
    from m2kr.building.table import TableWriter
    from m2kr.schema import Column

    columns = (
        Column("id"),
        Column("tags", "list<string>"),
        Column("n", "int64"),
        Column("x", "float64"),
        Column("flag", "bool"),
        Column("title", nullable=True),
    )
    writer = TableWriter(tmp_path, columns, shard_rows=10, batch_rows=5)
    writer.write_rows(rows)
    reader = RowReader(writer.close())
    assert [reader.row(i) for i in range(len(reader))] == rows
    assert pickle.loads(pickle.dumps(reader)).row(11) == rows[11]
    with pytest.raises(IndexError):
        reader.row(len(rows))


def test_shards_are_those_of_the_state_file(mini_root: Path) -> None:
    folder = mini_root / "mini" / "MINI_passages" / "test_passages"
    assert [s.name for s in shards_of(folder)] == ["data-00000.arrow"]


def test_images_are_read_lazily_and_splits_can_be_sent(mini_root: Path) -> None:
    mini = pickle.loads(pickle.dumps(m2kr.load("mini", data=mini_root)))
    view = mini.queries_view
    with_image = next(row for batch in view.batches(100) for row in batch if row["img_path"])
    without = next(row for batch in view.batches(100) for row in batch if not row["img_path"])
    assert view.image(with_image).mode == "RGB"
    assert view.image(without) is None
    coverage = mini.images.coverage(view.column("img_path"))
    assert coverage.found == coverage.total > 100


def test_an_edition_that_is_not_there_names_what_is(mini_root: Path) -> None:
    with pytest.raises(MissingError, match="built here: mini"):
        m2kr.load("mini", edition="m2kr", data=mini_root)
