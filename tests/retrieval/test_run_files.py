import gzip
import json
import logging
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.retrieval.run import Run

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["", "%", "a b", "tab\there", "100%", "%20", "\u2028", "\x85", "\ufeffbom", "é\nü", "+pct"]
)
scores = st.floats(allow_nan=False, allow_infinity=False)
rankings = st.dictionaries(ids, st.dictionaries(ids, scores, max_size=6), max_size=5)
FORMS = [".parquet", ".trec", ".run", ".txt", ".trec.gz", ".run.gz", ".txt.gz"]


@settings(max_examples=60, deadline=None)
@given(ranking=rankings, name=ids, form=st.sampled_from([".parquet", ".trec", ".txt.gz"]))
def test_every_form_gives_the_run_back(ranking, name, form, tmp_path_factory):
    run = Run.from_dict(ranking, name=name, note=[1, "é"])
    path = run.save(tmp_path_factory.mktemp("runs") / f"r{form}")
    loaded = Run.load(path)
    if form == ".parquet":
        assert loaded.query_ids == run.query_ids
        assert loaded == run
        assert (loaded.name, loaded.metadata) == (name, {"note": [1, "é"]})
    else:
        kept = [q for q in ranking if ranking[q]]
        assert loaded.query_ids == tuple(kept)
        assert loaded == run.select(kept)
        if kept:
            assert loaded.name == (name or "m2kr")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", FORMS)
def test_every_suffix_is_known_and_files_repeat_byte_for_byte(form, tmp_path):
    run = Run.from_dict({"q": {"a": 0.1, "b": 1 / 3}}, name="n")
    one, other = run.save(tmp_path / f"x{form}"), run.save(tmp_path / f"y{form}")
    assert one.read_bytes() == other.read_bytes()
    assert Run.load(one) == run


def test_no_flipped_byte_of_a_run_is_read(tmp_path):
    draw = random.Random(1)
    ranking = {
        f"q{i}": {f"p{draw.randrange(999)}": draw.random() for _ in range(9)} for i in range(99)
    }
    path = Run.from_dict(ranking).save(tmp_path / "x.parquet")
    right, whole, refused = Run.load(path), path.read_bytes(), 0
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for _ in range(300):
        at = draw.randrange(pages)
        flipped = bytes([whole[at] ^ 1 << draw.randrange(8)])
        path.write_bytes(whole[:at] + flipped + whole[at + 1 :])
        try:
            assert Run.load(path) == right, at
        except InputError:
            refused += 1
    assert refused > 250


def test_trec_text_is_as_others_write_it(tmp_path):
    run = Run.from_dict({"q1": {"p1": 0.1, "p0": 2.0}, "q2": {"p1": -1e-7}}, name="bm25")
    run.save(tmp_path / "x.trec")
    assert (tmp_path / "x.trec").read_text() == (
        "q1 Q0 p0 1 2.0 bm25\nq1 Q0 p1 2 0.1 bm25\nq2 Q0 p1 1 -1e-07 bm25\n"
    )


def test_escaping_is_said_in_the_tag(tmp_path):
    run = Run.from_dict({"a b": {"100%": 1.0, "t\tü": 0.5}}, name="my run")
    run.save(tmp_path / "x.trec")
    text = (tmp_path / "x.trec").read_text()
    assert text == "a%20b Q0 100%25 1 1.0 my%20run+pct\na%20b Q0 t%09ü 2 0.5 my%20run+pct\n"
    # Without the mark a % is just a %.
    (tmp_path / "y.trec").write_text(text.replace("+pct", ""))
    assert Run.load(tmp_path / "y.trec").query_ids == ("a%20b",)


@pytest.mark.parametrize("lines", [1, 2_200])
def test_lines_with_the_mark_and_lines_without_are_refused(tmp_path, lines):
    # A long file is read in blocks, of which each would be of one kind.
    marked = "".join(f"q Q0 a%20{'x' * 2000}{i} 1 {i}.0 t+pct\n" for i in range(lines))
    (tmp_path / "x.trec").write_text(marked + "r Q0 a%20b 1 2.0 t\n")
    with pytest.raises(InputError, match="others' don't"):
        Run.load(tmp_path / "x.trec")


