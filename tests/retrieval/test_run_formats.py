"""Runs as other tools write them: read right, or refused with what can be read two ways."""

import bz2
import gzip
import json
import lzma
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError, UsageError
from m2kr.retrieval.run import Run

names = st.text("abcXYZ019_-./:#é", min_size=1, max_size=4).filter(lambda s: not s.startswith("#"))
ranked = st.dictionaries(
    names, st.lists(names, min_size=1, max_size=6, unique=True), min_size=1, max_size=5
)
numbers = st.floats(-1e6, 1e6).map(lambda x: x + 0.5 if x == int(x) else x)


def lines(ranking, form, start):
    """Rows of a run in some tool's columns."""
    for query, ids in ranking.items():
        for rank, passage in enumerate(ids, start):
            score = len(ids) - rank + 0.25
            yield {
                "ranks": [query, passage, rank],
                "scores": [query, passage, score],
                "colbert": [query, passage, rank, score],
                "tagged": [query, passage, score, "tag"],
                "short": [query, "Q0", passage, score],
                "trec": [query, "Q0", passage, rank, score, "tag"],
                "uniir": [query, "Q0", passage, rank, score, "tag", 3],
                "trailing": [query, "Q0", passage, rank, score, "tag", "and", "more"][
                    : 6 + rank % 3
                ],
            }[form]


