"""Judgements of people's own data: grades kept from file to table, and what is refused."""

import csv
import io
import json
from math import log2
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scores import score

import m2kr
from m2kr.building.userdata.importer import import_files
from m2kr.building.userdata.qrels import qrels_file, read_qrels
from m2kr.building.userdata.readers import record_file
from m2kr.data.load import load
from m2kr.errors import InputError, UsageError
from m2kr.fingerprint import query_parts
from m2kr.retrieval.run import Run

PASSAGES = [{"id": f"d{i}", "text": f"note {i}"} for i in range(8)]
QUERIES = [{"id": f"q{i}", "question": f"note {i}"} for i in range(3)]


def jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return jsonl(tmp_path / "p.jsonl", PASSAGES), jsonl(tmp_path / "q.jsonl", QUERIES)


def read_back(built, split: str = "test") -> m2kr.Split:
    name = built.manifest["source"]["name"]
    return load(name, split, edition=built.folder.name, data=built.folder.parent)


def judged(split: m2kr.Split) -> dict[str, dict[str, float]]:
    """Grades by query and passage as the accessor gives them; the tables must agree."""
    grades: dict[str, dict[str, float]] = {}
    for row in split.queries_view.judgements().to_pylist():
        grades.setdefault(row["question_id"], {})[row["passage_id"]] = row["relevance"]
    listed = zip(
        *(split.qrels[name] for name in ("question_id", "passage_id", "relevance")), strict=True
    )
    assert {(q, p): g for q, p, g in listed} == {
        (q, p): g for q, of in grades.items() for p, g in of.items()
    }
    return grades


def test_grades_are_kept(tmp_path, files):
    (tmp_path / "qrels.txt").write_text(
        "q0 0 d1 1\nq0 0 d2 3\nq0 0 d3 0\nq1 0 d4 0.2\nq2 0 d5 -1\n"
    )
    split = read_back(import_files("g", *files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 0.2}}
    assert split.query("q0")["pos_item_grades"] == [1.0, 3.0]
    assert split.relevance_threshold == 1
    assert split.manifest["splits"]["test"]["judged"] == 1
    assert query_parts(split.queries.data.table)[1] == split.fingerprints["judgements"]