def test_three_and_seven_columns_and_odd_blanks_are_read(tmp_path):
    expected = Run.from_dict({"q": {"a": 2.0, "b": 1.5}, "r": {"a": 1.0}})
    texts = {
        "tevatron": "q\ta\t2\nq\tb\t1.5\nr\ta\t1\n",
        "uniir": "q Q0 a 1 2 tag 0\nq Q0 b 2 1.5 tag 0\nr Q0 a 1 1.0 tag 3\n",
        "windows": "\ufeffq Q0 a 1 2 t\r\n\r\nq  Q0  b 2 1.5 t\r\nr Q0 a 1 1 t",
        "interleaved": "q Q0 b 2 1.5 t\nr Q0 a 1 1 t\nq Q0 a 1 2 t\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(text, newline="")
        assert Run.load(path) == expected, name


def test_our_tie_rule_sorts_and_a_disagreeing_rank_column_is_warned_about_once(tmp_path, caplog):
    path = tmp_path / "x.trec"
    path.write_text(
        "q Q0 b 1 1.0 t\nq Q0 a 2 1.0 t\nr Q0 x 1 1.0 t\nr Q0 y 2 3.0 t\ns Q0 x 0 2 t\ns Q0 y 1 1 t\n"
    )
    with caplog.at_level(logging.WARNING, "m2kr"):
        run = Run.load(path)
    assert run.passage_ids("q") == ["a", "b"]
    assert run.passage_ids("r") == ["y", "x"]
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: the rank column disagrees with the scores in 1 of 3 queries; the scores count"
    ]
    caplog.clear()
    run.save(path)
    with caplog.at_level(logging.WARNING, "m2kr"):
        Run.load(path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 2 t\nq Q0 b 2 x t\n", r"x\.trec:2: .*'x' is no number"),
        ("q Q0 a 1 2 t\n\nq Q0 b 2 nan t\n", r"x\.trec:3: .*not finite"),
        ("q Q0 a one 2 t\n", r"x\.trec:1: .*int"),
        ("q Q0 a 1 2 t\nq Q0 b 1\n", r"x\.trec:2: .*4 columns"),
        ("q Q0 a 1 2 t\nq b 1\n", r"x\.trec:2: .*3 columns"),
        ("q Q0 a 1 2 t\nq Q0 a 2 1 t\n", r"x\.trec: .*'q' ranks passage 'a' twice"),
        ("q Q0 a 1 2 t\nq Q0 \xff 2 1 t\n", r"x\.trec:2: .*UTF-?8"),
        ("q " + "x" * 70000, r"x\.trec:1: a line is over 64 kB"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "x.trec"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        Run.load(path)
    assert caught.value.where


def test_a_fault_late_in_a_big_file_is_found(tmp_path):
    path = tmp_path / "x.trec"
    # Over two blocks of 4 MiB.
    lines = [f"q{i // 100} Q0 {'p' * 600}{i} {i % 100} {-i} tag" for i in range(15_000)]
    lines[14_000] = "q Q0 p 1 2"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"x\.trec:14001: .*5 columns"):
        Run.load(path)
    path.write_text("\n".join(lines[:14_000] + lines[14_001:]) + "\n")
    assert Run.load(path).counts().sum() == 14_999


def test_broken_archives_are_an_error(tmp_path):
    path = tmp_path / "x.trec.gz"
    packed = gzip.compress(b"q Q0 a 1 2 t\n" * 1000)
    for data in (b"no gzip", packed[:-20], packed[:20] + b"\0\1\2" + packed[23:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.trec\.gz"):
            Run.load(path)


def test_parquet_of_other_tools_is_read_and_faults_are_named(tmp_path):
    path = tmp_path / "other.parquet"
    columns = {"q_id": ["q", "r", "q"], "doc_id": ["a", "a", "b"], "score": [1, 2, 3], "x": [0] * 3}
    pq.write_table(pa.table(columns), path)
    assert Run.load(path).to_dict() == {"q": {"b": 3.0, "a": 1.0}, "r": {"a": 2.0}}
    assert Run.load(path).name == "other"
    faults = {
        "no column doc_id": {"doc_id": None},
        "nulls": {"score": [1.0, None, 2.0]},
        "wrong type": {"score": ["x", "y", "z"]},
        "not finite": {"score": [1.0, float("inf"), 2.0]},
    }
    for message, change in faults.items():
        kept = {n: v for n, v in {**columns, **change}.items() if v is not None}
        pq.write_table(pa.table(kept), path)
        with pytest.raises(InputError, match=rf"(?s)other\.parquet: .*{message}"):
            Run.load(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable Parquet"):
        Run.load(path)


def test_queries_without_results_survive_parquet_in_their_places(tmp_path, caplog):
    run = Run.from_lists(["a", "b", "c", "d"], [[], ["x"], [], []], [[], [1.0], [], []])
    assert Run.load(run.save(tmp_path / "r.parquet")).query_ids == ("a", "b", "c", "d")
    run.save(tmp_path / "r.trec")
    assert "3 queries have no results" in caplog.text
    nothing = Run.from_dict({"a": {}, "b": {}})
    assert Run.load(nothing.save(tmp_path / "n.parquet")) == nothing


def test_unknown_names_and_absent_files(tmp_path):
    with pytest.raises(UsageError, match=r"x\.csv"):
        Run.from_dict({}).save(tmp_path / "x.csv")
    with pytest.raises(MissingError, match=r"x\.run"):
        Run.load(tmp_path / "x.run")


def test_a_small_json_run_takes_little_memory(tmp_path):
    path = Run.from_dict({"q": {"a": 1.5}}).save(tmp_path / "x.json")
    tracemalloc.start()
    try:
        assert Run.load(path).query_ids == ("q",)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_long_id_in_every_row_is_refused_before_it_takes_memory(tmp_path):
    # Stored once: 2 MB that the format's own limits let grow to 600.
    text = random.Random(0).randbytes(2 << 20).hex()
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 140, pa.int32()), [text])
    queries = [f"q{i}" for i in range(140)]
    pq.write_table(
        pa.table({"q_id": queries, "doc_id": ids, "score": [1.0] * 140}), tmp_path / "x.parquet"
    )
    del text, ids
    with pytest.raises(InputError, match="140 rows hold more than"):
        Run.load(tmp_path / "x.parquet")


def test_a_file_that_names_many_empty_queries_is_read_in_one_pass(tmp_path):
    run = Run.from_dict({"a": {"p": 1.0}, "b": {}, "c": {"p": 1.0}, "d": {}, "e": {}})
    run.save(tmp_path / "x.parquet")
    assert Run.load(tmp_path / "x.parquet").query_ids == ("a", "b", "c", "d", "e")
    # Where a stranger's file has them at the front, or beyond the end: a minute, if each moved all others.
    empty = [[10**30 * (i % 2), f"q{i}"] for i in range(200_000)]
    facts = json.dumps({"name": "x", "metadata": {}, "empty": empty}).encode()
    table = pq.read_table(tmp_path / "x.parquet").replace_schema_metadata({b"m2kr.run": facts})
    pq.write_table(table, tmp_path / "x.parquet")
    assert len(Run.load(tmp_path / "x.parquet")) == 200_002
