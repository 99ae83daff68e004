"""What frozen parts make, kept on disk: the same as computed anew, and resumed where it was left."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from m2kr.errors import UsageError
from m2kr.preflmr import PreFLMR
from m2kr.training import frozen_features, kept_rows
from m2kr.training.batch_encoder import BatchEncoder
from m2kr.training.kept_rows import KeptRows
from tests.support.photo_source import CHECKPOINT, photo_loader, photo_recipe, photo_source

TRAINED = ("text_linear", "vision_projection", "mapping")


@pytest.mark.parametrize(
    ("trained", "text_layers", "layer"),
    [
        (TRAINED, None, 2),
        (("text_encoder", *TRAINED), 1, 1),
        (("text_encoder", *TRAINED), None, None),
    ],
)
def test_a_batch_is_encoded_as_without(
    root: Path, model: PreFLMR, trained: tuple[str, ...], text_layers: int | None, layer: int | None
) -> None:
    recipe = photo_recipe({"keep_frozen": True}, trained=trained, text_layers=text_layers)
    kept = next(photo_loader(root, model, recipe).steps())[0]
    live = next(photo_loader(root, model, photo_recipe()).steps())[0]
    assert kept.visits == live.visits and kept.pixel_values is None
    for text in (kept.query_text, kept.passage_text):
        assert (text is None) == (layer is None)
        assert text is None or (text.layer == layer and text.hidden.dtype == torch.float32)
    encoder = BatchEncoder(model, recipe).eval()
    with torch.no_grad():
        one, two = encoder(kept), encoder(live)
    assert torch.equal(one.mask, two.mask)
    torch.testing.assert_close(one.queries, two.queries, atol=3e-3, rtol=0)  # float16 on disk
    torch.testing.assert_close(one.documents[one.mask], two.documents[two.mask], atol=3e-3, rtol=0)
    again = next(photo_loader(root, model, recipe).steps())[0]
    assert again.patch_features is not None and kept.patch_features is not None
    assert torch.equal(again.patch_features, kept.patch_features)


def test_a_trained_vision_encoder_sees_pixels(root: Path, model: PreFLMR) -> None:
    recipe = photo_recipe({"keep_frozen": True}, trained=(*TRAINED, "vision_encoder"))
    batch = next(photo_loader(root, model, recipe).steps())[0]
    assert batch.pixel_values is not None and batch.image_features is None


def test_other_weights_and_other_images_are_other_entries(tmp_path: Path) -> None:
    photo_source(tmp_path)
    recipe = photo_recipe({"keep_frozen": True}, trained=TRAINED)
    cache = tmp_path / "cache" / "training"

    def entries(model: PreFLMR) -> int:
        photo_loader(tmp_path, model, recipe)
        return len([each for each in cache.iterdir() if each.is_dir()])

    model = PreFLMR.from_pretrained(CHECKPOINT)
    assert entries(model) == 3  # images, queries, passages
    with torch.no_grad():
        model.query_text_encoder_linear.weight += 1  # is trained, and no part of what is kept
    assert entries(model) == 3
    with torch.no_grad():
        model.query_vision_encoder.vision_model.vision_model.embeddings.class_embedding += 1
    assert entries(model) == 4
    shutil.copy(tmp_path / "photos" / "1.jpg", tmp_path / "photos" / "2.jpg")
    assert entries(model) == 5


def test_what_would_be_too_big_is_refused(
    root: Path, model: PreFLMR, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_features, "LIMIT", 1e4)
    with pytest.raises(UsageError, match=r"keep_frozen=false"):
        photo_loader(root, model, photo_recipe({"keep_frozen": True}, trained=TRAINED))


def test_parts_that_were_made_before_a_kill_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rows, "_PART", 40)
    heights = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    rows = np.arange(31 * 4, dtype=np.float32).reshape(31, 4)
    matrices = np.split(rows, np.cumsum(heights)[:-1])
    made: list[int] = []

    def make(items: range) -> list[np.ndarray]:
        if 6 in items and 0 in made:
            made.clear()
            raise KeyboardInterrupt
        made.extend(items)
        return [matrices[item] for item in items]

    with pytest.raises(KeyboardInterrupt):
        KeptRows(tmp_path, {}, heights, 4, make)
    kept = KeptRows(tmp_path, {}, heights, 4, make)
    assert made and 0 not in made
    for item, matrix in enumerate(matrices):
        assert np.array_equal(kept[item], matrix)
    # A part that is cut short is made again, and nothing else is.
    made.clear()
    part = sorted(kept.folder.glob("*.npy"))[0]
    part.write_bytes(part.read_bytes()[:-8])
    KeptRows(tmp_path, {}, heights, 4, make)
    assert made and 0 in made and 7 not in made
