"""A file of figures of a small system on the miniature release."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from support import release_fixture

WORDS = '''
import numpy as np
from m2kr import EncoderRetriever


class Words(EncoderRetriever):
    """A vector a word: late interaction without a model, which looks whether there is an image."""

    modalities = {"query": ["text", "image"], "passage": ["text"]}

    def __init__(self, *, width: int = 64):
        self.width = width

    @property
    def settings(self):
        return {"width": self.width}

    def cache_key(self, side):
        return self.settings

    def encode_document(self, batch):
        with open("encoded", "a") as file:
            file.write("".join(f"{id}\\n" for id in batch.ids))
        return [np.stack([self.vector(w) for w in text.lower().split()]) for text in batch.texts]

    def encode_query(self, batch):
        assert all(image is not None for image in batch.images)
        return self.encode_document(batch)

    def vector(self, word):
        vector = np.zeros(self.width, "f4")
        vector[sum(map(ord, word)) % self.width] = 1
        return vector
'''
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature release of two sources. Not to be written to."""
    return release_fixture.write_release(
        tmp_path_factory.mktemp("release"), sources=["okvqa", "evqa"]
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a retriever of one's own, and the data root ``data``."""
    (tmp_path / "words.py").write_text(WORDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M2KR_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def photos(home: Path, release: Path) -> Path:
    """All images that the release names."""
    for table in release.glob("*_data/test-*.parquet"):
        for path in pq.read_table(table)["img_path"].to_pylist():
            photo = home / "photos" / path
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), "red").save(photo, "JPEG")
    return home / "photos"


@pytest.fixture
def figures(home: Path, release: Path) -> Write:
    """Writes a file of figures; keys that are given take the place of its own."""

    def write(values: dict[str, dict[str, object]], **keys: object) -> Path:
        target = {
            "title": "Words",
            "retriever": "words.py:Words",
            "release": {"from": str(release), "any_counts": True},
            "figures": [{"where": "Table 1", "values": values}],
        }
        path = home / "paper.yaml"
        path.write_text(yaml.safe_dump(target | keys))
        return path

    return write