def test_grades_that_are_all_1_need_no_column(tmp_path, files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 1.0\nq0 0 d3 0\n")
    split = read_back(import_files("g", *files, tmp_path / "qrels.txt", data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 1}}
    assert "pos_item_grades" not in split.queries.column_names
    assert "relevance_threshold" not in split.manifest


def test_a_threshold_is_held_by_the_manifest_and_the_fingerprint(tmp_path, files):
    (tmp_path / "qrels.txt").write_text("q0 0 d1 1\nq0 0 d2 3\nq1 0 d3 1\n")
    args = (*files, tmp_path / "qrels.txt")
    plain = read_back(import_files("a", *args, data=tmp_path))
    two = read_back(import_files("b", *args, data=tmp_path, relevance_threshold=2))
    assert two.relevance_threshold == two.manifest["relevance_threshold"] == 2
    assert two.manifest["splits"]["test"]["judged"] == 1
    assert judged(two) == judged(plain)
    for part, same in (("queries", True), ("pool", True), ("judgements", False), ("eval", False)):
        assert (plain.fingerprints[part] == two.fingerprints[part]) is same
    with pytest.raises(InputError, match="highest grade is 3"):
        import_files("c", *args, data=tmp_path, relevance_threshold=4)
    for wrong in (0, -1, float("nan"), float("inf"), "2", None):
        with pytest.raises(UsageError, match="relevance-threshold"):
            import_files("c", *args, data=tmp_path, relevance_threshold=wrong)


def test_the_oracle_ranks_by_grade(tmp_path):
    judged = {"q0": {"d1": 1, "d2": 3, "d3": 2}, "q1": ["d4", "d0"]}
    split = m2kr.from_records(PASSAGES, QUERIES, qrels=judged, data=tmp_path)
    run = m2kr.evaluate(split, "oracle")[0].run
    assert run is not None
    assert run.passage_ids("q0") == ["d2", "d3", "d1"]
    assert run.passage_ids("q1") == ["d4", "d0"]


def test_a_lost_positive_counts_as_never_found(tmp_path):
    split = m2kr.from_records(
        PASSAGES,
        QUERIES,
        qrels={"q0": ["d0"], "q1": {"d99": 2}},
        drop_missing=True,
        data=tmp_path,
    )
    assert judged(split) == {"q0": {"d0": 1}, "q1": {"d99": 2}}
    assert split.query("q1")["pos_item_ids"] == []
    plain = m2kr.from_records(PASSAGES, QUERIES, data=tmp_path)
    assert split.queries_view.content == plain.queries_view.content  # what retrievers may read
    result = m2kr.evaluate(split, "bm25")[0]
    assert result.metrics["hit_rate@1"]["value"] == 0.5
    assert result.metrics["hit_rate@1"]["n"] == 2


# Every form of a file of judgements

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
def test_every_form_keeps_the_grades(tmp_path, files, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8", newline="")
    split = read_back(import_files("g", *files, tmp_path / name, data=tmp_path))
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
def test_judgements_that_can_be_read_two_ways_are_refused(tmp_path, files, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        import_files("j", *files, tmp_path / name, data=tmp_path)
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


# Positives in the queries


@pytest.mark.parametrize(
    "fields",
    [
        {"positives": ["d1", "d2"], "pos_item_grades": [1, 3]},
        {"positives": ["d1", "d2"], "Grades": [1, 3]},
        {"positives": {"d1": 1, "d2": 3, "d3": 0}},
        {"positives": ["d1", "d2", "d3"], "positive_grades": [1, 3, -1]},
        {"pos_cand_list": [{"did": "d1", "score": 1}, {"did": "d2", "score": 3}]},
    ],
)
def test_grades_beside_positives(tmp_path, files, fields):
    queries = jsonl(tmp_path / "q2.jsonl", [{"id": "q0", "text": "?"} | fields])
    split = read_back(import_files("i", files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}}
    record = {"id": "q0", "text": "?"} | fields
    assert m2kr.from_records(PASSAGES, [record], data=tmp_path).fingerprints == split.fingerprints


def test_maps_and_structs_in_parquet_are_grades(tmp_path, files):
    pairs = pa.array([[("d1", 1), ("d2", 3)]], pa.map_(pa.string(), pa.int32()))
    structs = pa.array([[{"docid": "d1", "rel": 1.0}, {"docid": "d2", "rel": 3.0}]])
    for column in (pairs, structs):
        table = pa.table({"id": ["q0"], "text": ["?"], "positives": column})
        pq.write_table(table, tmp_path / "q.parquet")
        split = read_back(import_files("i", files[0], tmp_path / "q.parquet", data=tmp_path))
        assert judged(split) == {"q0": {"d1": 1, "d2": 3}}


def test_grades_in_cells(tmp_path, files):
    queries = tmp_path / "q.tsv"
    queries.write_text('id\ttext\tpositives\nq0\t?\t{"d1": 1, "d2": 3}\nq1\t?\t{"d4": 2}\n')
    split = read_back(import_files("i", files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 2}}
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,positives,grades\nq0,?,"[""d1"",""d2""]","[1, 3]"\nq1,?,d4,2\n')
    split = read_back(import_files("i", files[0], queries, data=tmp_path))
    assert judged(split) == {"q0": {"d1": 1, "d2": 3}, "q1": {"d4": 2}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positives": ["d1", "d2"], "grades": [1]}, ["'grades'", "1 grades for 2 positives"]),
        ({"positives": ["d1"], "grades": [None]}, ["'grades'", "null"]),
        ({"positives": ["d1"], "grades": ["good"]}, ["'grades'", "'good'"]),
        ({"positives": ["d1", "d2"], "scores": [1, 3]}, ["'scores'", "'pos_item_grades'"]),
        ({"positives": "d1", "rating": 0}, ["'rating'", "'pos_item_grades'"]),
        ({"positives": {"d1": None}}, ["'positives'", "null"]),
        ({"positives": {"d1": "high"}}, ["'positives'", "'high'"]),
        ({"positives": [["d1", 2]]}, ["'positives'", "a list"]),
    ],
)
def test_grades_that_are_unclear_are_refused(tmp_path, fields, words):
    with pytest.raises(InputError) as caught:
        m2kr.from_records(PASSAGES, [{"id": "q0", "text": "?"} | fields], data=tmp_path)
    for word in ("queries, record 1", *words):
        assert word in str(caught.value)


def test_fields_that_only_look_like_grades_are_left_alone(tmp_path):
    record = {"id": "q0", "text": "?", "positives": ["d1"]}
    for field in ({"grade": "grade8"}, {"label": 1}, {"score": [0.1, 0.2]}, {"rating": None}):
        split = m2kr.from_records(PASSAGES, [record | field], data=tmp_path)
        assert judged(split) == {"q0": {"d1": 1}}


@pytest.mark.parametrize("grade", [None, float("nan"), "", "good", [1], float("inf"), 10**400])
def test_grades_of_records_that_are_no_grades(tmp_path, grade):
    with pytest.raises(InputError, match=r"q0.*d1"):
        m2kr.from_records(PASSAGES, QUERIES, qrels={"q0": {"d1": grade}}, data=tmp_path)


# Lists in cells


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("four;4", ['["four;4"]', '["four", "4"]']),
        ("four|4", ['["four|4"]', '["four", "4"]']),
        ('"four, 4"', ['["four, 4"]', '["four", "4"]']),
        ("\"['four', '4']\"", ["JSON list"]),
        ("\"{'four', '4'}\"", ["JSON list"]),
        ("\"('four', '4')\"", ["JSON list"]),
        ('"""[""""four"""", 4]"""', ["JSON list"]),
    ],
)
def test_answers_of_a_cell_that_may_be_several_are_asked_for(tmp_path, files, cell, words):
    queries = tmp_path / "q.csv"
    queries.write_text(f"id,text,answers\nq0,?,{cell}\n")
    with pytest.raises(InputError) as caught:
        import_files("i", files[0], queries, data=tmp_path)
    for word in ("q.csv, line 2", "'answers'", *words):
        assert word in str(caught.value)


