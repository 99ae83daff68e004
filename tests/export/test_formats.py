"""Each format is read back: ids, texts, grades as they are, or refused in one line."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.release_fixture import CONFIGS, made, write_release

import m2kr
from m2kr.building.build import build
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.userdata.importer import from_records
from m2kr.data.load import load
from m2kr.errors import CheckError, InputError, UsageError
from m2kr.export.formats import MARK, export
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_text import escape_id

ODD = {
    "a b": "two  blanks\tand a tab\nand a line",
    "a%20b": "what the other would be encoded as",
    "#c": "",
    "é/語": "Title, é 語 \U0001f600 \u2028 and \x1f",
    "d": 'quotes " and \\ and \r\n',
}
QUERIES = [
    {
        "id": "q 1",
        "question": "tabs\tand\nlines ",
        "positives": {"a b": 1, "d": 2},
        "answers": ["x"],
    },
    {"id": "q%201", "question": "é語", "positives": {"é/語": 1}},
    {"id": "q3", "question": "nothing right", "positives": {}},
]
PASSAGES = [
    {"id": key, "text": text or "-", "title": "Title," if key == "é/語" else None}
    for key, text in ODD.items()
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return from_records(PASSAGES, QUERIES, name="odd", data=tmp_path_factory.mktemp("odd"))


def test_parquet_and_croissant_hold_what_was_built(odd, tmp_path):
    export([odd], "parquet", tmp_path / "plain")
    done = export([odd], "croissant", tmp_path / "croissant")
    for folder in (tmp_path / "plain", done.path):
        assert pq.read_table(folder / f"passages/{odd.pool}.parquet").to_pylist() == list(
            odd.passages
        )
        assert pq.read_table(folder / "queries/test.parquet").to_pylist() == list(odd.queries)
        assert pq.read_table(folder / "qrels/test.parquet").to_pylist() == list(odd.qrels)
    facts = json.loads((done.path / "croissant.json").read_text(encoding="utf-8"))
    assert [f["contentUrl"] for f in facts["distribution"]] == [
        f"passages/{odd.pool}.parquet",
        "qrels/test.parquet",
        "queries/test.parquet",
    ]
    assert {f["name"] for f in facts["recordSet"][2]["field"]} == set(odd.queries.column_names)
    origins = [(entry["name"], entry.get("sha256")) for entry in facts["prov:wasDerivedFrom"]]
    assert origins == [(entry["name"], entry.get("sha256")) for entry in odd.manifest["inputs"]]
    assert "not comparable with published numbers" in facts["rai:dataLimitations"][0].lower()


def test_beir_is_read_as_beir_reads_it(odd, tmp_path):
    done = export([odd], "beir", tmp_path / "beir")
    assert done.notes == ("test: 1 queries have no right passage; BEIR leaves them out",)
    corpus = [json.loads(line) for line in (done.path / "corpus.jsonl").open(encoding="utf-8")]
    indexed = {d["_id"]: f"{d['title']} {d['text']}" if d["title"] else d["text"] for d in corpus}
    assert indexed == dict(
        zip(odd.passages["passage_id"], odd.passages["passage_content"], strict=True)
    )
    assert next(d for d in corpus if d["_id"] == "é/語")["title"] == "Title,"
    queries = [json.loads(line) for line in (done.path / "queries.jsonl").open(encoding="utf-8")]
    assert [q["text"] for q in queries] == [odd.queries_view.text(row) for row in odd.queries]
    assert [q["metadata"]["question"] for q in queries] == odd.queries["question"]
    with (done.path / "qrels/test.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL))
    assert rows[0] == ["query-id", "corpus-id", "score"]
    wanted = odd.queries_view.judgements().to_pylist()
    assert rows[1:] == [
        [r["question_id"], r["passage_id"], f"{r['relevance']:.0f}"] for r in wanted
    ]


def test_our_import_reads_the_beir_folder(odd, tmp_path, cli):
    done = export([odd], "beir", tmp_path / "beir")
    cli("import", "again", done.path, "--from", "beir", "--data", tmp_path / "data")
    again = load("again", data=tmp_path / "data")
    texts = [text.strip() for text in odd.passages["passage_content"]]
    assert again.passages["passage_content"] == texts
    for name in ("question_id", "instruction", "question", "answers"):
        assert (
            again.queries[name] == odd.queries[name][:2]
        )  # BEIR has no queries without judgements
    assert sorted(map(str, again.queries_view.judgements().to_pylist())) == sorted(
        map(str, odd.queries_view.judgements().to_pylist())
    )


def test_our_import_reads_the_tables_back_with_what_the_pool_lacks(tmp_path):
    lost = {"q": {"p": 2, "gone": 3}, "r": {"gone": 2}}
    queries = [{"id": q, "question": "?", "positives": right} for q, right in lost.items()]
    passages = [{"id": "p", "text": "t"}]
    facts = {"drop_missing": True, "relevance_threshold": 2}
    built = from_records(passages, queries, name="lost", data=tmp_path, **facts)
    done = export([built], "parquet", tmp_path / "out")
    assert "right from grade 2" in done.notes[0]
    tables = [
        pq.read_table(done.path / name).to_pylist()
        for name in (f"passages/{built.pool}.parquet", "queries/test.parquet")
    ]
    again = from_records(*tables, name="again", data=tmp_path, **facts)
    assert again.fingerprints == built.fingerprints
    with pytest.raises(InputError, match=r"'gone' of query 'q' is not among"):
        from_records(*tables, name="not-dropped", data=tmp_path)


def test_trec_ids_stay_apart(odd, tmp_path):
    ranking = {q: {p: float(i) for i, p in enumerate(ODD)} for q in odd.queries["question_id"]}
    export([odd], "trec", tmp_path / "trec", run=Run.from_dict(ranking, name="mine"))
    lines = (tmp_path / "trec/test.qrels.txt").read_text(encoding="utf-8").split("\n")[:-1]
    cells = [line.split(" ") for line in lines]
    assert {tuple(c) for c in cells} == {
        (escape_id(q), "0", escape_id(p), str(g))
        for q, p, g in (("q 1", "a b", 1), ("q 1", "d", 2), ("q%201", "é/語", 1))
    }
    assert len({escape_id(p) for p in ODD}) == len(ODD)
    run = (tmp_path / "trec/test.run.trec").read_text(encoding="utf-8").splitlines()
    assert {line.split()[2] for line in run} == {escape_id(p) for p in ODD}
    assert Run.load(tmp_path / "trec/test.run.trec").to_dict() == ranking
    topics = (tmp_path / "trec/test.topics.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(topics) == 3
    assert topics[0].startswith("q%201\t")
    assert topics[0].endswith("tabs and lines")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    half = [{"id": "q", "question": "?", "positives": {"p": 0.5}}]
    graded = from_records(
        [{"id": "p", "text": "t"}], half, name="half", data=tmp_path, relevance_threshold=0.5
    )
    for name in ("beir", "trec", "mteb", "release"):
        with pytest.raises(UsageError, match=r"grades(.|\n)*--format parquet"):
            export([graded], name, tmp_path / name)
        assert not (tmp_path / name).exists()
    tab = [{"id": "q\t", "question": "?", "positives": ["p"]}]
    with pytest.raises(UsageError, match=r"'q\\t' holds a tab"):
        export(
            [from_records([{"id": "p", "text": "t"}], tab, name="tab", data=tmp_path)],
            "beir",
            tmp_path / "b",
        )
    with pytest.raises(UsageError, match="expected: parquet, beir"):
        export([graded], "xml", tmp_path / "x")


def test_nothing_else_is_written_over(odd, tmp_path):
    out = tmp_path / "out"
    export([odd], "parquet", out)
    (out / "queries/old.parquet").write_text("of an earlier version")
    export([odd], "parquet", out)
    assert not (out / "queries/old.parquet").exists()
    other = from_records(PASSAGES, QUERIES, name="other", data=tmp_path / "d")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    for split, name, where in ((odd, "beir", out), (other, "parquet", out), (odd, "parquet", mine)):
        with pytest.raises(UsageError, match="something else is there"):
            export([split], name, where)
    assert json.loads((out / MARK).read_text())["source"] == "odd"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(UsageError, match="something else is there than a judge file"):
        export([odd], "judge", out / "queries/test.parquet")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    names = ("wit", "cc3m", "msmarco", "okvqa", "evqa")
    files = write_release(folder / "files", sources=names)
    for name in names:
        made(name, files, folder / "data", any_counts=True)
    return folder / "data"


@pytest.mark.parametrize("name", ["wit", "cc3m", "msmarco", "evqa"])
def test_the_release_route_reads_its_own_layout_back(release, tmp_path, name):
    first = load(name, "train", edition="m2kr", data=release)
    splits = [load(name, s, edition="m2kr", data=release) for s in first.manifest["splits"]]
    export(splits, "release", tmp_path / "files")
    build(ReleaseBuilder(name, tmp_path / "files", any_counts=True), tmp_path / "data")
    for split in splits:
        again = load(name, split.split, edition="m2kr", data=tmp_path / "data")
        assert again.fingerprints == split.fingerprints
        assert list(again.queries) == list(split.queries)
        assert list(again.passages) == list(split.passages)
    config = CONFIGS[name]
    schema = pq.read_schema(next((tmp_path / f"files/{config}_data").glob("train-*.parquet")))
    if name == "cc3m":
        assert str(schema.field("question").type) == "null"
    if name == "msmarco":
        assert str(schema.field("img_path").type) == "null"
    if name == "wit":
        table = pq.read_table(next((tmp_path / f"files/{config}_data").glob("train-*.parquet")))
        assert set(table["question"].to_pylist()) == {" "}


def test_by_command_line(mini_root, tmp_path, cli):
    told = json.loads(
        cli(
            "export", "mini", "--format", "judge", "--data", mini_root, "--json", cwd=tmp_path
        ).stdout
    )
    judge = tmp_path / told["out"]
    assert judge.name == "mini.test.judge.parquet"
    direct = m2kr.evaluate("mini", "random", data=mini_root, out=tmp_path / "results")[0]
    (result,) = (tmp_path / "results").glob("*.json")
    (run,) = (tmp_path / "results").glob("*.run.parquet")
    judged = cli("eval", judge, "-r", f"run:{run}", "--out", tmp_path / "again", "--json").stdout
    assert json.loads(judged)["results"][0]["metrics"] == direct.as_dict()["metrics"]
    assert json.loads(judged)["results"][0]["fingerprints"] == direct.fingerprints
    out = tmp_path / "trec"
    shown = cli("export", result, "--format", "trec", "--out", out, "--data", mini_root).stdout
    assert "mini/test (mini)" in shown
    assert Run.load(out / "test.run.trec") == Run.load(run)
    words = ("export", "mini", "--format", "judge", "--out", tmp_path / "x", "--data", mini_root)
    assert "--out x.judge.parquet" in cli(*words, code=2).stderr


def test_splits_share_a_beir_folder_only_if_they_can(mini_root, release, tmp_path):
    test, seen = (load("mini", name, data=mini_root) for name in ("test", "seen"))
    done = export([test, seen], "beir", tmp_path / "two")
    lines = (done.path / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    ids = [json.loads(line)["_id"] for line in lines]
    assert (
        len(ids)
        == len(set(ids))
        == len({*test.queries["question_id"], *seen.queries["question_id"]})
    )
    apart = [load("msmarco", name, edition="m2kr", data=release) for name in ("train", "test")]
    with pytest.raises(UsageError, match=r"different passages(.|\n)*--split test"):
        export(apart, "beir", tmp_path / "three")


@pytest.mark.parametrize("name", ["okvqa", "evqa"])
def test_judge_files_of_the_release_score_as_it_does(release, tmp_path, name):
    """E-VQA's pool has passages that count as others; positives may be outside the pool."""
    split = load(name, "test", edition="m2kr", data=release)
    done = export([split], "judge", tmp_path / f"{name}.judge.parquet")
    rng, ids = np.random.default_rng(0), sorted(set(split.passages["passage_id"]))
    run = Run.from_dict(
        {q: {p: float(rng.random()) for p in ids} for q in split.queries["question_id"]}
    )
    direct, judged = (m2kr.evaluate(of, run, metrics="full")[0] for of in (split, done.path))
    assert judged.metrics == direct.metrics
    assert (judged.counts, judged.groups, judged.notes) == (
        direct.counts,
        direct.groups,
        direct.notes,
    )
    assert judged.fingerprints == direct.fingerprints


def test_a_source_that_is_built_anew_meanwhile_is_not_exported(tmp_path):
    split = from_records(PASSAGES, QUERIES, name="anew", data=tmp_path / "data")
    assert (len(split.queries), len(split.passages), len(split.qrels)) == (3, 5, 3)
    shutil.rmtree(tmp_path / "data")
    from_records(PASSAGES[:4], QUERIES[1:], name="anew", data=tmp_path / "data")
    for name, out in (("parquet", tmp_path / "out"), ("judge", tmp_path / "x.judge.parquet")):
        with pytest.raises(CheckError, match="built anew"):
            export([split], name, out)
        assert not out.exists()
