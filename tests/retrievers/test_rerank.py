"""Re-ranking: what moves, what stays below, what a re-ranker is given and may return."""

from pathlib import Path

import numpy as np
import pytest
from support import tiny_models
from support.toys import PASSAGES, QUERIES, image_folder, toy_split

import m2kr
from m2kr.data.images.store import ImageStore
from m2kr.errors import CheckError, InputError, M2KRError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.rerank import RerankItem
from m2kr.retrieval.run import Run
from m2kr.retrievers import create

OWN = '''
class Longest:
    """The longer a text is, the better."""
    settings = {"by": "length"}

    def rerank(self, query, passages):
        return [len(passage.text) for passage in passages]
'''
FIRST = Run.from_dict(
    {q: {p: 9.0 - i for i, p in enumerate(sorted(PASSAGES))} for q in QUERIES}, name="first"
)
BY_LENGTH = sorted(PASSAGES, key=lambda p: -len(PASSAGES[p]))


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:Longest"


def test_the_first_are_ranked_anew_and_the_rest_stay_below(own: str) -> None:
    for depth in range(1, 6):
        result = evaluate_split(toy_split(), m2kr.Rerank(first=FIRST, model=own, depth=depth), k=4)
        top = [p for p in BY_LENGTH if p in sorted(PASSAGES)[:depth]]
        assert result.run.passage_ids("q1") == top + sorted(PASSAGES)[depth:]
    settings = result.retriever["settings"]
    assert settings["first"]["run_sha256"] == FIRST.sha256()
    assert settings["reranker"] == {"name": "Longest", "settings": {"by": "length"}}


def test_a_run_file_and_a_retriever_are_first_stages(own: str, tmp_path: Path) -> None:
    FIRST.save(tmp_path / "first.trec")
    by_file = create("rerank", {"first": f"run:{tmp_path / 'first.trec'}", "model": own})
    assert evaluate_split(toy_split(), by_file, k=4).run.passage_ids("q2") == BY_LENGTH
    by_name = create("rerank", {"first": "oracle", "model": own})
    assert evaluate_split(toy_split(), by_name, k=4).run.passage_ids("q1") == ["p/apple"]
    lacking = FIRST.select(["q1"])
    with pytest.raises(CheckError, match="first: the run lacks 3 queries"):
        evaluate_split(toy_split(), m2kr.Rerank(first=lacking, model=own), k=4)
    strange = Run.from_dict({q: {"p/none": 1.0} for q in QUERIES}, name="strange")
    with pytest.raises(InputError, match="1 passages that the pool lacks, such as 'p/none'"):
        evaluate_split(toy_split(), m2kr.Rerank(first=strange, model=own), k=4)


def test_it_is_given_texts_instructions_and_declared_images(tmp_path: Path) -> None:
    class Looking:
        modalities = m2kr.Modalities(query={"text", "image"})

        def rerank(self, query, passages):
            seen[query.id] = (query.text, query.instruction, query.image and query.image.size)
            texts.update((p.id, p.text) for p in passages)
            return np.ones(len(passages))

    seen, texts = {}, {}
    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    result = evaluate_split(split, m2kr.Rerank(first=FIRST, model=Looking()), k=4)
    assert seen["q1"] == ("apple fruit", "Find: ", (4, 4))
    assert seen["q2"] == ("bear honey", "Find: ", None)
    assert texts == PASSAGES
    assert result.images["found"] == 2
    Looking.modalities = m2kr.Modalities()
    with pytest.raises(InputError, match="reads images of queries, but doesn't say so"):
        evaluate_split(split, m2kr.Rerank(first=FIRST, model=Looking()), k=4)


