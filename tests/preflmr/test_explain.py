"""Scores taken apart: the terms are the score's, they point at the right text, and pages hold it."""

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from m2kr.errors import InputError, MissingError
from m2kr.preflmr import ContextTokenizer, ImageProcessor, PreFLMR, QueryTokenizer
from m2kr.report.explain.explanation import Explanation, explain
from m2kr.report.explain.page import Heading, Picture, page, panel
from m2kr.report.explain.run import WHOLE, explain_passages, seen
from m2kr.report.explain.tokens import (
    Piece,
    passage_pieces,
    patch_pieces,
    prefix_pieces,
    query_pieces,
)
from m2kr.report.html import TEMPLATES

NAMES = ("tiny_preflmr", "tiny_flmr", "tiny_separate")
QUERY = "Find it: what is the Capital of France?"
PASSAGES = ["Paris is the capital of France.", "Käse, and ‘other’ things: a, b, c!", "…"]
HOSTILE = """</p><script>alert(1)</script><img src=x onerror='alert(2)'>" & ' \u202e\x00 <b>end"""
Models = dict[str, PreFLMR]
TEXTS = st.text(max_size=60) | st.text(alphabet="ab .:[]éß한漢ﬁ\u0301\u200d\x00\n", max_size=40)


def picture(width: int = 40, height: int = 25) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def units(rows: int, dim: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, dim))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def made(query: str, passage: str, tokenizers: tuple[Any, Any], patches: int = 9) -> Explanation:
    """An explanation of random rows."""
    asked, read = query_pieces(tokenizers[0], query), passage_pieces(tokenizers[1], passage)
    pieces = (*asked.pieces, *prefix_pieces(2), *patch_pieces(patches))
    return explain(
        units(len(pieces), 5, 1),
        pieces,
        units(len(read.pieces), 5, 2),
        read.pieces,
        [each.label not in ".,:'\"" for each in read.pieces],
        query=query,
        passage=passage,
        query_cut=asked.cut,
        passage_cut=read.cut,
    )


@pytest.fixture(scope="module")
def tokenizers(golden: Path) -> tuple[QueryTokenizer, ContextTokenizer]:
    folder = golden / "tiny_preflmr"
    return QueryTokenizer.from_pretrained(folder), ContextTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", NAMES)
def test_terms_sum_to_the_models_score(models: Models, name: str) -> None:
    model = models[name]
    assert model.query_tokenizer and model.context_tokenizer and model.image_processor
    image = picture()
    explained = explain_passages(model, QUERY, PASSAGES, image=image)
    with torch.no_grad():
        asked = model.query(
            **model.query_tokenizer(QUERY), pixel_values=model.image_processor([image])
        )
        for shown, passage in zip(explained, PASSAGES, strict=True):
            doc = model.doc(**model.context_tokenizer(passage))  # padded to the full length
            assert isinstance(doc.late_interaction_output, torch.Tensor)
            assert doc.context_mask is not None
            score = float(
                model.score(
                    asked.late_interaction_output, doc.late_interaction_output, doc.context_mask
                )
            )
            assert shown.score == pytest.approx(score, abs=1e-5)
            assert sum(row.similarity for row in shown.rows) == pytest.approx(score, abs=1e-5)
            assert sum(each.received for each in shown.tokens) == pytest.approx(score, abs=1e-5)
            assert sum(shown.parts.values()) == pytest.approx(score, abs=1e-5)
            assert sum(each.rows for each in shown.tokens) == sum(r.counts for r in shown.rows)


@pytest.mark.parametrize("name", NAMES)
def test_golden_rows_give_the_official_scores(
    inputs: dict[str, dict[str, torch.Tensor]], name: str
) -> None:
    arrays = inputs[name]
    queries, documents, masks = arrays["query_out"], arrays["doc_out"], arrays["doc_mask"]
    found = [
        [
            explain(
                query, prefix_pieces(len(query)), doc, prefix_pieces(len(doc)), mask.reshape(-1)
            ).score
            for doc, mask in zip(documents, masks, strict=True)
        ]
        for query in queries
    ]
    assert np.abs(np.array(found) - arrays["scores_all_pairs"].numpy()).max() <= 1e-4


