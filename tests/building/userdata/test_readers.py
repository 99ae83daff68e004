"""Files of records: cells, encodings, and errors that name file, line and field."""

import bz2
import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.own_data import jsonl, read_back

from m2kr.building.userdata.fields import passage_row, query_row
from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.qrels import qrels_file, read_qrels
from m2kr.building.userdata.readers import record_file
from m2kr.errors import InputError


def test_csv_cells_may_hold_lines_quotes_and_lists(tmp_path):
    passages = tmp_path / "p.csv"
    passages.write_text('id,text\np1,"two\nlines, and ""quotes"""\np2,x\n')
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,answers,positives\nq1,?,"[""a"", 2]",p1\nq2,?,[,\n')
    with pytest.raises(InputError, match=r"q\.csv, line 3: field 'answers'"):
        import_files("c", passages, queries, data=tmp_path)
    queries.write_text('id,text,answers,positives\nq1,?,"[""a"", 2]",p1\nq2,?,plain,\n')
    split = read_back(import_files("c", passages, queries, data=tmp_path))
    assert split.passage("p1")["passage_content"] == 'two\nlines, and "quotes"'
    assert split.query("q1")["answers"] == ["a", "2"]
    assert split.query("q2")["answers"] == ["plain"]
    assert split.query("q2")["pos_item_ids"] == []


def test_parquet_nan_and_null_are_absent(tmp_path):
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["t", "u"],
            "title": pa.array([float("nan"), None], pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?"}])
    split = read_back(import_files("n", tmp_path / "p.parquet", queries, data=tmp_path))
    assert split.passages["title"][:] == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "p.jsonl",
            b'{"id":"a","text":"t"}\n\n{"text":"t"}\n',
            ["p.jsonl, line 3", "'passage_id'"],
        ),
        ("p.jsonl", b'{"id":"a","text":"t"}\n{"id":', ["line 2", "not JSON"]),
        ("p.jsonl", b'[{"id":"a"}]', ["line 1", "JSON list", "jq"]),
        ("p.jsonl", b'{"id":"a","text":"t","x":NaN}', ["line 1", "NaN"]),
        ("p.jsonl", b'{"id":"a","text":"\\u00e9","x":NaN}', ["line 1", "NaN"]),
        ("p.jsonl", b'{"id":"a","text":"\xff"}', ["line 1", "not UTF-8", "iconv"]),
        ("p.jsonl", b"[" * 100_000, ["line 1", "nested too deeply"]),
        ("p.jsonl", b'{"id":' + b"9" * 5000 + b"}", ["line 1"]),
        ("p.jsonl", b'{"id":"a","text":"' + b"x" * (17 << 20) + b'"}', ["line 1", "too long"]),
        (
            "p.jsonl.gz",
            gzip.compress(b'{"id":"a","text":"t"}\n' * 9, mtime=0)[:-9],
            ["can't be read"],
        ),
        ("p.jsonl.gz", b"plain", ["line 1", "can't be read"]),
        ("p.jsonl", bz2.compress(b"{}"), ["line 1", "packed by bzip2"]),
        ("p.csv", b"id,text\na,t,more\n", ["line 2", "3 cells", "2, as the header: id, text"]),
        ("p.csv", b"id,id\na,t\n", ["line 1", "double name"]),
        ("p.csv", b'id,text\na,"t\n', ["line 2", "no CSV"]),
        ("p.parquet", b"PAR1 not really", ["p.parquet", "can't be read"]),
        ("p.json", b"{}", [".json", "one JSON object per line"]),
        ("p.xlsx", b"", [".xlsx", ".jsonl, .csv or .tsv"]),
    ],
)
def test_bad_files_name_file_line_and_field(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "?"}])
    with pytest.raises(InputError) as caught:
        import_files("bad", path, queries, data=tmp_path)
    for word in (str(path), *words):
        assert word in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\n\r"), max_size=20)


@settings(max_examples=60)
@given(
    st.lists(TEXTS.filter(lambda s: s.strip()), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from(["p.tsv", "p.csv"]),
)
def test_cells_are_read_as_they_were_written(tmp_path_factory, texts, end, bom, name):
    path = tmp_path_factory.getbasetemp() / name
    if name == "p.tsv":
        rows = ["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(texts))]
        data = end.join(rows) + end
    else:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator=end).writerows([["id", "text"], *enumerate(texts)])
        data = out.getvalue()
    path.write_text(("\ufeff" if bom else "") + data, encoding="utf-8", newline="")
    assert [record["text"] for _, record in record_file(path)] == texts


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["id", "text", "é"]), VALUES), st.booleans(), st.booleans())
def test_a_line_is_read_as_python_reads_json(tmp_path_factory, record, ascii_, indented):
    path = tmp_path_factory.getbasetemp() / "exact.jsonl"
    text = json.dumps(record, ensure_ascii=ascii_, separators=(" ,\t", ": ") if indented else None)
    path.write_text(text + "\n", encoding="utf-8", newline="")
    ((_, read),) = record_file(path)
    assert json.dumps(read) == json.dumps(json.loads(text))  # 1 and 1.0 are two things


