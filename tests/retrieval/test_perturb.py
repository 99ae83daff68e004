"""Perturbed splits: what they change, what stays, and that nothing kept of one serves another."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import m2kr
from m2kr.errors import MissingError, UsageError
from m2kr.retrieval.perturb import PERTURBATIONS, AlteredImages, _derangement, perturb

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta")
CHANGES = {
    "no image": {"img_path", "img_id", "image_id"},
    "black image": {"img_path", "img_id", "image_id"},
    "mean image": {"img_path", "img_id", "image_id"},
    "another query's image": {"img_path"},
    "no question": {"question"},
    "no instruction": {"instruction"},
    "another instruction": {"instruction"},
    "shuffled instructions": {"instruction"},
    "double spaces": {"question", "instruction"},
    "trailing space": {"question", "instruction"},
    "no question mark": {"question"},
    "lower case": {"question", "instruction"},
    "image halved and back": {"img_path", "img_id", "image_id"},
    "image as JPEG": {"img_path", "img_id", "image_id"},
    "order of rows": set(),
}


class Colour(m2kr.EncoderRetriever):
    """Finds the passage that names the image's colour; knows what it encodes."""

    modalities = {"query": ["image"], "passage": ["text"]}  # noqa: RUF012

    def cache_key(self, side):
        return {"model": 1}

    def encode_document(self, batch):
        return np.array(
            [[text == colour for colour in COLOURS] for text in batch.texts], np.float32
        )

    def encode_query(self, batch):
        return np.array(list(map(self.likeness, batch.images)), np.float32)

    @staticmethod
    def likeness(image):
        if image is None:
            return np.zeros(len(COLOURS), np.float32)
        mean = np.asarray(image, float).mean((0, 1))
        named = [np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0))) for colour in COLOURS]
        return [1 - np.abs(mean - colour).sum() / 765 for colour in named]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> m2kr.Split:
    folder = tmp_path_factory.mktemp("perturb")
    (folder / "images").mkdir()
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (40 + number, 30), colour).save(folder / "images" / f"{colour}.png")
    queries = [
        {
            "id": f"q{number}",
            "question": f"Which Colour is number {number}?",
            "instruction": f"Instruction {number % 3}: ",
            "img_path": None if colour is None else f"{colour}.png",
            "positives": [colour or "red"],
        }
        for number, colour in enumerate((*COLOURS, "red", None))
    ]
    return m2kr.from_records(
        {colour: colour for colour in COLOURS},
        queries,
        name="colours",
        images=folder / "images",
        data=folder / "data",
    )


def hits(results: list[m2kr.Result]) -> np.ndarray:
    return results[0].scores["hit_rate@1"]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_it_changes_what_it_says_and_nothing_else(name: str, split: m2kr.Split) -> None:
    before = {row["question_id"]: row for row in split.queries_view.rows(range(len(split.queries)))}
    changed = perturb(split, name)
    view = changed.queries_view
    after = {row["question_id"]: row for row in view.rows(range(len(view)))}
    assert after.keys() == before.keys()
    moved = {c for q in before for c in before[q] if before[q][c] != after[q][c]}
    # Ids of images are null here, and stay so where no image takes their place.
    assert moved == CHANGES[name] - ({"img_id", "image_id"} if name == "no image" else set())
    # A query without an image stays one without.
    assert after["q7"]["img_path"] is None
    assert view.fingerprint == ""
    assert changed.fingerprints["eval"] != split.fingerprints["eval"]
    assert "perturbed" in changed.fingerprints["queries"]
    assert changed.fingerprints["pool"] == split.fingerprints["pool"]


def test_rows_in_another_order_are_in_another_order(split: m2kr.Split) -> None:
    changed = perturb(split, "order of rows")
    for one, other in (
        (split.queries_view, changed.queries_view),
        (split.passages_view, changed.passages_view),
    ):
        assert one.ids.to_pylist() != other.ids.to_pylist()
        assert sorted(one.ids.to_pylist()) == sorted(other.ids.to_pylist())
    assert changed.passages_view.fingerprint == ""
    assert perturb(split, "no image").passages_view is split.passages_view