def test_rows_are_the_models_in_order(models: Models) -> None:
    shown = explain_passages(models["tiny_preflmr"], QUERY, PASSAGES[:1], image=picture())[0]
    kinds = [row.piece.kind for row in shown.rows]
    text = kinds.index("prefix")
    assert text == 32
    assert kinds[text:] == ["prefix"] * 4 + ["patch"] * 16
    assert shown.grid is not None
    assert shown.grid.tolist() == [
        [row.similarity for row in shown.rows[36 + 4 * line : 40 + 4 * line]] for line in range(4)
    ]
    # The instruction does not count, what follows its colon does, and so do the fillers.
    colon = next(n for n, row in enumerate(shown.rows) if row.piece.label == ":")
    assert [row.counts for row in shown.rows] == [n < 2 or n > colon for n in range(52)]
    assert {t.piece.label for t in shown.tokens if not t.counts} == {"."}
    assert all(shown.tokens[row.best].counts for row in shown.rows if row.best is not None)


def test_flmr_has_no_patches(models: Models) -> None:
    shown = explain_passages(models["tiny_flmr"], QUERY, PASSAGES[:1], image=picture())[0]
    assert shown.grid is None
    assert set(shown.parts) == {"text", "special", "filler", "prefix"}
    assert "none for patches" in panel(shown, Heading("p"))


def test_no_image_is_a_black_one_and_features_stand_for_pixels(models: Models) -> None:
    model = models["tiny_preflmr"]
    assert model.image_processor
    black = Image.new("RGB", (336, 336))
    without = explain_passages(model, QUERY, PASSAGES)
    assert without == explain_passages(model, QUERY, PASSAGES, image=black)
    with torch.no_grad():
        features = model.vision(model.image_processor([black]))
    assert without == explain_passages(model, QUERY, PASSAGES, features=features)
    assert without != explain_passages(model, QUERY, PASSAGES, image=picture())


def test_a_model_without_tokenizers_is_refused(models: Models) -> None:
    bare = PreFLMR(models["tiny_flmr"].config)
    with pytest.raises(MissingError, match="tokenizers"):
        explain_passages(bare, QUERY, PASSAGES)


@given(st.integers(1, 6), st.integers(1, 6), st.data())
@settings(max_examples=60, deadline=None)
def test_explain_is_plain_maxsim(rows: int, tokens: int, data: st.DataObject) -> None:
    values = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])  # many ties and zero rows
    left = np.array(
        data.draw(st.lists(st.lists(values, min_size=2, max_size=2), min_size=rows, max_size=rows))
    )
    right = np.array(
        data.draw(
            st.lists(st.lists(values, min_size=2, max_size=2), min_size=tokens, max_size=tokens)
        )
    )
    mask = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any))
    kinds = data.draw(st.lists(st.sampled_from(["text", "patch"]), min_size=rows, max_size=rows))
    pieces = [Piece("x", kind) for kind in kinds]
    shown = explain(left, pieces, right, [Piece("y", "text")] * tokens, mask)
    total = 0.0
    received = [[0.0, 0.0] for _ in range(tokens)]
    for vector, row in zip(left, shown.rows, strict=True):
        if not vector.any():
            assert not row.counts and row.best is None and row.similarity == 0
            continue
        products = [float(vector @ r) if m else -np.inf for r, m in zip(right, mask, strict=True)]
        assert row.similarity == max(products)
        assert row.best == products.index(max(products))
        received[row.best][row.piece.kind == "patch"] += max(products)
        total += max(products)
    assert shown.score == pytest.approx(total, abs=1e-12)
    assert [[t.from_text, t.from_image] for t in shown.tokens] == received
    shares = sum(shown.share(row.similarity) for row in shown.rows)
    assert shares == pytest.approx(1 if shown.score else 0)


def test_wrong_shapes_are_refused() -> None:
    one = prefix_pieces(1)
    with pytest.raises(InputError, match="shapes"):
        explain([[1.0, 0.0]], one, [[1.0]], one, [True])
    with pytest.raises(InputError, match="pieces"):
        explain([[1.0]], prefix_pieces(2), [[1.0]], one, [True])
    with pytest.raises(InputError, match="counts"):
        explain([[1.0]], one, [[1.0]], one, [False])
    with pytest.raises(InputError, match="NaN"):
        explain([[np.nan]], one, [[1.0]], one, [True])
    with pytest.raises(InputError, match="square"):
        patch_pieces(12)