@settings(max_examples=70, deadline=None)
@given(
    ranking=ranked,
    form=st.sampled_from(
        ["ranks", "scores", "colbert", "tagged", "short", "trec", "uniir", "trailing"]
    ),
    start=st.sampled_from([0, 1]),
    blank=st.sampled_from([" ", "\t", "  ", " \t", ",", ";", ", "]),
    end=st.sampled_from(
        ["\n", "\r\n", "\r", "\n\n", " \n", "\n# a comment q Q0 a 1 2 t\n", "\n  #\n"]
    ),
    begin=st.sampled_from([b"", b"\xef\xbb\xbf", b"# made by me\n", b"\n\n"]),
    packed=st.booleans(),
    mixed=st.randoms(),
)
def test_the_order_is_that_which_was_meant(
    ranking, form, start, blank, end, begin, packed, mixed, tmp_path_factory
):
    rows = [blank.join(map(str, row)) for row in lines(ranking, form, start)]
    queries = [row.split(blank)[0] for row in rows]
    # Rows of queries may lie between each other's, each query's in order.
    turns = mixed.sample(queries, len(queries))
    left = {q: iter([r for r, own in zip(rows, queries, strict=True) if own == q]) for q in queries}
    data = begin + (end.join(next(left[q]) for q in turns) + end).encode()
    path = tmp_path_factory.mktemp("runs") / ("run.txt.gz" if packed else "run.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    run = Run.load(path)
    assert {q: run.passage_ids(q) for q in run.query_ids} == ranking
    if form not in ("ranks",):
        assert (
            run.scores(next(iter(ranking)))[0] == len(next(iter(ranking.values()))) - start + 0.25
        )


@settings(max_examples=50, deadline=None)
@given(
    ranking=ranked,
    columns=st.permutations(["qid", "docno", "rank", "score"]),
    left_out=st.sampled_from([None, "rank", "score"]),
    blank=st.sampled_from(["\t", " ", ",", ";", ", "]),
    order=st.randoms(),
    spelled=st.sampled_from(
        [
            str,
            str.upper,
            lambda s: s.replace("qid", "query-id"),
            lambda s: s.replace("docno", "docId"),
        ]
    ),
)
def test_a_header_says_what_columns_are(
    ranking, columns, left_out, blank, order, spelled, tmp_path_factory
):
    kept = [c for c in columns if c != left_out]
    rows = [
        {"qid": q, "docno": p, "rank": rank, "score": -7 * rank}
        for q, ids in ranking.items()
        for rank, p in enumerate(ids)
    ]
    order.shuffle(rows)
    text = blank.join(map(spelled, kept)) + "\n"
    text += "".join(blank.join(str(row[c]) for c in kept) + "\n" for row in rows)
    path = tmp_path_factory.mktemp("runs") / "run.tsv"
    path.write_text(text, encoding="utf-8")
    run = Run.load(path)
    assert {q: run.passage_ids(q) for q in run.query_ids} == ranking


@settings(max_examples=70, deadline=None)
@given(ranking=ranked, start=st.sampled_from([0, 1, 2, 7]), order=st.randoms())
def test_ranks_out_of_order_are_refused_or_read_right(ranking, start, order, tmp_path_factory):
    rows = [(q, p, r) for q, ids in ranking.items() for r, p in enumerate(ids, start)]
    order.shuffle(rows)
    falling = all(
        a > b
        for q in ranking
        for own in [[r for query, _, r in rows if query == q]]
        for a, b in pairwise(own)
    )
    path = tmp_path_factory.mktemp("runs") / "run.tsv"
    path.write_text("".join(f"{q}\t{p}\t{r}\n" for q, p, r in rows), encoding="utf-8")
    try:
        run = Run.load(path)
    except InputError as error:
        assert "two ways" in str(error)
        assert "as ranks" in str(error)
        assert "as scores" in str(error)
        return
    found = {q: run.passage_ids(q) for q in run.query_ids}
    # Best first is what every tool writes, so numbers that fall in every query are scores.
    if not falling and start < 2:
        assert found == ranking


@settings(max_examples=40, deadline=None)
@given(rankings=st.dictionaries(names, st.dictionaries(names, numbers, min_size=1), min_size=1))
def test_scores_are_never_taken_for_ranks(rankings, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.txt"
    rows = [(q, p, s) for q, scored in rankings.items() for p, s in scored.items()]
    path.write_text("".join(f"{q} {p} {s!r}\n" for q, p, s in rows), encoding="utf-8")
    assert Run.load(path).to_dict() == Run.from_dict(rankings).to_dict()


any_id = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["", "%", "#1", "a b", "\t", "%20", "\u2028", "q\n", "{", "mteb_model_meta"]
)
rankings = st.dictionaries(
    any_id,
    st.dictionaries(any_id, st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(
    ranking=rankings,
    name=any_id,
    form=st.sampled_from([".json", ".mteb.json", ".tsv", ".res", ".json.gz", ".tsv.gz"]),
)
def test_what_is_written_is_read_back(ranking, name, form, tmp_path_factory):
    run = Run.from_dict(ranking, name=name, split="valid")
    path = run.save(tmp_path_factory.mktemp("runs") / f"run{form}")
    loaded = Run.load(path)
    if "json" in form:
        assert loaded == run
        assert loaded.query_ids == run.query_ids
    else:
        assert loaded == run.select([q for q in ranking if ranking[q]])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@settings(max_examples=40, deadline=None)
@given(ranking=rankings)
def test_pandas_both_ways(ranking):
    run = Run.from_dict(ranking)
    frame = run.to_pandas()
    assert list(frame.columns) == ["q_id", "doc_id", "score", "rank"]
    filled = run.select([q for q in ranking if ranking[q]])
    if len(filled):
        assert Run.from_pandas(frame) == filled
        assert Run.from_pandas(frame.drop(columns="score")).query_ids == filled.query_ids
        shuffled = frame.sample(frac=1, random_state=0).rename(
            columns={"q_id": "qid", "doc_id": "docno"}
        )
        assert Run.from_pandas(shuffled) == filled
        assert Run.from_pandas(shuffled.set_index(["qid", "docno"])) == filled


def test_frames_that_can_not_be_runs():
    good = pd.DataFrame({"qid": [1, 1], "docno": ["a", "b"], "score": [1.0, 2.0]})
    assert Run.from_pandas(good, name="n").to_dict() == {"1": {"b": 2.0, "a": 1.0}}
    with pytest.raises(InputError, match="no column score: its columns are qid, docno"):
        Run.from_pandas(good.drop(columns="score"))
    with pytest.raises(InputError, match="nulls"):
        Run.from_pandas(good.assign(score=[1.0, None]))
    with pytest.raises(InputError, match="wrong type"):
        Run.from_pandas(good.assign(score=["x", "y"]))


@pytest.mark.slow  # ranx compiles its own containers for this
def test_ranx_both_ways():
    pytest.importorskip("ranx")
    run = Run.from_dict({"q": {"b": 2.5, "a": 1.0}, "é": {"x y": -1.0}, "none": {}}, name="n")
    theirs = run.to_ranx()
    assert theirs.name == "n"
    back = Run.from_ranx(theirs)
    assert back == run
    assert back.name == "n"
    with pytest.raises(UsageError, match="without results"):
        Run.from_dict({"q": {}}).to_ranx()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q a 1\nq b 2\nr c 5\n", "as ranks .* and as scores"),  # counts up in one query alone
        ("q a 0\nq b 1\nr a 1\nr b 2\n", "as ranks"),  # from 0 in one, from 1 in the other
        ("q a 3\nq b 5\nq c 9\n", "as ranks"),  # ranks of which some were left out
        ("q a 1.0\nq b 2.0\n", "as ranks"),  # scores, worst first, or ranks from a frame
        ("q a 1 2\nq b 2 1\n", "as rank and score, and as score and rank"),
        ("q a 1 1\nq b 2 2\n", "as rank and score"),
        ("q 0 a 1\nq 0 b 1\n", "judgements"),
        ("q a x tag\n", "no number"),
        ("q,a\n", "1 columns"),
        ('q,"a,1\n', "1 columns"),
        ('q,a,1\nq,"b,1\n', ":2: .*no CSV"),
        ("q;a;1,5\nq;b;1,0\n", "1 columns"),
        ("q,a,1\nq,b,1,5\n", ":2: .*4 columns"),
        ("q a\n", "2 columns"),
        ("q Q0 a 1 2\n", "5 columns"),
        ("qid\tpid\tdistance\nq\ta\t1\n", "'qid', 'pid', 'distance': none is a score or a rank"),
        ("q Q0 a 99999999999999999999 2.0 t\n", ":1: .*beyond 64 bits"),
        ("q Q0 a 1 2.0 t\nq Q0 b 2 1e999 t\n", ":2: .*not finite"),
        ("q Q0 a 1 2.0 tq Q0 b 2 1.0 t\n", "two rows on one line"),
        ("q Q0 a 1 1_0 t\n", "underscore"),
        ("q Q0 a 1 0x10 t\n", "0x10"),
    ],
)
def test_text_that_is_refused(tmp_path, text, message):
    path = tmp_path / "run.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"(?s)run\.txt.*{message}"):
        Run.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, "not JSON"),
        ("{" * 3, "not JSON"),
        ('{"q": {"a": 1, "a": 2}}', "'a' is there twice"),
        ('{"q": {"a": 1}, "q": {"b": 1}}', "'q' is there twice"),
        ('{"q": ["a", "b"]}', "not a run"),
        ('{"q": 1}', "not a run"),
        ("[]", "not a run"),
        ('{"mteb_model_meta": {"model_name": "m"}}', "0 runs"),
        ('{"q": {"a": "1"}}', "the score is '1'"),
        ('{"q": {"a": true}}', "the score is True"),
        ('{"q": {"a": null}}', "the score is None"),
        ('{"q": {"a": NaN}}', "not finite"),
        ('{"q": {"a": 1e999}}', "not finite"),
        ('{"q": {"a": ' + "9" * 400 + "}}", "too large"),
        ('{"test": {"q": {"a": 1}}, "dev": {"q": {"a": 1}}}', "2 runs: test, dev"),
        ('{"q": {"a": 1}, "r": {"b": {"c": 1}}}', "the score is"),
    ],
)
def test_json_that_is_refused(tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"(?s)run\.json.*{message}"):
        Run.load(path)


