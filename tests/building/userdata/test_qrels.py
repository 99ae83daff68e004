"""Every form of a file of judgements, and what is refused because it can be read two ways."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.own_data import jsonl, judged, read_back

from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.qrels import qrels_file, read_qrels
from m2kr.errors import InputError, M2KRError

ROWS = [("q0", "d1", 1), ("q0", "d2", 3), ("q1", "d3", 0), ("q1", "d4", 2)]


GRADES_OF_ROWS = {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 2}}


def lines(rows: list[tuple], head: str = "", between: str = "\t", end: str = "\n") -> str:
    return "".join(
        line + end for line in [*filter(None, [head]), *(between.join(map(str, r)) for r in rows)]
    )


FORMS = {
    "beir.tsv": lines(ROWS, "query-id\tcorpus-id\tscore"),
    "cr.tsv": lines(ROWS, "query-id\tcorpus-id\tscore", end="\r"),
    "crlf.tsv": lines(ROWS, "query-id\tcorpus-id\tscore", end="\r\n"),
    "bom.tsv": "\ufeff" + lines(ROWS, "query-id\tcorpus-id\tscore"),
    "no_header.tsv": lines(ROWS),
    "trec.txt": lines([(q, 0, d, g) for q, d, g in ROWS], between=" "),
    "trec_tabs.txt": lines([(q, "Q0", d, g) for q, d, g in ROWS]),
    "trec_blanks.txt": lines([(q, "0", f"{d}  {g} ") for q, d, g in ROWS]),
    "trec_comments.txt": "# of trec_eval, by hand\n\n"
    + lines([(q, 0, d, g) for q, d, g in ROWS], between=" ", end="\n# more\n"),
    "trec_trailing.txt": lines([(q, 0, d, g, "# sure?") for q, d, g in ROWS], between=" "),
    "mbeir.txt": lines([(q, 0, d, g, 6) for q, d, g in ROWS], between=" "),
    "quoted.csv": lines([(f'"{q}"', d, g) for q, d, g in ROWS], "qid,docno,label", ","),
    "spaces.csv": lines(ROWS, "qid, docno, label", ", "),
    "iteration.tsv": lines(
        [(g, 0, d, q) for q, d, g in ROWS], "Judgment\titeration\tdoc_id\tQuery ID"
    ),
    "texts.csv": lines(
        [(q, '"a, b"', d, '"c ""d"""', f"{g}.0") for q, d, g in ROWS],
        "query_id,query,passage_id,passage,relevance",
        ",",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_keeps_the_grades(tmp_path, note_files, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    split = read_back(import_files("g", *note_files, tmp_path / name, data=tmp_path))
    assert judged(split) == GRADES_OF_ROWS


GRADE_COLUMNS = [
    *("score", "grade", "gain", "rating", "judgment", "judgement", "label", "rel", "relevance"),
    *("relevance_grade", "Relevance-Label"),
]


@pytest.mark.parametrize("column", GRADE_COLUMNS)
def test_a_grade_of_0_is_never_right(tmp_path, column):
    rows = [("q0", "d0", 0), ("q0", "d1", 2)]
    (tmp_path / "q.tsv").write_text(lines(rows, f"query-id\tcorpus-id\t{column}"))
    jsonl(tmp_path / "q.jsonl", [{"qid": q, "did": d, column: g} for q, d, g in rows])
    pq.write_table(
        pa.table({"qid": ["q0"] * 2, "docno": ["d0", "d1"], column: [0, 2]}), tmp_path / "q.parquet"
    )
    for name in ("q.tsv", "q.jsonl", "q.parquet"):
        assert read_qrels(qrels_file(tmp_path / name))["q0"].grades == {"d1": 2}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("q.tsv", "qid\tdid\tstars\nq0\td0\t0\n", ["line 1", "'stars'", "split at tabs", "'score'"]),
        ("q.tsv", "qid\tdid\tscore\tlabel\nq0\td0\t1\t0\n", ["'score', 'label'"]),
        ("q.tsv", "qid\tq_id\tdid\tscore\nq0\tq0\td0\t1\n", ["line 1", "'qid', 'q_id'"]),
        ("q.tsv", "qid\tdocid\tpid\tscore\nq0\td0\td1\t1\n", ["line 1", "'docid', 'pid'"]),
        ("q.jsonl", '{"query_id":"q0","topic_id":"q1","did":"d0","score":1}', ["'query_id', 'topic_id'"]),
        ("q.tsv", "frage\tdid\tscore\nq0\td0\t1\n", ["line 1", "'frage'", "can't be told"]),
        ("q.csv", "qid;did;score\nq0;d0;1\n", ["line 1", "1 columns", "qid;did;score"]),
        ("q.txt", "qid,did,score\nq0,d0,1\n", ["line 1", "1 columns"]),
        ("q.trec", "q0 Q0 d0 1 9.5 tag\n", ["line 1", "6 columns"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\t1\nq0\td0\t2\n", ["line 3", "2 here and 1 before"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\t\n", ["line 2", "'score'", "blank"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\tnan\n", ["line 2", "'nan'"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\t1_0\n", ["line 2", "'1_0'"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\tinf\n", ["line 2", "'inf'"]),
        ("q.tsv", "qid\tdid\tscore\nq0\td0\thigh\n", ["line 2", "'high'"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","score":null}', ["line 1", "'score'", "null"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","score":" "}', ["line 1", "'score'", "blank"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","score":"good"}', ["line 1", "'good'"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","score":[1]}', ["line 1", "a list"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","stars":3}', ["line 1", "'stars'", "'score'"]),
        ("q.jsonl", '{"qid":"q0","did":"d0","score":1}\n{"qid":"q1","did":"d0"}', ["line 2", "no grade"]),
        ("q.jsonl", '{"qid":"q0","did":null,"score":1}', ["line 1", "'did'", "null"]),
        ("q.jsonl", '{"qid":"q0","did":1.5,"score":1}', ["line 1", "'did'", "1.5"]),
        ("q.jsonl", '{"qid":"q0","score":1}', ["line 1", "'qid', 'score'"]),
        ("q.tsv", "qid\tdid\tscore\n", ["no judgements"]),
        ("q.json", '{"q0": {"d0": 1}}', ["one JSON text", "from_records"]),
    ],
)  # fmt: skip
def test_judgements_that_can_be_read_two_ways_are_refused(tmp_path, note_files, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        import_files("j", *note_files, tmp_path / name, data=tmp_path)
    for word in (name, *words):
        assert word in str(caught.value)


def test_nan_in_parquet_is_no_grade(tmp_path):
    table = pa.table({"qid": ["q0", "q1"], "did": ["d0", "d1"], "rel": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(InputError, match="row 2: field 'rel'"):
        read_qrels(qrels_file(tmp_path / "q.parquet"))


PLAIN_IDS = st.text("abc-_.:#\xa0é", min_size=1, max_size=5).filter(lambda s: s[0] in "abc")


JUDGED = st.dictionaries(
    st.tuples(PLAIN_IDS, PLAIN_IDS), st.integers(-1, 4) | st.sampled_from([0.2, 1.5]), max_size=6
)


@settings(max_examples=60)
@given(
    JUDGED,
    st.sampled_from(["tab", "csv", "trec", "jsonl", "no header"]),
    st.permutations(["query-id", "docno", "gain"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, rows, form, order, end, bom):
    path = tmp_path_factory.getbasetemp() / ("q.csv" if form == "csv" else f"q.{form[:5]}")
    named = [{"query-id": q, "docno": d, "gain": g} for (q, d), g in rows.items()]
    if form == "jsonl":
        text = "".join(json.dumps({k: r[k] for k in order}) + end for r in named)
    elif form == "trec":
        text = "".join(f"{q} 0  {d}\t{g}{end}" for (q, d), g in rows.items())
    elif form == "no header":
        text = "".join(f"{q}\t{d}\t{g}{end}" for (q, d), g in rows.items())
    elif form == "csv":
        text = end.join([",".join(order), *(",".join(f'"{r[k]}"' for k in order) for r in named)])
    else:
        text = end.join(["\t".join(order), *("\t".join(str(r[k]) for k in order) for r in named)])
    path.write_text(("\ufeff" if bom else "") + text, encoding="utf-8", newline="")
    found = {
        (q, d): g for q, of in read_qrels(qrels_file(path)).items() for d, g in of.grades.items()
    }
    assert found == {pair: grade for pair, grade in rows.items() if grade > 0}


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\tp2\t1\nq1\tp3\t0\nq2\tp1\t2\n",
        "q1 0 p2 1\nq1 0 p3 0\nq2 0 p1 2\n",
        "q1\t0\tp2\t1\n\nq2\t0\tp1\t1\n",
        "q1 p2\nq2 p1\n",
        "q1\tp2\t1\r\nq2\tp1\t1\r\n",
        "q1 0 p2 1 6\nq2 0 p1 1 6\n",
        "﻿corpus-id\tquery-id\np2\tq1\np1\tq2\n",
    ],
)
def test_forms_of_judgements(tmp_path, files, text):
    passages, queries = files
    (tmp_path / "qrels.tsv").write_text(text, encoding="utf-8")
    built = import_files("j", passages, queries, tmp_path / "qrels.tsv", data=tmp_path)
    split = read_back(built)
    pairs = zip(split.qrels["question_id"], split.qrels["passage_id"], strict=True)
    assert list(pairs) == [("q1", "p2"), ("q2", "p1")]
    assert split.query("q0")["pos_item_ids"] == []


def test_judgements_as_records(tmp_path, files):
    rows = [
        {"query-id": "q1", "corpus-id": "p2", "score": 1},
        {"qid": "q2", "docid": "p1", "Relevance Grade": 1},
    ]
    split = read_back(
        import_files("j", *files, jsonl(tmp_path / "qrels.jsonl", rows), data=tmp_path)
    )
    assert split.query("q2")["pos_item_ids"] == ["p1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q1 0 p2 1\nq1 0 p2\n", ["line 2", "3 columns", "expected: 4"]),
        ("q1\n", ["line 1", "1 columns", "TREC"]),
        ("q1\tp2\thigh\n", ["line 1", "'high' is no number"]),
        ("q1\t\t1\n", ["line 1", "blank"]),
        ("q1 0 p2 1\nnobody 0 p2 1\n", ["line 2", "'nobody'", "--drop-missing"]),
        ("q1 0 nothing 1\n", ["line 2", "'nothing'", "'q1'"]),
    ],
)
def test_bad_judgements_name_the_line(tmp_path, files, text, words):
    (tmp_path / "qrels.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        import_files("j", *files, tmp_path / "qrels.txt", data=tmp_path)
    for word in words:
        assert word in str(caught.value)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=30), st.just(b"q 0 d 1\n")), max_size=4).map(b"".join))
def test_any_judgements_are_read_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "qrels.txt"
    path.write_bytes(data)
    try:
        judged = read_qrels(qrels_file(path))
    except M2KRError as error:
        assert str(path) in str(error)
        return
    assert all(entry.line >= 1 for entry in judged.values())