@given(TEXTS)
@example("")
@example("[MASK] [PAD] literal [SEP]")
@example("word " * 50)
@example("a\ufdc8b \u2e50c\u0301\u2026")
@settings(max_examples=80, deadline=None)
def test_pieces_are_the_tokenizers_and_lie_in_the_text(
    tokenizers: tuple[QueryTokenizer, ContextTokenizer], text: str
) -> None:
    for tokenizer, found in (
        (tokenizers[0], query_pieces(tokenizers[0], text)),
        (tokenizers[1], passage_pieces(tokenizers[1], text)),
    ):
        ids = tokenizer(text, **({} if tokenizer is tokenizers[0] else {"padding": "longest"}))
        tokens = [tokenizer.pieces.id_to_token(int(n)) for n in ids["input_ids"][0]]
        labels = [each.label for each in found.pieces]
        assert len(labels) == len(tokens)
        # A literal [PAD] in a query becomes [MASK], as in the official code.
        same = {"[unused0]": ("[Q]",), "[unused1]": ("[D]",), "[MASK]": ("[MASK]", "[PAD]")}
        assert all(a in same.get(b, (b,)) for a, b in zip(labels, tokens, strict=True))
        places = [(p.start, p.end) for p in found.pieces if p.kind == "text"]
        assert places == sorted(places)
        assert all(0 <= a <= b <= len(text) for a, b in places)
        if found.cut is None:
            assert len(places) <= tokenizer.maxlen - 3
        else:
            assert len(places) == tokenizer.maxlen - 3
            assert 0 <= found.cut <= len(text)


@given(st.lists(st.sampled_from(["Paris", "THE", "capital,", "of", "(river)", "12"]), max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_pieces_place_holds_its_token(
    tokenizers: tuple[QueryTokenizer, ContextTokenizer], words: list[str]
) -> None:
    text = "  ".join(words)
    inner = [p for p in passage_pieces(tokenizers[1], text).pieces if p.kind == "text"]
    assert "".join(p.label.removeprefix("##") for p in inner) == "".join(words).lower()
    assert all(text[p.start : p.end].lower() == p.label.removeprefix("##") for p in inner)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (33, 500)])
def test_seen_is_what_the_processor_keeps(size: tuple[int, int]) -> None:
    processor = ImageProcessor.of_size(64)
    left, top, right, bottom = seen(processor, size)
    box = (left * size[0], top * size[1], right * size[0], bottom * size[1])
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), tuple(map(round, box)))
    white = processor([Image.new("RGB", (64, 64), (255, 255, 255))])
    kept = processor([image])
    inner = (..., slice(2, -2), slice(2, -2))  # an edge may fall between two pixels
    assert torch.allclose(kept[inner], white[inner], atol=1e-3)
    bigger = Image.new("RGB", size)
    assert seen(None, bigger.size) == WHOLE


@cache
def plain_forms(tokenizers: tuple[QueryTokenizer, ContextTokenizer]) -> set[Any]:
    """The elements and attribute names of a panel of harmless texts."""
    shown = made("a " * 40, "b. " * 50, tokenizers)
    return Reader(panel(shown, Heading("p", relevant=True))).forms


