"""Ablations and bands: of retrievers that read what they say, and of some whose batches matter."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import m2kr
from m2kr.errors import UsageError
from m2kr.report.robustness import ablation_table, band_table
from m2kr.robustness.baseline import _reranked

WORDS = ("badger", "violin", "copper", "glacier", "lighthouse", "zebra", "goldfish", "strawberry")


class Words(m2kr.EncoderRetriever):
    """One number a known word; a batch's longest text matters if it is told so."""

    def __init__(self, *, padded: bool = False, batch_size: int = 4) -> None:
        self.padded, self.batch_size = padded, batch_size

    def encode_document(self, batch):
        return self.rows(batch.texts)

    def encode_query(self, batch):
        return self.rows([i + q for i, q in zip(batch.instructions, batch.texts, strict=True)])

    def rows(self, texts):
        rows = np.array([[word in text for word in WORDS] for text in texts], np.float32)
        if self.padded:  # as a mean over padding does: words of the longest text weigh in
            rows += 2 * rows[np.argmax(list(map(len, texts)))]
        return rows


class Pictures(Words):
    """Reads the colour of the image as a word."""

    modalities = {"query": ["image"]}  # noqa: RUF012

    def encode_query(self, batch):
        eye = np.eye(len(WORDS), dtype=np.float32)
        return np.stack(
            [0 * eye[0] if i is None else eye[i.getpixel((0, 0))[0] // 30] for i in batch.images]
        )


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "images").mkdir()
    for number, word in enumerate(WORDS):
        Image.new("RGB", (64, 64), (number * 30 + 5,) * 3).save(folder / "images" / f"{word}.png")
    queries = [
        {
            "id": f"q{number}",
            "question": f"What of the {word}" + "?" * (number % 2),
            "instruction": f"Say {number % 2}: ",
            "img_path": f"{word}.png",
            "positives": [word],
        }
        for number, word in enumerate(WORDS)
    ]
    passages = {word: f"The {word} is here. " + "And so on. " * n for n, word in enumerate(WORDS)}
    return m2kr.from_records(
        passages, queries, name="words", images=folder / "images", data=folder / "data"
    )


def test_ablations_show_what_is_read(split: m2kr.Split, tmp_path: Path) -> None:
    words, pictures = m2kr.evaluate(
        split, [Words(), Pictures()], ablate=True, out=tmp_path, metrics="hit_rate@1"
    )
    assert words.ablations is not None
    assert pictures.ablations is not None
    assert words.value("hit_rate@1") == pictures.value("hit_rate@1") == 1
    lost = words.ablations["no question"]
    change = lost["metrics"]["hit_rate@1"]
    assert (change["value"], change["delta"]) == (0.125, -0.875)
    assert change["low"] <= -0.875 <= change["high"] < 0
    # Of 7 queries that differ all went one way: 2 of 2^7 assignments reach that.
    assert change["p"] == pytest.approx(2 / 2**7)
    assert words.ablations["no instruction"]["metrics"]["hit_rate@1"]["p"] == 1
    # Four changes were tried: question, and three of the instruction.
    assert change["p_holm"] == pytest.approx(4 * 2 / 2**7)
    assert lost["flips"] == {"hit_rate@1": 7}
    assert words.ablations["no instruction"]["reranked"] == 0
    for name in ("no image", "black image", "another query's image"):
        assert words.ablations[name] == {"skipped": "Words reads no images of queries"}
        assert pictures.ablations[name]["metrics"]["hit_rate@1"]["delta"] < -0.8
    assert "skipped" in pictures.ablations["no question"]
    loaded = m2kr.Result.load(tmp_path / f"{words.name}.json")
    assert loaded.ablations == words.ablations
    assert loaded.bands is None
    plain = m2kr.evaluate(split, Words(), metrics="hit_rate@1")[0]
    assert plain.name != words.name
    heads, body = ablation_table(pictures)
    assert heads == ["queries", "R@1", "p (R@1)", "reranked"]
    assert body[0] == ["as they are", "1.000", "", ""]
    assert body[1][:2] == ["no image", "-.875*"]
    assert [row[0] for row in body[1:]] == [n for n in pictures.ablations if "image" in n]


def test_bands_are_zero_where_nothing_matters(split: m2kr.Split) -> None:
    result = m2kr.evaluate(split, Words(), bands=True, metrics="hit_rate@1")[0]
    assert result.bands is not None
    assert result.bands["max"] == {"hit_rate@1": 0}
    done = {name for name, kind in result.bands["kinds"].items() if "metrics" in kind}
    assert done >= {"order of rows", "batch size", "padding", "double spaces", "lower case"}
    assert result.bands["kinds"]["dtype"] == {"skipped": "Words has no setting dtype"}
    assert result.notes[-1] == "what should not matter moves no score that is shown"
    assert all(set(row[1:]) == {"0"} for row in band_table(result)[1])


def test_a_retriever_whose_padding_matters_is_told_so(split: m2kr.Split) -> None:
    retriever = Words(padded=True)
    result = m2kr.evaluate(split, retriever, bands=True, metrics="hit_rate@1")[0]
    assert result.bands is not None
    assert retriever.batch_size == 4
    assert result.bands["max"]["hit_rate@1"] > 0
    assert any(note.startswith("NOT ZERO: ") for note in result.notes)
    flipped = result.bands["kinds"]["padding"]["flips"]["hit_rate@1"]
    shown = {row[0]: row[1] for row in band_table(result)[1]}
    assert f"({flipped})" in shown["padding"]


def test_what_fails_without_a_part_does_not_lose_the_rest(split: m2kr.Split) -> None:
    class Needy(Words):
        def encode_query(self, batch):
            if not all(batch.texts):
                raise ValueError("a question, please")
            return super().encode_query(batch)

    result = m2kr.evaluate(split, Needy(), ablate=True, metrics="hit_rate@1")[0]
    assert result.ablations is not None
    assert "a question, please" in result.ablations["no question"]["skipped"]
    assert result.ablations["no instruction"]["reranked"] == 0


def test_runs_and_seeds_have_none(split: m2kr.Split) -> None:
    run = m2kr.Run.from_dict({q: {} for q in split.queries_view.ids.to_pylist()})
    with pytest.raises(UsageError, match="replayed"):
        m2kr.evaluate(split, run, ablate=True)
    with pytest.raises(UsageError, match="one index"):
        m2kr.evaluate(split, Words(), bands=True, search="official", seeds=2)


def test_the_command_shows_both_tables(cli, split: m2kr.Split, tmp_path: Path) -> None:
    words = ("eval", "words", "-r", "bm25", "--data", split.folder.parent, "--out", tmp_path)
    shown = cli(*words, "--ablate", "--bands", "--metrics", "hit_rate@1").stdout
    assert "words/test, bm25: ablations" in shown
    assert "words/test, bm25: bands" in shown
    assert (
        "not tried: no image, black image, mean image, another query's image: bm25 reads no"
        in shown
    )
    told = json.loads(cli(*words, "--ablate", "--json").stdout)["results"][0]
    assert told["ablations"]["no question"]["metrics"]["hit_rate@1"]["delta"] < 0
    assert told["bands"] is None


def test_queries_that_are_ranked_otherwise_are_counted() -> None:
    one = m2kr.Run.from_dict({"a": {"x": 2, "y": 1}, "b": {"x": 1}, "c": {}, "d": {"y": 3, "z": 1}})
    other = m2kr.Run.from_dict(
        {"a": {"y": 2, "x": 1}, "b": {"w": 1}, "c": {}, "d": {"y": 9, "z": 8}}
    )
    assert _reranked(one, one) == 0
    assert _reranked(one, other) == _reranked(other, one) == 2
    nothing = m2kr.Run.from_dict({query: {} for query in "abcd"})
    assert _reranked(one, nothing) == _reranked(nothing, one) == 3
    assert _reranked(nothing, nothing) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense_text", "flmr", "image_concepts", "preflmr"])
def test_order_batches_and_padding_move_nothing_of_ours(name: str, split: m2kr.Split) -> None:
    tiny = Path(__file__).parents[1] / "golden" / f"tiny_{name}"
    settings = {"checkpoint": str(tiny)} if tiny.is_dir() else {}
    try:
        result = m2kr.evaluate(split, name, settings=settings, bands=True, cache=False)[0]
    except m2kr.M2KRError as error:
        if error.exit_code != 3:
            raise
        pytest.skip(str(error))
    assert result.bands is not None
    assert not [note for note in result.notes if note.startswith("NOT ZERO")]
    for kind in ("order of rows", "batch size", "padding"):
        assert result.bands["kinds"][kind]["reranked"] == 0, kind