@pytest.mark.parametrize("number", [2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**29 + 1])
def test_an_id_of_many_digits_stays_what_it_is(tmp_path, number):
    for n, line in enumerate((f'{{"id": {number}}}', f'{{"id": "a", "pos": [{number}]}}')):
        (tmp_path / f"{n}.jsonl").write_text(line + "\n")
        ((_, record),) = record_file(tmp_path / f"{n}.jsonl")
        assert {type(value) for value in (record["id"], *record.get("pos", ()))} <= {int, str}
        assert number in (record["id"], *record.get("pos", ()))


def test_a_quote_in_a_tsv_swallows_nothing(tmp_path):
    (tmp_path / "p.tsv").write_text('id\ttext\nd1\t"tin melts\nd2\tlead"\nd3\t"zinc" boils\n')
    (tmp_path / "q.csv").write_text("id,question,positives\nq1,zinc,d3\n")
    split = read_back(
        import_files("t", tmp_path / "p.tsv", tmp_path / "q.csv", data=tmp_path / "data")
    )
    assert split.passages["passage_content"][:] == ['"tin melts', 'lead"', '"zinc" boils']


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", ["line 1", "UTF-16", "iconv"]), ("utf-16-le", ["UTF-16"]), ("utf-16-be", ["UTF-16"]),
     ("latin-1", ["line 2", "not UTF-8", "iconv"])],
)  # fmt: skip
@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.tsv", "q.tsv"])
def test_other_encodings_are_named(tmp_path, encoding, words, name):
    rows = {"p.jsonl": '{"id":"d","text":"a"}\n{"id":"e","text":"é"}\n', "p.csv": "id,text\nd,é\n"}
    text = rows.get(name, "id\ttext\nd\té\n" if name == "p.tsv" else "q0\td1\t1\nq0\té\t1\n")
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(InputError) as caught:
        if name == "q.tsv":
            read_qrels(qrels_file(tmp_path / name))
        else:
            list(record_file(tmp_path / name))
    for word in (name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_a_file_without_a_header_names_what_it_has(tmp_path, note_files, name):
    mark = "," if name == "p.csv" else "\t"
    (tmp_path / name).write_text(f"1{mark}tin melts\n2{mark}lead\n")
    with pytest.raises(InputError) as caught:
        import_files("h", tmp_path / name, note_files[1], data=tmp_path)
    for word in ("line 2", "'1', 'tin melts'", "first line", "at tabs"):
        assert word in str(caught.value)


ALPHABET = st.sampled_from(list(b'{}[]":,\n\r\t \\u0dnulltrue.-e"idtext\xef\xbb\xbf\xff\x00'))


NEARLY = st.lists(ALPHABET, max_size=60).map(bytes)


GOOD = b'{"id": "1", "text": "t"}\n'


CSV = b"id,text\n1,t\n"


lines = st.one_of(st.binary(max_size=80), NEARLY, st.just(GOOD), st.just(CSV))


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.jsonl.gz", "x.csv", "x.tsv", "x.csv.gz", "x.parquet"]
)
def test_random_bytes_give_rows_or_our_error(tmp_path, name):
    path = tmp_path / name
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a", "b"]}), table)

    @settings(max_examples=80, deadline=None)
    @given(st.lists(lines, max_size=4).map(b"".join), st.integers(0, 10**4), st.booleans())
    def check(data: bytes, at: int, pack: bool) -> None:
        if name == "x.parquet":
            whole = table.getvalue()
            at %= len(whole)
            data = whole[:at] + data + whole[at + len(data) :]
        elif name.endswith(".gz") and pack:
            data = gzip.compress(data)
        path.write_bytes(data)
        last = 0
        try:
            file = record_file(path)
            for n, record in file:
                assert n > last
                last = n
                for read in (passage_row, query_row):
                    try:
                        row = read(record, file.where(n), flat=file.flat)
                        assert all(v is None or isinstance(v, str | list) for v in row.values())
                    except InputError as error:
                        assert f"{path}, " in str(error)
        except InputError as error:
            assert str(path) in str(error)

    check()