class Reader(HTMLParser):
    """Elements, and the text of some of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[int, str] = {}
        self._open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "input"):
            self._open.append(len(self.tags) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags[self._open.pop()][0] == tag, "elements are not nested"

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.texts[place] = self.texts.get(place, "") + data

    @property
    def forms(self) -> set[Any]:
        return {(tag, frozenset(attributes)) for tag, attributes in self.tags}

    def of(self, tag: str, css: str = "") -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, self.texts.get(place, ""))
            for place, (name, attributes) in enumerate(self.tags)
            if name == tag and css in ["", *attributes.get("class", "").split(" ")]
        ]

    def close_all(self) -> "Reader":
        self.close()
        assert not self._open
        return self


@given(TEXTS, TEXTS)
@example(HOSTILE, HOSTILE)
@settings(max_examples=60, deadline=None)
def test_a_panel_shows_any_text_and_nothing_else(
    tokenizers: tuple[QueryTokenizer, ContextTokenizer], query: str, passage: str
) -> None:
    shown = made(query, passage, tokenizers)
    heading = Heading(passage, query, (query, passage), True, passage)
    read = Reader(panel(shown, heading)).close_all()
    unfit = "[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]"
    wanted = [re.sub(unfit, "\ufffd", text) for text in (query, passage)]
    assert [text for _, text in read.of("p", "mx-read")] == wanted
    assert read.forms <= plain_forms(tokenizers)


def test_a_page_stands_alone(tokenizers: tuple[QueryTokenizer, ContextTokenizer]) -> None:
    shown = made(HOSTILE, HOSTILE * 40, tokenizers)
    heading = Heading(HOSTILE, HOSTILE, (HOSTILE,), False, "passage-1")
    html = page(
        HOSTILE, [HOSTILE], [(shown, heading)] * 2, Picture.seen(picture(), WHOLE), note=HOSTILE
    )
    html.encode()
    read = Reader(html).close_all()
    scripts = read.of("script")
    assert [text for _, text in scripts] == [(TEMPLATES / "explain.js").read_text(encoding="utf-8")]
    addresses = [a[key] for _, a in read.tags for key in ("href", "src") if key in a]
    assert all(each.startswith(("data:image/jpeg;base64,", "#passage-1")) for each in addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html
    assert html.count("not read") > 0  # the passage is longer than the model reads


def test_a_heat_map_has_each_patch_with_its_match(
    tokenizers: tuple[QueryTokenizer, ContextTokenizer],
) -> None:
    shown = made(QUERY, PASSAGES[0], tokenizers, patches=16)
    image = Picture.seen(picture(300, 200), (0.2, 0.0, 0.8, 1.0))
    read = Reader(panel(shown, Heading("p"), image)).close_all()
    rects = read.of("rect")
    patches = [row for row in shown.rows if row.piece.kind == "patch"]
    assert [a["data-t"] for a, _ in rects] == [str(row.best) for row in patches]
    assert (rects[0][0]["x"], rects[0][0]["y"]) == ("60.00", "0.00")
    assert (rects[-1][0]["x"], rects[-1][0]["y"]) == ("195.00", "150.00")
    weights = [float(a["style"].removeprefix("--w:")) for a, _ in rects]
    assert (min(weights), max(weights)) == (0, 1)
    assert np.argsort(weights).tolist() == np.argsort([r.similarity for r in patches]).tolist()
    marked = {a["data-p"] for _, a in read.tags if "data-p" in a}
    assert {a["data-t"] for _, a in read.tags if "data-t" in a} <= marked | {""}


def luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_on_every_highlight(scheme: int) -> None:
    block = re.findall(
        r"\.mx-page,\.mx\{(--mx-bg[^}]*)\}", (TEMPLATES / "style.css").read_text(encoding="utf-8")
    )[scheme]
    colours = {
        name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        for name, code in re.findall(r"--mx-(\w+):#([0-9a-f]{6})\b", block)
    }
    strongest = (
        float(
            re.search(
                r"var\(--w,0\)\*(\d+)%", (TEMPLATES / "style.css").read_text(encoding="utf-8")
            )[1]
        )
        / 100
    )
    marked = [
        strongest * colours[kind] + (1 - strongest) * colours["card"]
        for kind in ("text", "special")  # cells of the other kinds hold no text
    ]
    pairs = [(colours["ink"], ground) for ground in (colours["card"], colours["bg"], *marked)]
    pairs += [(colours["soft"], colours[ground]) for ground in ("card", "bg")]
    for front, back in pairs:
        light, dark = sorted((luminance(front), luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_explanations_are_json(tokenizers: tuple[QueryTokenizer, ContextTokenizer]) -> None:
    shown = made(QUERY, PASSAGES[0], tokenizers)
    record = json.loads(json.dumps(shown.as_dict()))
    assert sum(row["similarity"] for row in record["rows"]) == pytest.approx(record["score"])
    assert sum(row["share"] for row in record["rows"]) == pytest.approx(1)
    best = record["tokens"][record["rows"][-1]["best"]]
    assert best["from_image"] >= record["rows"][-1]["similarity"] - 1e-9
