"""CLIP- and SigLIP-style encoders: transformers' own vectors, put together as the settings say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_models

from m2kr.data.records import Passages, Queries
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.evaluation.harness import evaluate_split
from m2kr.instructions import join_question
from m2kr.retrieval.batches import Batch
from m2kr.retrievers import create

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'm2kr[models]'")
pytest.importorskip("transformers", reason="transformers is not installed")
TEXTS = ["Lima is the capital of Peru.", "", "stripes, black and white " * 9, "ice"]
IMAGES = [None, Image.new("RGB", (40, 24), "red"), Image.linear_gradient("L").convert("RGB"), None]


def direct(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the texts and of the images, by transformers alone, one by one."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def unit(output):
        features = getattr(output, "pooler_output", output)
        return (features / features.norm(dim=-1, keepdim=True)).detach().numpy()[0]

    def text(words):
        tokens = tokenizer(
            [words], padding="max_length", truncation=True, max_length=12, return_tensors="pt"
        )
        return unit(model.get_text_features(**tokens))

    texts = [text(words) for words in TEXTS]
    images = [
        unit(model.get_image_features(**processor(images=[i], return_tensors="pt")))
        for i in IMAGES
        if i is not None
    ]
    return np.stack(texts), np.stack(images)


def batch(places=range(4), instruction: str = "Find: ") -> Batch:
    places = list(places)
    return Batch(
        [f"q{i}" for i in places],
        [TEXTS[i] for i in places],
        [instruction] * len(places),
        [IMAGES[i] for i in places],
    )


def encoder(folder: Path, **settings: object):
    return create("dual_encoder", {"model": str(folder), "device": "cpu", **settings})


@pytest.mark.parametrize(
    "kind",
    ["clip", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("siglip", "siglip2"))],
)
def test_vectors_are_those_of_transformers(kind: str) -> None:
    folder = tiny_models.dual_encoder(kind)
    texts, images = direct(folder)
    assert np.allclose(
        encoder(folder).encode_document(batch())[[0, 2, 3]], texts[[0, 2, 3]], atol=1e-6
    )
    assert (encoder(folder).encode_document(batch())[1] == 0).all()
    both = texts[2] + images[1]
    expected = {
        "mean": [texts[0], images[0], both / np.linalg.norm(both), texts[3]],
        "sum": [texts[0], images[0], both, texts[3]],
        "image": [texts[0], images[0], images[1], texts[3]],
    }
    for fusion, rows in expected.items():
        vectors = encoder(folder, fusion=fusion).encode_query(batch())
        assert np.allclose(vectors, rows, atol=1e-6), fusion
    weighted = encoder(folder, fusion="sum", text_weight="2", image_weight="0.5")
    assert np.allclose(weighted.encode_query(batch())[2], 2 * texts[2] + images[1] / 2, atol=1e-6)
    # Passages have images where that is asked for.
    seeing = encoder(folder, passage_images="true", fusion="sum")
    assert np.allclose(seeing.encode_document(batch()), expected["sum"], atol=1e-6)


def test_no_batch_changes_a_bit() -> None:
    retriever = encoder(tiny_models.dual_encoder("clip"))
    whole = retriever.encode_query(batch([0, 1, 2, 3] * 6))
    for places in ([0, 1, 2, 3], [2], [3, 1], [1] * 9):
        assert (retriever.encode_query(batch(places)) == whole[places]).all()


def test_a_query_is_its_question_and_its_instruction_where_it_has_nothing_else() -> None:
    folder = tiny_models.dual_encoder("clip")
    text_only = encoder(folder, fusion="text")
    vectors = text_only.encode_query(batch(instruction="find the fish"))
    asked = Batch([""], ["find the fish"], [""], [None])
    assert (vectors[1] == text_only.encode_query(asked)[0]).all()
    assert (vectors[0] == text_only.encode_document(batch())[0]).all()
    instructed = encoder(folder, fusion="text", instructions="true")
    joined = Batch([""], [join_question("Find: ", TEXTS[0])], [""], [None])
    assert (instructed.encode_query(batch())[0] == text_only.encode_query(joined)[0]).all()
    assert text_only.modalities.as_dict() == {"query": ["text"], "passage": ["text"]}
    assert encoder(folder).modalities.as_dict() == {"query": ["image", "text"], "passage": ["text"]}
    both = encoder(folder, passage_images="yes").modalities.as_dict()
    assert both == {"query": ["image", "text"], "passage": ["image", "text"]}


def test_who_has_nothing_is_not_ranked_and_texts_that_are_cut_are_counted(
    passages: Passages, queries: Queries, tmp_path: Path
) -> None:
    retriever = encoder(tiny_models.dual_encoder("clip"))
    retriever.index(passages, workdir=tmp_path)
    run = retriever.search(queries, 5)
    silent = {q for q, n in zip(run.query_ids, run.counts(), strict=True) if not n}
    assert silent == {"nothing at all"}
    notes = retriever.run_stats().notes
    assert len(notes) == 2
    assert "of passages are longer than the 12 tokens" in notes[0]


def test_a_result_says_so_too() -> None:
    from support.toys import toy_split

    result = evaluate_split(
        toy_split(), encoder(tiny_models.dual_encoder("clip"), fusion="text"), k=3
    )
    assert any("longer than the 12 tokens" in note for note in result.notes)
    assert result.retriever["settings"]["fusion"] == "text"


def test_keys_are_of_what_decides_a_side(tmp_path: Path) -> None:
    folder = tiny_models.dual_encoder("clip")
    plain = encoder(folder)
    for side, settings, same in (
        ("query", {"fusion": "sum"}, False),
        ("document", {"fusion": "sum"}, True),
        ("document", {"fusion": "sum", "passage_images": True}, False),
        ("query", {"instructions": True}, False),
        ("document", {"instructions": True}, True),
        ("document", {"max_length": 8}, False),
        ("query", {"batch_size": 3}, True),
    ):
        assert (encoder(folder, **settings).cache_key(side) == plain.cache_key(side)) == same, (
            settings
        )
    other = tiny_models.edited(folder, tmp_path / "other", "preprocessor_config.json", resample=0)
    assert encoder(other).cache_key("query") != plain.cache_key("query")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"model": "BERT"}, UsageError, "BertModel has no get_text_features"),
        ({"model": "/no/such/folder"}, MissingError, "no dual encoder can be loaded"),
        ({"model": "EMPTY"}, MissingError, "no dual encoder can be loaded"),
        ({"fusion": "max"}, UsageError, "one of mean, sum, text, image"),
        ({"text_weight": "-1"}, UsageError, "none negative"),
        ({"text_weight": "0", "image_weight": "0"}, UsageError, "not both 0"),
        ({"max_length": "99"}, UsageError, "at most the model's 12"),
        ({"batch_size": "0"}, UsageError, "batch_size is 0"),
    ],
)
def test_what_can_not_be_is_said(settings, error, said, tmp_path, monkeypatch) -> None:
    from support.toys import toy_split

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folders = {"BERT": tiny_models.bert(), "EMPTY": tmp_path}
    folder = tiny_models.dual_encoder("clip")
    model = folders.get(settings.get("model"), settings.get("model", folder))
    with pytest.raises(error, match=said):
        evaluate_split(
            toy_split(), encoder(folder, **{"fusion": "text", **settings, "model": str(model)}), k=3
        )


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    folder = tiny_models.edited(
        tiny_models.dual_encoder("clip"),
        tmp_path / "x",
        "config.json",
        auto_map={"AutoModel": "x.X"},
    )
    with pytest.raises(UsageError, match="never run"):
        encoder(folder).encode_document(batch())


def test_files_that_change_while_they_are_read_are_told(tmp_path: Path) -> None:
    folder = tiny_models.edited(tiny_models.dual_encoder("clip"), tmp_path / "x", "config.json")
    retriever = encoder(folder)
    assert retriever.settings["files_sha256"]
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(InputError, match="written while it was in use"):
        retriever.encode_document(batch())