def test_answers_of_a_cell_that_are_sure(tmp_path, files):
    queries = tmp_path / "q.csv"
    queries.write_text('id,text,answer\nq0,?,"Paris, France"\nq1,?,"[""four;4""]"\nq2,?,4 m\n')
    split = read_back(import_files("i", files[0], queries, data=tmp_path))
    assert split.queries["answers"][:] == [["Paris, France"], ["four;4"], ["4 m"]]


@pytest.mark.parametrize("mark", [";", "; ", "|", ", ", ",", " ", "','", '"; "'])
@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.jsonl"])
def test_positives_that_are_a_list_are_not_dropped(tmp_path, files, mark, name):
    quote = mark[:1] if mark[:1] in "'\"" else ""
    cell = f"{quote}d1{mark}d2{quote}"
    if name == "q.jsonl":
        jsonl(tmp_path / name, [{"id": "q0", "text": "?", "positives": cell}])
    elif name == "q.tsv":
        (tmp_path / name).write_text(f"id\ttext\tpositives\nq0\t?\t{cell}\n")
    else:
        quoted = cell.replace('"', '""')
        (tmp_path / name).write_text(f'id,text,positives\nq0,?,"{quoted}"\n')
    for drop in (False, True):
        with pytest.raises(InputError) as caught:
            import_files("i", files[0], tmp_path / name, data=tmp_path, drop_missing=drop)
        assert repr(cell) in str(caught.value)
        assert '["d1", "d2"]' in str(caught.value)
        assert "--drop-missing" not in str(caught.value)


@pytest.mark.parametrize("cell", ["['d1', 'd2']", "('d1', 'd2')", "{'d1', 'd2'}", "[d1, d2]"])
def test_positives_in_another_languages_list_are_refused(tmp_path, files, cell):
    (tmp_path / "q.tsv").write_text(f"id\ttext\tpositives\nq0\t?\t{cell}\n")
    with pytest.raises(InputError, match=r"line 2: field 'positives'.*\n.*a JSON list"):
        import_files("i", files[0], tmp_path / "q.tsv", data=tmp_path, drop_missing=True)