def test_images_are_what_they_are_called(split: m2kr.Split) -> None:
    def seen(name: str) -> list[Image.Image]:
        view = perturb(split, name).queries_view
        return [view.image(view[row]) for row in range(6)]

    assert seen("no image") == [None] * 6
    assert {image.getextrema() for image in seen("black image")} == {((0, 0),) * 3}
    assert {image.getpixel((3, 3)) for image in seen("mean image")} <= {(127,) * 3, (128,) * 3}
    own = [split.queries_view.image(split.queries_view[row]) for row in range(6)]
    for one, other in zip(own, seen("another query's image"), strict=True):
        assert one.getpixel((0, 0)) != other.getpixel((0, 0))
    for name in ("image halved and back", "image as JPEG"):
        for one, other in zip(own, seen(name), strict=True):
            assert one.size == other.size
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 3


@pytest.mark.parametrize(
    ("name", "right"),
    [("no image", 1), ("black image", 1), ("another query's image", 0), ("image as JPEG", 7)],
)
def test_nothing_kept_of_the_split_serves_a_perturbed_one(
    name: str, right: int, split: m2kr.Split, tmp_path: Path
) -> None:
    def score(which: m2kr.Split) -> int:
        found = m2kr.evaluate(which, Colour(), cache=True, workdir=tmp_path, metrics="hit_rate@1")
        return int(hits(found)[:7].sum())

    root = split.folder.parent / "cache" / "embeddings"
    assert score(split) == 7
    kept = sorted(root.iterdir())
    assert score(perturb(split, name)) == right
    assert score(split) == 7
    assert sorted(root.iterdir()) == kept


def test_its_result_is_no_result_of_the_split(split: m2kr.Split) -> None:
    one, other = (
        m2kr.evaluate(which, "bm25", metrics="hit_rate@1")[0]
        for which in (split, perturb(split, "lower case"))
    )
    assert one.name != other.name
    assert "perturbed: lower case" in other.comparable
    assert one.fingerprints["eval"] != other.fingerprints["eval"]


def test_altered_images_lie_beside_the_splits_own(split: m2kr.Split) -> None:
    assert split.images is not None
    black, grey = (
        AlteredImages(split.images, name, Image.new("RGB", (2, 2), name))
        for name in ("black", "grey")
    )
    assert black.altered("red.png") != grey.altered("red.png")
    assert black.exists("red.png")
    assert black.exists(black.altered("red.png"))
    assert not black.exists(grey.altered("red.png"))
    assert black.sha256("red.png") == split.images.sha256("red.png")
    stamp = black.stamper()
    assert stamp(black.altered("red.png")) == black.sha256(black.altered("red.png"))
    assert stamp("red.png") == split.images.stamper()("red.png")
    assert Image.open(io.BytesIO(black.read(black.altered("x")))).size == (2, 2)
    turned = AlteredImages(split.images, "turned", lambda data: data)
    assert not turned.exists(turned.altered("gone.png"))
    with pytest.raises(MissingError):
        turned.open(turned.altered("gone.png"))


def test_what_has_nothing_to_change_says_so(split: m2kr.Split, tmp_path: Path) -> None:
    plain = m2kr.from_records(
        {"p": "text"}, {"q": "What is it?"}, name="plain", instruction="", data=tmp_path
    )
    for name in ("no image", "another query's image", "image as JPEG"):
        with pytest.raises(UsageError, match="no query has an image"):
            perturb(plain, name)
    with pytest.raises(UsageError, match="one of no image"):
        perturb(split, "no sense")
    with pytest.raises(UsageError, match="again"):
        perturb(perturb(split, "no image"), "no question")


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.randoms())
def test_a_derangement_gives_another_value_wherever_it_can(values, random) -> None:
    ids = [f"q{i}" for i in range(len(values))]
    source = _derangement(values, ids)
    assert sorted(source) == list(range(len(values)))
    largest = max(Counter(values).values())
    same = sum(values[i] == values[source[i]] for i in range(len(values)))
    assert same == max(0, 2 * largest - len(values))
    # It goes by ids, not by rows.
    order = list(range(len(values)))
    random.shuffle(order)
    moved = _derangement([values[i] for i in order], [ids[i] for i in order])
    by_id = {ids[i]: values[source[i]] for i in range(len(values))}
    assert by_id == {ids[order[i]]: values[order[moved[i]]] for i in range(len(values))}
