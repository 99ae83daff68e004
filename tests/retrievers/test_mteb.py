"""MTEB's models evaluated by m2kr, and m2kr's retrievers evaluated by MTEB, without a network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import m2kr
from m2kr.errors import M2KRError, MissingError, UsageError
from m2kr.retrieval.batches import Batch
from m2kr.retrievers import adapted, create
from m2kr.retrievers._mteb import mteb_retriever

pytestmark = pytest.mark.slow  # the import alone takes seconds
_WORDS = "tin lead copper gold melts at degrees the of river stone fish red green blue bark"
WORDS = _WORDS.split()
RNG = np.random.default_rng(3)
PASSAGES = {f"p{i}": " ".join(RNG.choice(WORDS, 6)) for i in range(40)}
QUERIES = {f"q{i}": " ".join(RNG.choice(WORDS, 3)) for i in range(12)}
QRELS = {q: {f"p{j}": 1 for j in RNG.choice(40, 2, replace=False)} for q in QUERIES}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Where these tests run, not in every process that collects them."""
    global mteb
    mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install 'm2kr[mteb]'")


@pytest.fixture
def split(tmp_path: Path) -> m2kr.Split:
    passages = [{"id": i, "text": text} for i, text in PASSAGES.items()]
    queries = [
        {"id": i, "question": text, "positives": list(QRELS[i])} for i, text in QUERIES.items()
    ]
    return m2kr.from_records(passages, queries, name="metals", data=tmp_path / "data")


def task(corpus: Any = None, queries: Any = None, top_ranked: Any = None) -> Any:
    """A retrieval task of MTEB made in memory."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Metals(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Metals",
            description="Made in memory.",
            dataset={"path": "metals", "revision": "1"},
            type="Retrieval",
            category="t2t",
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": corpus
                        or Dataset.from_dict(
                            {
                                "id": list(PASSAGES),
                                "title": [""] * 40,
                                "text": list(PASSAGES.values()),
                            }
                        ),
                        "queries": queries
                        or Dataset.from_dict({"id": list(QUERIES), "text": list(QUERIES.values())}),
                        "relevant_docs": QRELS,
                        "top_ranked": top_ranked,
                    }
                }
            }
            self.data_loaded = True

    return Metals()


def by_mteb(model: Any) -> dict[str, float]:
    """Scores by MTEB, which orders ties as pytrec_eval does."""
    results = mteb.evaluate(model, task(), cache=None, overwrite_strategy="always")
    return dict(results[0].scores["test"][0])


def test_mteb_scores_our_retriever_as_we_do(split: m2kr.Split) -> None:
    theirs = by_mteb(m2kr.as_search_model("bm25", {"k1": "0.9"}))
    ours = m2kr.evaluate(
        split,
        "bm25",
        settings={"k1": "0.9"},
        ties="trec9",
        k=40,
        metrics="ndcg@10,hit_rate@5,map@10,precision@5",
    )[0]
    assert theirs["ndcg_at_10"] == pytest.approx(ours.value("ndcg@10"), abs=1e-4)
    assert theirs["hit_rate_at_5"] == pytest.approx(ours.value("hit_rate@5"), abs=1e-4)
    assert theirs["precision_at_5"] == pytest.approx(ours.value("precision@5"), abs=1e-4)
    assert theirs["ndcg_at_10"] > 0


def test_a_search_model_follows_mtebs_protocol(tmp_path: Path) -> None:
    from datasets import Dataset

    model = m2kr.as_search_model("bm25")
    assert isinstance(model, mteb.models.SearchProtocol)
    assert not isinstance(model, mteb.models.EncoderProtocol)
    assert model.mteb_model_meta.name == "m2kr/bm25"
    with pytest.raises(UsageError, match="before index"):
        model.search(Dataset.from_dict({"id": ["q"], "text": ["tin"]}), top_k=3)
    model.index(
        Dataset.from_dict({"id": ["a", "b"], "title": ["tin", None], "text": ["x", "lead"]})
    )
    asked = Dataset.from_dict({"id": ["q", "r"], "text": ["tin lead", "zzz"]})
    assert set(model.search(asked, top_k=5)["q"]) == {"a", "b"}
    assert model.search(asked, top_k=5)["r"] == {}
    assert set(model.search(asked, top_k=5, top_ranked={"q": ["b"], "r": []})["q"]) == {"b"}
    assert len(model.search(asked, top_k=1)["q"]) == 1


def test_images_reach_our_retriever(tmp_path: Path) -> None:
    from datasets import Dataset

    class Red(m2kr.EncoderRetriever):
        reads_images = True

        def encode_query(self, batch):
            shown = [i.getpixel((0, 0)) if i else (0, 0, 0) for i in batch.images]
            return np.array(shown, float)

        encode_document = encode_query

    images = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    model = m2kr.as_search_model(Red())
    model.index(Dataset.from_dict({"id": ["red", "blue"], "image": images}))
    found = model.search(Dataset.from_dict({"id": ["q"], "image": images[1:]}), top_k=1)
    assert list(found["q"]) == ["blue"]
    assert model.mteb_model_meta.modalities == ["text", "image"]


def test_an_encoder_of_mteb_is_evaluated_alike(split: m2kr.Split) -> None:
    name = "mteb/baseline-random-encoder"
    theirs = by_mteb(mteb.get_model(name))
    by_name = m2kr.evaluate(split, f"mteb:{name}", k=40, metrics="ndcg@10", ties="trec9")[0]
    by_object = m2kr.evaluate(split, mteb.get_model(name), k=40, metrics="ndcg@10")[0]
    assert by_name.run_sha256 == by_object.run_sha256
    assert by_name.value("ndcg@10") == pytest.approx(theirs["ndcg_at_10"], abs=1e-4)
    settings = by_name.retriever["settings"]
    assert (settings["model"], settings["revision"]) == (name, "2")
    assert settings["similarity"] == "cosine"
    retriever = create(f"mteb:{name}")
    assert retriever.cache_key("query") is not None
    assert adapted(mteb.get_model(name)).cache_key("query") is None


def test_a_search_model_of_mteb_is_evaluated_alike(split: m2kr.Split) -> None:
    pytest.importorskip("Stemmer")
    name = "mteb/baseline-bm25s"
    theirs = by_mteb(mteb.get_model(name))
    ours = m2kr.evaluate(split, f"mteb:{name}", k=40, metrics="ndcg@10", ties="trec9")[0]
    assert ours.value("ndcg@10") == pytest.approx(theirs["ndcg_at_10"], abs=1e-4)


class Toy:
    """An encoder by MTEB's protocol: letters, and what it was given."""

    mteb_model_meta = None

    def __init__(self) -> None:
        self.given: list[Any] = []

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **_):
        rows = []
        for batch in inputs:
            self.given.append((prompt_type.value, {name: list(v) for name, v in batch.items()}))
            rows += [[text.count(c) + 1.0 for c in "abcdefgh"] for text in batch["text"]]
        return np.array(rows)

    def similarity(self, one, two):
        return np.asarray(one) @ np.asarray(two).T

    similarity_pairwise = similarity