@pytest.mark.parametrize(
    "scored",
    [
        {"q": {"a": 1, "b": 2}, "r": {"c": 1}},  # ranks, best first
        {"q": {"a": 0, "b": 1, "c": 2}},
        {"q": {"a": 2, "b": 1, "c": 3}},  # ranks by passage id
        {"q": {"a": 3, "b": 7}},
    ],
)
def test_whole_numbers_in_json_that_may_be_ranks_are_refused(tmp_path, scored):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(scored))
    with pytest.raises(InputError, match=r"as ranks .* as scores"):
        Run.load(path)
    floats = {q: {p: float(n) for p, n in each.items()} for q, each in scored.items()}
    path.write_text(json.dumps(floats))
    assert Run.load(path).to_dict() == scored
    path.write_text(json.dumps({q: {p: -n for p, n in each.items()} for q, each in scored.items()}))
    assert next(iter(Run.load(path).to_dict()["q"])) == min(scored["q"], key=scored["q"].get)


@settings(max_examples=40, deadline=None)
@given(
    scored=st.dictionaries(
        st.text("ab ,;\"'é", min_size=1, max_size=4).map(lambda s: f"p{s}p"),
        numbers,
        min_size=1,
    ),
    mark=st.sampled_from([",", ";"]),
    header=st.booleans(),
    index=st.booleans(),
)
def test_csv_as_pandas_writes_it(scored, mark, header, index, tmp_path_factory):
    rows = [("q 1", passage, score) for passage, score in scored.items()]
    frame = pd.DataFrame(rows, columns=["Query ID", "docid", "score"])
    path = tmp_path_factory.mktemp("runs") / "run.csv"
    frame.to_csv(path, sep=mark, header=header, index=header and index)
    assert Run.load(path).to_dict() == Run.from_dict({"q 1": scored}).to_dict()


