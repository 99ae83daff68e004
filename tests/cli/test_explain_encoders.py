"""``m2kr explain`` of retrievers that are one's own, and of questions that are."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from support.commands import call

import m2kr
from m2kr.cli import explain
from m2kr.retrieval.run import Run

OWN = """
import re, zlib
import numpy as np
from m2kr import EncoderRetriever

def vector(word):
    made = np.random.default_rng(zlib.crc32(word.encode())).normal(size=16)
    return (made / np.linalg.norm(made)).astype(np.float32)

def words(text):
    return list(re.finditer(r"\\w+", text))

class Named(EncoderRetriever):
    name = "named"
    modalities = {"query": ["text", "image"], "passage": ["text"]}
    def encode_query(self, batch):
        return [np.stack([vector("[CLS]"), *(vector(m[0].lower()) for m in words(t)), np.zeros(16)])
                for t in batch.texts]
    encode_document = encode_query
    def row_labels(self, batch, side):
        return [["[CLS]", *(m.span() for m in words(t)), "[PAD]"] for t in batch.texts]

class Plain(Named):
    name = "plain"
    row_labels = EncoderRetriever.row_labels

class Dense(Plain):
    name = "one_vector"
    def encode_query(self, batch):
        return np.stack([vector(t) for t in batch.texts])
    encode_document = encode_query

class TooFew(Named):
    def row_labels(self, batch, side):
        return [["[CLS]"] for _ in batch.texts]

class Outside(Named):
    def row_labels(self, batch, side):
        return [[(0, len(t) + 1)] * (len(words(t)) + 2) for t in batch.texts]

class Odd(Named):
    def row_labels(self, batch, side):
        return 5

class Raises(Named):
    def row_labels(self, batch, side):
        return 1 / 0