def test_what_an_encoder_is_given() -> None:
    toy = Toy()
    retriever = adapted(toy)
    assert (retriever.name, retriever.similarity) == ("Toy", "dot")
    batch = Batch(["a", "b"], ["a question", ""], ["Find: ", "Find: "], [None, None])
    assert len(retriever.encode_query(batch)) == 2
    assert len(retriever.encode_document(batch)) == 2
    (query, asked), (document, texts) = toy.given
    assert (query, asked["text"]) == ("query", ["a question", "Find:"])
    assert (document, texts["text"]) == ("document", ["a question", ""])
    instructed = mteb_retriever(model=toy, instructions=True)  # type: ignore[arg-type]
    instructed.encode_query(batch)  # type: ignore[attr-defined]
    assert toy.given[-1][1]["instruction"] == ["Find: ", "Find: "]
    assert toy.given[-1][1]["text"][0] == "a question Find: "


def test_what_can_not_be_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="MTEB can't load it"):
        create("mteb:nobody/nothing-such")
    with pytest.raises(UsageError, match="scores pairs"):
        create("mteb:mteb/baseline-random-cross-encoder")

    class Far(Toy):
        def similarity(self, one, two):
            return -np.linalg.norm(np.asarray(one)[:, None] - np.asarray(two)[None], axis=-1)

    with pytest.raises(UsageError, match="neither an inner product nor a cosine"):
        adapted(Far())
    with pytest.raises(M2KRError, match="reads no images"):
        mteb_retriever(model=Toy(), images=True)  # type: ignore[arg-type]