def test_rows_of_empty_cells_are_no_rows(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("qid,docid,score\n")
    assert len(Run.load(path)) == 0
    path.write_text("qid,docid,score\n,,\n")
    assert len(Run.load(path)) == 0
    path.write_text("q,a,1.5\n,,\n\nq,b,0.5\n")
    assert Run.load(path).to_dict() == {"q": {"a": 1.5, "b": 0.5}}


@pytest.mark.parametrize(
    ("begin", "name"),
    [(bz2.compress(b"q a 1"), "bzip2"), (lzma.compress(b"q a 1"), "xz"), (b"PK\3\4", "zip")],
)
def test_packed_runs_say_how_they_are_packed(tmp_path, begin, name):
    path = tmp_path / "run.trec"
    path.write_bytes(begin)
    with pytest.raises(InputError, match=rf"packed by {name}"):
        Run.load(path)


def test_mteb_predictions_and_names_without_a_known_ending(tmp_path):
    scored = {"q": {"a": 1, "b": 2.5}}
    forms = {
        "v1.json": scored,
        "v2.json": {
            "mteb_model_meta": {"model_name": "org/model", "revision": "x"},
            "default": {"test": scored},
        },
        "split.json": {"test": scored},
        "no_ending": scored,
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(json.dumps(content))
        assert Run.load(tmp_path / name).to_dict() == scored
    assert Run.load(tmp_path / "v2.json").name == "org/model"
    written = json.loads(
        Run.from_dict(scored, name="me", split="valid").save(tmp_path / "x.mteb.json").read_text()
    )
    assert written["default"]["valid"] == scored
    assert written["mteb_model_meta"]["model_name"] == "me"
    (tmp_path / "results.test").write_text("q Q0 a 1 2 t\n")
    assert Run.load(tmp_path / "results.test").to_dict() == {"q": {"a": 2.0}}
    Run.from_dict(scored).save(tmp_path / "x.parquet").rename(tmp_path / "ending.unknown")
    assert Run.load(tmp_path / "ending.unknown").to_dict() == scored
    with pytest.raises(InputError, match="UTF-16"):
        (tmp_path / "wide.txt").write_bytes("q Q0 a 1 2 t\n".encode("utf-16"))
        Run.load(tmp_path / "wide.txt")


def test_parquet_of_ranks_and_under_other_names(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"qid": [7, 7], "docno": ["a", "b"], "rank": [1, 0]}), path)
    assert Run.load(path).passage_ids("7") == ["b", "a"]
    pq.write_table(pa.table({"qid": ["q"], "text": ["a"], "score": [1.0]}), path)
    with pytest.raises(InputError, match="no column doc_id: its columns are qid, text, score"):
        Run.load(path)
    columns = [pa.array(["q"]), pa.array(["r"]), pa.array(["a"]), pa.array([1.0])]
    pq.write_table(pa.table(columns, names=["q_id", "q_id", "doc_id", "score"]), path)
    with pytest.raises(InputError, match="two columns are called q_id"):
        Run.load(path)