"""
TEXTS = {
    "fox": "The quick brown fox jumps.",
    "dog": "A lazy dog sleeps; the <b>dog</b>\x1b[2J snores.",
    "tin": "Tin is a metal.",
    "a/b %": "The fox and the dog are friends.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Retrievers, an image, a data root with a source and a run of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    Image.new("RGB", (30, 20), (9, 99, 9)).save(folder / "fox.png")
    split = m2kr.from_records(
        [{"id": name, "text": text} for name, text in TEXTS.items()],
        [
            {
                "id": "q/1",
                "question": " Which fox? ",
                "positives": ["fox", "gone"],
                "image": "fox.png",
            },
            {"id": "q/3", "question": "?", "positives": ["gone"]},
            {"id": "q/2", "question": "What is tin?", "positives": [], "instruction": "Say it"},
        ],
        name="beasts",
        images=folder,
        data=folder,
        edition="beasts",
        drop_missing=True,
    )
    ranking = {"q/3": {}, "q/1": {"dog": 3.0, "tin": 2.0, "fox": 1.0}, "q/2": {}}
    run = Run.from_dict(ranking, name="mine")
    run.save(folder / "run.parquet")
    m2kr.evaluate(split, run, out=folder / "results")
    return folder


def told(folder: Path, kind: str, *args: object) -> dict:
    words = ("explain", "beasts", "-r", f"{folder / 'own.py'}:{kind}", "--data", folder, *args)
    return json.loads(call(*words, "--json").stdout)


def test_a_score_is_the_searchs_and_its_terms_name_words(folder: Path) -> None:
    found = told(folder, "Named", "--question", "which fox, dog?", "-k", 4)["passages"]
    from m2kr.data.load import load
    from m2kr.retrieval.adhoc import AdHocQuery, search_one
    from m2kr.retrievers import create

    hits = search_one(
        load("beasts", data=folder),
        create(f"{folder / 'own.py'}:Named"),
        AdHocQuery("which fox, dog?"),
        4,
    ).hits
    assert [p["passage_id"] for p in found] == [hit.passage_id for hit in hits]
    for passage, hit in zip(found, hits, strict=True):
        assert passage["score"] == pytest.approx(hit.score, abs=0.01)
        assert sum(row["similarity"] for row in passage["rows"]) == pytest.approx(passage["score"])
        spans = [
            passage["query"][r["start"] : r["end"]]
            for r in passage["rows"]
            if r["start"] is not None
        ]
        assert spans == ["which", "fox", "dog"]
        assert passage["passage"] == TEXTS[passage["passage_id"]]
        assert [row["counts"] for row in passage["rows"]] == [True] * 4 + [False]
        assert passage["relevant"] is None
    best = found[0]
    fox = next(row for row in best["rows"] if row["label"] == "fox")
    assert best["tokens"][fox["best"]]["label"] == "fox"
    assert fox["similarity"] == pytest.approx(1, abs=1e-3)


def test_rows_without_a_name_have_numbers(folder: Path) -> None:
    (passage,) = told(folder, "Plain", "--query-id", "q/1", "--passage-id", "dog")["passages"]
    assert [row["label"] for row in passage["rows"]] == [f"row {n}" for n in range(1, 5)]
    assert list(passage["parts"]) == ["row"]
    same = told(folder, "Named", "--query-id", "q/1", "--passage-id", "dog")["passages"][0]
    assert same["score"] == pytest.approx(passage["score"])
    assert [r["similarity"] for r in same["rows"]] == [r["similarity"] for r in passage["rows"]]


@pytest.mark.parametrize("file", ["run.parquet", "results"])
def test_the_right_passage_stands_beside_what_a_run_found(folder: Path, file: str) -> None:
    (run,) = [folder / file] if "." in file else (folder / file).glob("*.json")
    place = ("--query-id", "q/1", "--run", run, "-k", 2)
    shown = told(folder, "Named", *place)["passages"]
    assert [(p["passage_id"], p["relevant"], p["rank"]) for p in shown] == [
        ("fox", True, 3),
        ("dog", False, 1),
        ("tin", False, 2),
    ]
    page = folder / "page.html"
    table = call(
        *("explain", "beasts", "-r", f"{folder / 'own.py'}:Plain", "--data", folder, *place),
        *("--out", page),
    ).stdout
    assert [line.split()[1] for line in table.splitlines() if "yes" in line] == ["fox"]
    html = page.read_text()
    assert html.index('class="mx-beside"') < html.index("rank 3 of the run</span>")
    assert "&lt;b&gt;dog" in html
    assert "\x1b" not in html
    assert html.count("data:image/jpeg") == 1  # that the retriever looks at, on top
    assert "rows of the whole image" not in html


def test_an_image_of_ones_own(folder: Path) -> None:
    page = folder / "own.html"
    call(
        *("explain", "beasts", "-r", f"{folder / 'own.py'}:Named", "--data", folder, "--out", page),
        *("--image", folder / "fox.png", "-q", "What is <i>this</i>?", "--passage-id", "a/b %"),
    )
    html = page.read_text()
    assert "data:image/jpeg" in html
    assert "a/b %" in html
    assert "<i>this" not in html


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("-r own.py:Dense --query-id q/1", 2, "makes one vector of a text"),
        ("-r bm25 --query-id q/1", 2, "no vectors"),
        ("-r own.py:TooFew --query-id q/1", 1, "names for"),
        ("-r own.py:Outside --query-id q/1", 1, "is no place in a text of"),
        ("-r own.py:Odd --query-id q/1", 1, "row_labels"),
        ("-r own.py:Raises --query-id q/1", 1, "ZeroDivisionError"),
        ("--query-id q/1", 2, "no model is named"),
        ("-r own.py:Plain", 2, "nothing is asked"),
        ("-r own.py:Plain --query-id q/1 -q hm", 2, "two queries"),
        ("-r own.py:Plain -q hm --run run.parquet", 2, "question of your own"),
        ("-r own.py:Plain -q hm --passage-id nowhere", 1, "no passage 'nowhere'"),
        ("-r own.py:Plain --image nowhere.png", 3, "no such image file"),
        ("-r own.py:Plain --query-id q/9", 1, "did you mean 'q/"),
        ("-r own.py:Plain --query-id q/2", 2, "no positive passage"),
        ("-r own.py:Plain --query-id q/3", 2, "no positive passage"),
        ("-r own.py:Plain --query-id q/1 --device cuda:9", 2, "device"),
        ("-r own.py:Plain --query-id q/2 --run run.parquet", 1, "no passage for query 'q/2'"),
        ("-r own.py:Nobody --query-id q/1", 1, "there is no 'Nobody'"),
    ],
)
def test_errors_say_what_is_wrong(
    folder: Path, words: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = call("explain", "beasts", "--data", folder, *shlex.split(words), code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "explain.html").exists()


def test_examples_are_of_this_command() -> None:
    assert all(example.startswith("m2kr explain ") for example in explain.EXAMPLES)