WRONG = {
    "None": "None",
    "one too few": "[1.0] * (len(passages) - 1)",
    "a matrix": "np.ones((len(passages), 1))",
    "a number": "1.0",
    "NaN": "[float('nan')] * len(passages)",
    "infinity": "[float('inf')] * len(passages)",
    "strings": "['high'] * len(passages)",
    "a dict": "{p.id: 1.0 for p in passages}",
    "a generator": "(1.0 for p in passages)",
    "ragged": "[[1.0] * i for i in range(len(passages))]",
    "complex": "np.ones(len(passages)) * 1j",
    "nothing": "[]",
    "masked": "np.ma.masked_less(np.arange(len(passages)), 1)",
    "an exception": "1 / 0",
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_no_score_is_one_clear_message(what: str, tmp_path: Path) -> None:
    method = f"    def rerank(self, query, passages):\n        return {WRONG[what]}\n"
    body = f"import numpy as np\nclass Mine:\n{method}"
    (tmp_path / "own.py").write_text(body)
    reranker = m2kr.Rerank(first=FIRST, model=f"{tmp_path / 'own.py'}:Mine")
    with pytest.raises(M2KRError) as caught:
        evaluate_split(toy_split(), reranker, k=4)
    assert caught.value.exit_code == 1
    told = str(caught.value)
    assert "Mine.rerank of 4 passages for query 'q1'" in told
    if what == "an exception":
        assert "ZeroDivisionError" in told
    else:
        assert "returned " in told
        assert "expected: one number for each passage" in told


def test_gradients_and_small_types_are_scores(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Mine:
        def rerank(self, query, passages):
            lengths = [len(passage.text) for passage in passages]
            return torch.tensor(lengths, dtype=torch.bfloat16, requires_grad=True)

    assert evaluate_split(toy_split(), m2kr.Rerank(first=FIRST, model=Mine()), k=1).run.passage_ids(
        "q3"
    )


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"first": "rerank"}, UsageError, "its own first stage"),
        ({"first": "bm52"}, UsageError, "did you mean 'bm25'"),
        ({"depth": "0"}, UsageError, "each at least 1"),
        ({"model": "FILE:Half"}, InputError, r"no rerank\(query, passages\)"),
        ({"model": "FILE:Needs"}, M2KRError, "path"),
        ({"model": "FILE:Nothing"}, InputError, "there is no 'Nothing'"),
    ],
)
def test_what_can_not_re_rank_is_refused(settings, error, said, tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        f"{OWN}\nclass Half: ...\nclass Needs:\n    def __init__(self, path): ...\n"
    )
    replaced = {k: v.replace("FILE", str(tmp_path / "own.py")) for k, v in settings.items()}
    with pytest.raises(error, match=said):
        create("rerank", replaced)


def items(texts) -> list[RerankItem]:
    return [RerankItem(f"p{i}", text, "", lambda: None) for i, text in enumerate(texts)]


def test_the_cross_encoder_gives_transformers_own_scores() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from m2kr.retrievers._cross_encoder import CrossEncoderReranker

    folder = tiny_models.bert(labels=1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["Lima is the capital of Peru.", "", "ice", "black and white " * 30, "a red fish"] * 3
    query = RerankItem("q", "the capital of peru", "Find: ", lambda: None)
    with torch.inference_mode():
        pairs = [
            tokenizer([query.text], [text], truncation=True, max_length=40, return_tensors="pt")
            for text in texts
        ]
        expected = [float(model(**pair).logits) for pair in pairs]
    scores = CrossEncoderReranker(str(folder), device="cpu").rerank(query, items(texts))
    assert np.allclose(scores, expected, atol=1e-5)
    for size in (1, 3):
        again = CrossEncoderReranker(str(folder), device="cpu", batch_size=size)
        assert np.allclose(again.rerank(query, items(texts)), scores, atol=1e-6)
    blank = RerankItem("q", " ", "the capital of peru", lambda: None)
    assert np.allclose(
        CrossEncoderReranker(str(folder)).rerank(blank, items(texts)), expected, atol=1e-5
    )
    for other, settings, said in (
        (tiny_models.bert(labels=3), {}, "3 outputs"),
        (folder, {"max_length": 99}, "4 to 40"),
        (tiny_models.dual_encoder("clip"), {}, "no cross-encoder can be loaded"),
    ):
        with pytest.raises(M2KRError, match=said):
            CrossEncoderReranker(str(other), **settings).rerank(query, items(texts))


@pytest.mark.slow
def test_a_cross_encoder_of_sentence_transformers_is_one_too() -> None:
    st = pytest.importorskip("sentence_transformers")
    folder = str(tiny_models.bert(labels=1))
    ours = evaluate_split(toy_split(), m2kr.Rerank(first=FIRST, model=folder), k=4)
    theirs = m2kr.Rerank(first=FIRST, model=st.CrossEncoder(folder, device="cpu"))
    other = evaluate_split(toy_split(), theirs, k=4)
    assert all(ours.run.passage_ids(q) == other.run.passage_ids(q) for q in QUERIES)