def test_rank_columns_raise_no_false_alarm(tmp_path, caplog):
    """Ties in any order, ranks from 0, all ranks 0, rows out of order: as published runs have them."""
    path = tmp_path / "x.trec"
    for text in (
        "q Q0 z 1 5 t\nq Q0 a 2 5 t\nq Q0 m 3 5.0 t\nq Q0 b 4 1 t\n",
        "q Q0 b 1 1 t\nq Q0 a 0 2 t\n",
        "q Q0 b 0 1 t\nq Q0 a 0 2 t\n",
        "q Q0 b 3 0.5 t\nr Q0 b 2 1 t\nq Q0 a 1 2 t\n",
    ):
        path.write_text(text)
        Run.load(path)
    assert not caplog.records
    path.write_text("q Q0 a 1 0 t\nq Q0 b 2 0 t\nr Q0 a 1 0 t\nr Q0 b 2 0 t\n")
    Run.load(path)
    assert "all scores are equal" in caplog.text
    caplog.clear()
    path.write_text("# q1 Q0 a 1 2 t\nq Q0 a 1 2 t\n")
    assert Run.load(path).query_ids == ("q",)
    assert not caplog.records
    path.write_text("#q1 Q0 a 1 2 t\nq Q0 a 1 2 t\n")
    assert Run.load(path).query_ids == ("q",)
    assert "look like rows" in caplog.text
    caplog.clear()
    path.write_text("q a 0.5\nq b 1.5\nr a 2.5\nr b 7.25\n")
    Run.load(path)
    assert "distances" in caplog.text


@settings(max_examples=40, deadline=None)
@given(
    scored=st.dictionaries(
        st.text("aAzZé\U0001f600\uffff", min_size=1, max_size=2),
        st.sampled_from([1.0, 1.0 + 1e-12, 2.0]),
    )
)
def test_ties_of_trec_eval(scored):
    run = Run.from_dict({"q": scored})
    whole = sorted(scored, key=lambda p: (scored[p], p.encode()), reverse=True)
    single = sorted(scored, key=lambda p: (np.float32(scored[p]), p.encode()), reverse=True)
    assert run.ordered("trec").passage_ids("q") == whole
    assert run.ordered("trec9").passage_ids("q") == single
    assert run.ordered("trec").ordered("m2kr") == run
    assert run.ordered("trec").top(2).passage_ids("q") == whole[:2]


ODD_CELLS = [
    "Q0",
    "0",
    "a%20b",
    "%41",
    "%",
    "%zz",
    "#x",
    '"a',
    "a,b",
    "\ufeffa",
    "é",
    "1.0",
    "t+pct",
    "",
]
ODD_NUMBERS = (
    ".5 5. +1 -1 1.0 1e2 1e400 1e-400 0x1F 1_0 nan inf 1,5 ٣ 9007199254740993 99999999999999999999"
)


@settings(max_examples=150, deadline=None)
@given(
    scores=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=4),
    place=st.tuples(st.integers(0, 3), st.integers(0, 5)),
    odd=st.one_of(st.sampled_from(ODD_CELLS), st.sampled_from(ODD_NUMBERS.split())),
    escaped=st.booleans(),
    mark=st.sampled_from([" ", "\t"]),
)
def test_lines_parted_by_one_blank_are_read_as_those_parted_by_two(
    tmp_path_factory, scores, place, odd, escaped, mark
) -> None:
    """Arrow parses the former at once; every other file goes through a slower and stricter way."""
    assume(odd or mark == " ")  # between tabs it is an empty cell
    tag = "tag+pct" if escaped else "tag"
    rows = [["q", "Q0", f"p{i}", str(i), repr(x), tag] for i, x in enumerate(scores, 1)]
    if place[0] < len(rows):
        rows[place[0]][place[1]] = odd
    said, path = [], tmp_path_factory.mktemp("blanks") / "x.trec"
    for between in (mark, mark * 2):
        lines = "\n".join(between.join(row) for row in rows)
        path.write_bytes(lines.encode() + b"\n")
        try:
            run = Run.load(path)
            said.append((run, run.name, run.flat_scores.tobytes()))
        except InputError as error:
            said.append((error.what, error.where))
    assert said[0] == said[1]