def test_ids_with_separators_are_ids_where_the_pool_has_them(tmp_path):
    passages = [{"id": i, "text": i} for i in ("New York; NY", "New York", "NY", "a|b, c")]
    queries = [{"id": "q0", "text": "?", "positives": "New York; NY"}]
    queries += [{"id": "q1", "text": "?", "positives": ["a|b, c"]}]
    split = m2kr.from_records(passages, queries, data=tmp_path)
    assert split.queries["pos_item_ids"][:] == [["New York; NY"], ["a|b, c"]]


# Quotes, line ends and encodings

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
def test_a_file_without_a_header_names_what_it_has(tmp_path, files, name):
    mark = "," if name == "p.csv" else "\t"
    (tmp_path / name).write_text(f"1{mark}tin melts\n2{mark}lead\n")
    with pytest.raises(InputError) as caught:
        import_files("h", tmp_path / name, files[1], data=tmp_path)
    for word in ("line 2", "'1', 'tin melts'", "first line", "at tabs"):
        assert word in str(caught.value)


# BEIR folders


def beir(folder: Path, qrels: dict[str, str], queries: list[dict] | None = None) -> Path:
    jsonl(folder / "corpus.jsonl", [{"_id": p["id"], "text": p["text"]} for p in PASSAGES])
    rows = (
        [{"_id": q["id"], "text": q["question"]} for q in QUERIES] if queries is None else queries
    )
    jsonl(folder / "queries.jsonl", rows)
    (folder / "qrels").mkdir()
    for name, text in qrels.items():
        (folder / "qrels" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def one(query: str, passage: str = "d1", grade: int = 1) -> str:
    return f"query-id\tcorpus-id\tscore\n{query}\t{passage}\t{grade}\n"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["dev", "valid"], {"dev": "q0", "valid": "q1"}),
        (["dev", "val", "test"], {"dev": "q0", "val": "q1", "test": "q2"}),
        (["validation", "dev"], {"validation": "q0", "dev": "q1"}),
        (["dev", "test"], {"dev": "q0", "valid": "q0", "val": "q0", "test": "q1"}),
        (["dev-0", "dev"], {"dev-0": "q0", "dev_0": "q0", "dev": "q1"}),
    ],
)
def test_split_names_are_folded_only_where_that_loses_nothing(tmp_path, names, splits):
    folder = beir(tmp_path / "b", {f"{n}.tsv": one(f"q{i}") for i, n in enumerate(names)})
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert len(built.manifest["splits"]) == len(names)
    for name, query in splits.items():
        assert read_back(built, name).queries["question_id"][:] == [query]
        alone = import_files("one", layout="beir", folder=folder, split=name, data=tmp_path / "e")
        assert len(alone.manifest["splits"]) == 1
        assert read_back(alone, name).queries["question_id"][:] == [query]


def test_files_that_systems_leave_behind_do_not_stop_an_import(tmp_path):
    qrels = {
        "test.tsv": one("q0"),
        "._test.tsv": "\0\x05\x16\x07",
        ".DS_Store": "\0\0\0\1Bud1",
        "~$test.tsv": "\1",
    }
    folder = beir(tmp_path / "b", qrels)
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert list(built.manifest["splits"]) == ["test"]
    ret = tmp_path / "ReT"
    jsonl(ret / "okvqa_passages_test.jsonl", [{"passage_id": "d1", "passage_text": "note"}])
    jsonl(ret / "okvqa_test.jsonl", [{"data_id": "q1", "question": "?", "passage_id": "d1"}])
    for name in (
        "._okvqa_passages_test.jsonl",
        "__MACOSX/._okvqa_test.jsonl",
        "._okvqa_test.jsonl",
    ):
        (ret / name).parent.mkdir(exist_ok=True)
        (ret / name).write_bytes(b"\0\5\x16\7")
    built = import_files("r", layout="ret-m2kr", folder=ret, data=tmp_path / "d")
    assert judged(read_back(built)) == {"q1": {"d1": 1}}


