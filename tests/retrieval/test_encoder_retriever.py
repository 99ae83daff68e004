import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.progress import Recorder
from support.toys import PASSAGES, Dense, Late, image_folder, letters, toy_split

from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, UsageError
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Retriever, RunContext
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.search.exact.reference import maxsim


def searched(retriever, split, folder, k=10):
    retriever.index(split.passages_view, workdir=folder)
    return retriever.search(split.queries_view, k)


def test_it_is_a_retriever():
    assert isinstance(Dense(), Retriever)


def test_dense_ranking_by_inner_product(tmp_path):
    split = toy_split()
    run = searched(Dense(), split, tmp_path)
    assert run.query_ids == ("q1", "q2", "q3", "q4")
    assert run.name == "letters"
    for row in split.queries_view.batches(1):
        query = letters(row[0]["question"])
        exact = {p: float(query @ letters(text)) for p, text in PASSAGES.items()}
        assert run.to_dict()[row[0]["question_id"]] == exact


def test_late_interaction_is_the_canonical_maxsim(tmp_path):
    split = toy_split()
    run = searched(Late(), split, tmp_path)
    words = lambda text: np.stack([letters(w) / 10 for w in text.split()])  # noqa: E731
    for query in split.queries_view.batches(1):
        exact = {p: maxsim(words(query[0]["question"]), words(t)) for p, t in PASSAGES.items()}
        assert run.to_dict()[query[0]["question_id"]] == exact


def test_cosine_divides_by_the_lengths(tmp_path):
    retriever = Dense()
    retriever.similarity = "cosine"
    assert retriever.settings == {"similarity": "cosine"}
    run = searched(retriever, toy_split(), tmp_path)
    a, b = letters("apple fruit"), letters(PASSAGES["p/dog"])
    expected = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    assert run.to_dict()["q1"]["p/dog"] == pytest.approx(expected, abs=1e-15)


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=40),
    size=st.integers(1, 7),
    late=st.booleans(),
)
def test_order_is_restored_whatever_the_batches(texts, size, late, tmp_path_factory):
    passages = {f"p{i}": text or " " for i, text in enumerate(texts)}
    split = toy_split(passages=passages)
    kind = Late if late else Dense
    batched = kind(size)
    batched._window_batches = 2
    one = searched(batched, split, tmp_path_factory.mktemp("one"), 50)
    assert one == searched(kind(1000), split, tmp_path_factory.mktemp("other"), 50)


def test_batches_hold_rows_of_like_length_longest_first(tmp_path):
    passages = {f"p{i}": "x" * n for i, n in enumerate([3, 9, 1, 8, 2, 7, 5])}
    retriever = Dense(3)
    retriever.index(toy_split(passages=passages).passages_view, workdir=tmp_path)
    assert [[len(t) for t in b.texts] for b in retriever.batches] == [[9, 8, 7], [5, 3, 2], [1]]
    assert retriever.batches[0].ids == ["p1", "p3", "p5"]


def test_batches_carry_texts_instructions_and_images_only_where_they_are_read(tmp_path):
    images = ImageStore(image_folder(tmp_path, "a.png", "b.png"))
    split = toy_split(images)
    blind = Dense(10)
    searched(blind, split, tmp_path / "blind")
    document, query = blind.batches
    assert set(document.instructions) == {""}
    assert set(query.instructions) == {"Find: "}
    for batch in (document, query):
        with pytest.raises(InputError, match='"image"'):
            _ = batch.images

    seeing = Dense(10)
    seeing.modalities = Modalities(frozenset({"text", "image"}), frozenset({"text"}))
    searched(seeing, split, tmp_path / "seeing")
    document, query = seeing.batches
    with pytest.raises(InputError, match=r'"query": \["image", "text"\]'):
        _ = document.images
    by_id = dict(zip(query.ids, query.images, strict=True))
    assert [by_id[q] and by_id[q].getpixel((0, 0)) for q in ("q1", "q2", "q3")] == [
        (0, 0, 0),
        None,
        (40, 0, 0),
    ]


def test_progress_and_encoder_seconds_are_reported(tmp_path):
    told, retriever = Recorder(), Dense(3)
    retriever.begin_run(RunContext(progress=told))
    searched(retriever, toy_split(), tmp_path)
    assert [call for call in told.calls if call[::2] != ("advance", 0)] == [
        (call, f"encode {side}", n)
        for side in ("document", "query")
        for call, n in (("start", 4), ("advance", 3), ("advance", 1), ("done", 0))
    ]
    seconds = retriever.run_stats().seconds
    assert set(seconds) == {"encode document", "encode query"}
    assert min(seconds.values()) > 0


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (lambda batch: np.ones((len(batch) + 1, 3)), "3 rows for a batch of 2"),
        (lambda batch: np.full((len(batch), 3), np.nan), "NaN or infinity for 'p/bear'"),
        (lambda batch: np.ones((len(batch), len(batch.texts[0]))), "shape"),
    ],
)
def test_what_an_encoder_gets_wrong_is_named(tmp_path, encoded, message):
    retriever = Dense(2)
    retriever.encode_document = encoded
    with pytest.raises(InputError, match=message):
        retriever.index(toy_split().passages_view, workdir=tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_search_before_index_and_missing_methods_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="before index"):
        Dense().search(toy_split().queries_view, 3)
    with pytest.raises(UsageError, match="has no encode_document"):
        EncoderRetriever().index(toy_split().passages_view, workdir=tmp_path)


def test_a_run_is_replayed(tmp_path):
    split = toy_split()
    run = searched(Dense(), split, tmp_path)
    replay = RunRetriever(run.save(tmp_path / "r.parquet"))
    assert isinstance(replay, Retriever)
    assert replay.name == "letters"
    assert replay.run == run
    assert searched(replay, split, tmp_path, 2) == run
    assert RunRetriever(tmp_path / "r.parquet", name="mine").name == "mine"
    assert Run.load(tmp_path / "r.parquet") == run
