"""Files in, a loadable source out; what is there already is kept or replaced as said."""

import gzip
import logging
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.own_data import PASSAGES, QUERIES, jsonl, read_back

from m2kr.building.build import build
from m2kr.building.publish import remove
from m2kr.building.userdata.builder import ImportedBuilder
from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.layouts import Layout, SplitFiles
from m2kr.building.userdata.readers import record_file
from m2kr.data.load import load
from m2kr.errors import InputError, MissingError, UsageError


def test_names_that_differ_in_punctuation_alone_harm_nothing(tmp_path, files):
    passages, queries = files
    import_files("a-b", passages, queries, data=tmp_path)
    with pytest.raises(UsageError, match="can't be told from 'a-b'"):
        import_files("a_b", passages, queries, edition="a-b", data=tmp_path)
    jsonl(queries, QUERIES[:2])
    import_files("a_b", passages, queries, data=tmp_path)
    import_files("a-b-c", passages, queries, data=tmp_path)
    for name, count in (("a-b", 5), ("A-B", 5), ("a_b", 2), ("A_B", 2), ("abc", 2)):
        assert len(load(name, data=tmp_path).queries) == count
    with pytest.raises(UsageError, match="a-b or a_b"):
        load("ab", data=tmp_path)
    assert [each.folder.name for each in remove("a_b", tmp_path)] == ["a_b"]
    assert len(load("ab", data=tmp_path).queries) == 5


def test_an_open_split_keeps_its_rows_when_the_source_is_imported_again(tmp_path, files):
    passages, queries = files
    split = read_back(import_files("x", passages, queries, data=tmp_path))
    texts, fingerprints = split.passages["passage_content"][:], split.fingerprints
    assert split.query("q1")["question"] == "What is 1?"
    jsonl(passages, [p | {"text": "other"} for p in PASSAGES[::-1]])
    jsonl(queries, [q | {"question": "Other?"} for q in QUERIES])
    assert import_files("x", passages, queries, data=tmp_path).fresh
    assert split.passages["passage_content"][:] == texts
    assert split.query("q1")["question"] == "What is 1?"
    assert split.fingerprints == fingerprints != load("x", data=tmp_path).fingerprints


def test_every_kind_of_file_gives_the_same_source(tmp_path, files):
    passages, queries = files
    expected = read_back(import_files("a1", passages, queries, data=tmp_path)).fingerprints

    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(passages.read_bytes()))
    (tmp_path / "packed.jsonl").write_bytes(packed.read_bytes())  # whatever its name
    bom = tmp_path / "q.ndjson"
    bom.write_bytes(b"\xef\xbb\xbf" + queries.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert read_back(import_files("a2", packed, bom, data=tmp_path)).fingerprints == expected
    unnamed = import_files("a5", tmp_path / "packed.jsonl", bom, data=tmp_path)
    assert read_back(unnamed).fingerprints == expected

    csv = tmp_path / "p.csv"
    csv.write_text("id,text\r\n" + "".join(f'{p["id"]},"{p["text"]}"\r\n' for p in PASSAGES))
    tsv = tmp_path / "q.tsv"
    rows = (f'{q["id"]}\t{q["question"]}\t["{q["positives"][0]}"]\t\n' for q in QUERIES)
    tsv.write_text("﻿id\tquestion\tpositives\tanswers\n" + "".join(rows), encoding="utf-8")
    assert read_back(import_files("a3", csv, tsv, data=tmp_path)).fingerprints == expected

    for name, records in (("p", PASSAGES), ("q", QUERIES)):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{name}.parquet")
    parquet = import_files("a4", tmp_path / "p.parquet", tmp_path / "q.parquet", data=tmp_path)
    assert read_back(parquet).fingerprints == expected
    assert parquet.manifest["inputs"][0]["name"] == "passages/p.parquet"
    assert parquet.manifest["route"] == "import"


def test_a_failed_import_leaves_the_old_one_and_can_be_mended(tmp_path, files):
    passages, queries = files
    before = read_back(import_files("x", passages, queries, data=tmp_path)).fingerprints
    good = passages.read_text()
    passages.write_text(good + '{"id": "p20"}\n')
    with pytest.raises(InputError, match="line 21"):
        import_files("x", passages, queries, data=tmp_path)
    assert load("x", data=tmp_path).fingerprints == before
    passages.write_text(good + '{"id": "p20", "text": "new"}\n')
    assert len(read_back(import_files("x", passages, queries, data=tmp_path)).passages) == 21


def test_positives_that_are_no_passages(tmp_path, files):
    passages, _ = files
    queries = jsonl(
        tmp_path / "q2.jsonl",
        [{"id": "q", "text": "?", "positives": ["p1", "gone"]}, {"id": "r", "text": "?"}],
    )
    with pytest.raises(InputError) as caught:
        import_files("m", passages, queries, data=tmp_path)
    for word in ("q2.jsonl, line 1", "'gone'", "'q'", "--drop-missing"):
        assert word in str(caught.value)
    built = import_files("m", passages, queries, data=tmp_path, drop_missing=True)
    assert read_back(built).query("q")["pos_item_ids"] == ["p1"]
    ledger = pq.read_table(built.folder / "M_ledger.parquet").to_pylist()
    assert [(r["action"], r["file"], r["row"], r["detail"]) for r in ledger] == [
        ("repaired", "q2.jsonl", 1, "gone")
    ]


def test_a_misspelt_field_is_pointed_out(tmp_path, files, caplog):
    passages, _ = files
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?", "positves": ["p1"]}])
    with caplog.at_level(logging.WARNING, "m2kr"):
        import_files("w", passages, queries, data=tmp_path)
    assert "'positves' (for 'positives'?)" in caplog.text
    assert caplog.text.count("WARNING") == 1


def test_a_builder_of_several_splits_can_be_sent_to_processes(tmp_path, files):
    passages, queries = map(record_file, files)
    splits = {"train": SplitFiles(queries), "test": SplitFiles(queries)}
    builder = ImportedBuilder("two", Layout(passages, splits))
    built = build(pickle.loads(pickle.dumps(builder)), tmp_path)
    assert read_back(built, "train").query("q3")["pos_item_contents"] == ["Text number 3."]
    assert read_back(built).fingerprints == read_back(built, "train").fingerprints


def test_limit_and_edition(tmp_path, files):
    built = import_files("l", *files, data=tmp_path, limit=2, edition="try")
    assert built.folder == tmp_path / "try-limit2"
    split = read_back(built)
    assert len(split.queries) == 2
    assert split.query("q1")["pos_item_contents"] == ["Text number 1."]


def test_arguments_that_do_not_fit(tmp_path, files):
    with pytest.raises(UsageError, match="--from"):
        import_files("x", folder=tmp_path, data=tmp_path)
    with pytest.raises(UsageError, match="no file of queries"):
        import_files("x", files[0], data=tmp_path)
    with pytest.raises(UsageError, match="one of files, beir"):
        import_files("x", *files, layout="csv", data=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="no such file"):
        import_files("x", tmp_path / "no.jsonl", files[1], data=tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        import_files("x", layout="beir", folder=tmp_path / "no", data=tmp_path)
    with pytest.raises(UsageError, match="cannot name a split"):
        import_files("x", *files, split="a/b", data=tmp_path)