def test_a_blank_query_matters_only_where_it_is_judged(tmp_path):
    queries = [{"_id": "q0", "text": "note"}, {"_id": "q1", "text": ""}]
    folder = beir(tmp_path / "b", {"test.tsv": one("q0")}, queries)
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    assert read_back(built).queries["question_id"][:] == ["q0"]
    (folder / "qrels" / "test.tsv").write_text(one("q1"))
    with pytest.raises(InputError, match="line 2"):
        import_files("b", layout="beir", folder=folder, data=tmp_path / "d")


def test_what_drop_missing_leaves_out_is_said(tmp_path):
    text = one("q0") + "q1\td99\t2\nq1\td2\t1\ngone\td1\t1\n"
    folder = beir(tmp_path / "b", {"test.tsv": text})
    with pytest.raises(InputError, match="'gone'"):
        import_files("b", layout="beir", folder=folder, data=tmp_path / "d")
    built = import_files("b", layout="beir", folder=folder, data=tmp_path / "d", drop_missing=True)
    split = read_back(built)
    assert judged(split) == {"q0": {"d1": 1}, "q1": {"d99": 2, "d2": 1}}
    assert split.query("q1")["pos_item_ids"] == ["d2"]
    ledger = pq.read_table(built.folder / "B_ledger.parquet").to_pylist()
    told = {(row["action"], row["rule"].partition(":")[0], row["detail"]) for row in ledger}
    assert told == {
        ("repaired", "positive not among the passages", "d99"),
        ("dropped", "judgements of a query that is not there", "gone"),
    }


def test_drop_missing_does_not_drop_everything(tmp_path):
    folder = beir(tmp_path / "b", {"test.tsv": one("gone"), "dev.tsv": one("q0", "d99")})
    for split, words in (("test", "'gone'"), ("dev", "none of 1")):
        with pytest.raises(InputError, match=words):
            import_files(
                "b", layout="beir", folder=folder, split=split, data=tmp_path, drop_missing=True
            )


# From the file to the score

GRADED = {"q0": {"d0": 1, "d1": 3, "d2": 2, "d3": 0}, "q1": {"d4": 2, "d5": 1}}
RANKED = {"q0": ["d0", "d2", "d3", "d1", "d4"], "q1": ["d5", "d0", "d4", "d1", "d2"]}
# trec_eval's, by hand: gains 1 2 0 3 over log2(rank + 1) by 3 2 1, and 1 0 2 by 2 1.
NDCG = (
    (1 + 2 / log2(3) + 3 / log2(5)) / (3 + 2 / log2(3) + 1 / 2),
    (1 + 2 / 2) / (2 + 1 / log2(3)),
)


def scores(split: m2kr.Split, *metrics: str) -> list[float]:
    ranked = {q: ids for q, ids in RANKED.items() if q in split.queries["question_id"]}
    lists = [[*map(float, range(len(ids), 0, -1))] for ids in ranked.values()]
    run = Run.from_lists([*ranked], [*ranked.values()], lists)
    result = score(split, run, metrics)
    return [result.metrics[name]["value"] for name in metrics]


def test_grades_reach_the_metrics(tmp_path):
    rows = "".join(f"{q}\t{d}\t{g}\n" for q, of in GRADED.items() for d, g in of.items())
    folder = beir(tmp_path / "b", {"test.tsv": "query-id\tcorpus-id\tscore\n" + rows})
    args = {"layout": "beir", "folder": folder, "data": tmp_path}
    names = ("ndcg@10", "hit_rate@1", "mrr@5")
    plain = scores(read_back(import_files("a", **args)), *names)
    assert plain == pytest.approx([sum(NDCG) / 2, 1, 1])
    assert plain[0] == pytest.approx(0.7533, abs=5e-5)
    two = scores(read_back(import_files("b", **args, relevance_threshold=2)), *names)
    assert two == pytest.approx([sum(NDCG) / 2, 0, (1 / 2 + 1 / 3) / 2])
    (folder / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t0.2\nq0\td3\t1\nq1\td4\t1.5\n"
    )
    fractions = scores(read_back(import_files("c", **args)), "hit_rate@1", "hit_rate@3")
    assert fractions == [0, 1]
