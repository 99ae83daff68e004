"""A mined file and a teacher, opened for the split that they were made for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import m2kr
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.training.mine import mine
from m2kr.training.mined_file import MinedFile
from m2kr.training.teacher import Teacher

PASSAGES = {
    f"p{n}": f"{word} {n}" for n, word in enumerate(["red cat", "red dog", "blue cat", "ash"] * 3)
}
QUERIES = [
    {"id": "a", "question": "red cat", "positives": ["p0", "p3"]},
    {"id": "b", "question": "blue", "positives": ["p2"]},
    {"id": "none", "question": "zzz", "positives": ["p2"]},
    {"id": "c", "question": "dog", "positives": ["p5"], "answers": ["dog 9"]},
]


def source(
    data: Path, passages: dict[str, str] = PASSAGES, queries: list = QUERIES, name: str = "toy"
) -> m2kr.Split:
    return m2kr.from_records(passages, queries, name=name, split="train", data=data)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    return source(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def path(split: m2kr.Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mine(split, "bm25", k=4, out=tmp_path_factory.mktemp("mined") / "mined.parquet")


def test_negatives_are_the_kept_rows_in_their_order(split: m2kr.Split, path: Path) -> None:
    mined = MinedFile.open(path, split)
    rows = pq.read_table(path).to_pylist()
    for place, query in enumerate(split):
        kept = [
            row["passage_id"]
            for row in rows
            if row["kept"] and row["question_id"] == query["question_id"]
        ]
        found = [split.passages_view[int(row)]["passage_id"] for row in mined.negatives(place)]
        assert found == kept
        assert np.array_equal(mined.negatives(query["question_id"]), mined.negatives(place))
        assert not set(found) & set(query["pos_item_ids"])
    assert mined.counts().tolist() == [len(mined.negatives(n)) for n in range(4)]
    assert mined.counts()[2] == 0
    with pytest.raises(InputError, match="no query 'd'"):
        mined.negatives("d")


def test_a_teacher_knows_candidates_and_right_passages(split: m2kr.Split, path: Path) -> None:
    teacher = Teacher.open(path, split)
    scores = {
        (r["question_id"], r["passage_id"]): r["score"] for r in pq.read_table(path).to_pylist()
    }
    for place, query in enumerate(split):
        got = teacher.scores(place, range(len(PASSAGES)))
        assert got.dtype == np.float32
        assert np.array_equal(
            teacher.scores(query["question_id"], list(PASSAGES)), got, equal_nan=True
        )
        for passage, score in zip(PASSAGES, got, strict=True):
            expected = scores.get((query["question_id"], passage), np.nan)
            assert np.array_equal(score, np.float32(expected), equal_nan=True)
    assert teacher.scores("a", ["p3"])[0] == 0  # it shares no word, and is right
    assert teacher.scores("a", []).shape == (0,)


def test_any_run_is_a_teacher(split: m2kr.Split, tmp_path: Path) -> None:
    run = m2kr.Run.from_dict({"b": {"p2": -1.5, "p7": 2.0}, "a": {"p1": 0.25}})
    for name in ("run.trec", "run.parquet", "run.json", "run.tsv"):
        file = run.save(tmp_path / name)
        (teacher,) = Teacher.of_splits(file, [split])
        assert teacher is not None
        assert np.array_equal(
            teacher.scores(1, [7, 2, 1]), np.float32([2.0, -1.5, np.nan]), equal_nan=True
        )
        assert np.isnan(teacher.scores("c", [0])).all()
    with pytest.raises(InputError, match="it is no mined file"):
        MinedFile.open(tmp_path / "run.parquet", split)
    unknown = m2kr.Run.from_dict({"b": {"elsewhere": 1.0}}).save(tmp_path / "other.trec")
    with pytest.raises(
        CheckError, match=r"1 passages that toy/train .* lacks, such as 'elsewhere'"
    ):
        Teacher.open(unknown, split)
    unknown = m2kr.Run.from_dict({"q": {"p1": 1.0}}).save(tmp_path / "other.trec")
    with pytest.raises(CheckError, match="1 queries"):
        Teacher.open(unknown, split)


def test_other_data_are_refused(split: m2kr.Split, path: Path, tmp_path: Path) -> None:
    edited = source(tmp_path / "passages", PASSAGES | {"p4": "red fox"})
    for opened in (MinedFile, Teacher):
        with pytest.raises(CheckError, match="made for passages other than"):
            opened.open(path, edited)
    judged = source(
        tmp_path / "judged", queries=[{**QUERIES[0], "positives": ["p1"]}, *QUERIES[1:]]
    )
    with pytest.raises(CheckError, match="right passages and answers other than"):
        MinedFile.open(path, judged)
    assert Teacher.open(path, judged).scores("a", ["p0"]) == Teacher.open(path, split).scores(
        "a", ["p0"]
    )
    with pytest.raises(MissingError, match="no such file"):
        MinedFile.open(tmp_path / "nothing.parquet", split)
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        MinedFile.open(tmp_path / "cut.parquet", split)


def test_ids_count_and_not_rows(path: Path, split: m2kr.Split, tmp_path: Path) -> None:
    turned = source(tmp_path, dict(reversed(PASSAGES.items())), QUERIES[::-1])
    assert turned.fingerprints == split.fingerprints
    here, there = MinedFile.open(path, split), MinedFile.open(path, turned)
    for query in ("a", "b", "c"):
        names = [
            [s.passages_view[int(row)]["passage_id"] for row in m.negatives(query)]
            for m, s in ((here, split), (there, turned))
        ]
        assert names[0] == names[1] != []
    scores = [Teacher.open(path, s).scores("a", list(PASSAGES)) for s in (split, turned)]
    assert np.array_equal(*scores, equal_nan=True)


def test_a_folder_has_a_file_for_each_source(split: m2kr.Split, path: Path, tmp_path: Path) -> None:
    other = source(
        tmp_path / "data",
        {"x": "red", "y": "blue"},
        [{"id": "q", "question": "red blue", "positives": ["x"]}],
        "toy2",
    )
    third = source(
        tmp_path / "data",
        {"x": "red"},
        [{"id": "q", "question": "red", "positives": ["x"]}],
        "toy3",
    )
    folder = tmp_path / "mined"
    folder.mkdir()
    (folder / "one.parquet").write_bytes(path.read_bytes())
    mine(other, "bm25", out=folder / "two.parquet")
    for kind in (MinedFile, Teacher):
        opened = kind.of_splits(folder, [other, split, split])
        names = [each.path.name for each in opened]
        assert names == ["two.parquet", "one.parquet", "one.parquet"]
        for place, there in (
            (path, "toy/train (toy)"),
            (folder, "toy/train (toy), toy2/train (toy2)"),
        ):
            with pytest.raises(InputError) as error:
                kind.of_splits(place, [split, third, *([other] if place == folder else [])])
            assert f"it is for {there}, and the mixture also has toy3/train" in str(error.value)
            assert "m2kr mine toy3 --split train -r RETRIEVER --out" in str(error.value)
    with pytest.raises(InputError, match="it is for toy/train, and the mixture has toy3/train"):
        MinedFile.of_splits(path, [third])
    (folder / "three.parquet").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="2 files are for toy/train"):
        MinedFile.of_splits(folder, [split])


def test_every_bit_counts_in_the_fingerprint(split: m2kr.Split, path: Path, tmp_path: Path) -> None:
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    whole = MinedFile.open(path, split).fingerprint
    for column, change in (("kept", lambda v: not v), ("score", lambda v: v + 1)):
        values = table.column(column).to_pylist()
        values[3] = change(values[3])
        place = table.column_names.index(column)
        edited = table.set_column(place, table.field(place), pa.array(values))
        pq.write_table(edited.replace_schema_metadata(metadata), tmp_path / "edited.parquet")
        assert MinedFile.open(tmp_path / "edited.parquet", split).fingerprint != whole
    pq.write_table(
        table.replace_schema_metadata(metadata), tmp_path / "same.parquet", row_group_size=2
    )
    assert MinedFile.open(tmp_path / "same.parquet", split).fingerprint == whole
