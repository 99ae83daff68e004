"""From image to text without training: the classes an image shows, read as words.

ConSE (Norouzi et al., 2014): a classifier's most probable class names, as sentence vectors, averaged
by probability. That puts an image among texts, where it is searched with like any query.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._image_encoder import CLASSES, class_names, image_classifier, names_sha256
from m2kr.retrievers._memo import MEMO
from m2kr.retrievers._packages import version
from m2kr.retrievers._queries import without_rankings
from m2kr.retrievers._text_encoder import TextEncoder, text_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray


_PASSAGES = 256


class ImageConcepts(EncoderRetriever):
    """Ranks passages by the cosine of their text vector and the vector of the image's concepts.

    The question is not read. A query without an image gets no ranking.

    Args:
        concepts: Classes per image that are averaged.
        max_length: Tokens read of a passage.
        device: ``auto`` (a GPU where one works), ``cpu``, ``cuda``, ``cuda:1`` ...
        batch_size: Queries at a time; each may hold a full-size image.

    Raises:
        MissingError: torch, transformers or one of the model packages is not installed.
    """

    name = "image_concepts"
    version = 1
    modalities = Modalities(query=frozenset({"image"}))

    def __init__(
        self,
        *,
        concepts: int = 10,
        max_length: int = 256,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if not 1 <= concepts <= 1000:
            raise UsageError(f"concepts is {concepts}", expected="1 to 1000")
        self._names = tuple(class_names())
        self._texts = text_encoder("", max_length, device)
        self._images = image_classifier(device)
        self.concepts = concepts
        self.batch_size = batch_size

    @property
    def settings(self) -> Mapping[str, Any]:
        """Both models, and how they are put together."""
        return {
            **super().settings,
            "concepts": self.concepts,
            "names": version(CLASSES),
            "image_encoder": self._images.settings,
            "text_encoder": self._texts.settings,
        }

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:
        """The text model's files; for images the classifier's, its classes, and how many are used."""
        texts = self._texts.cache_key()
        if texts is None or side == "document":
            return texts
        return {
            "concepts": self.concepts,
            "names_sha256": names_sha256(),
            "image_encoder": self._images.settings,
            "text_encoder": texts,
        }

    def encode_document(self, batch: Batch) -> Encoded:
        """Unit text vectors of passages."""
        before = MEMO.hits
        vectors = self._texts.encode(list(batch.texts))
        self._reuse("encode document", MEMO.hits - before)
        return vectors

    def encode_query(self, batch: Batch) -> Encoded:
        """The images' concept vectors at unit length; zeros where a query has no image."""
        places = [i for i, image in enumerate(batch.images) if image is not None]
        before = MEMO.hits
        found = self._images.probabilities([im for im in batch.images if im is not None])
        self._reuse("encode query", MEMO.hits - before)
        names = _vectors(self._texts, self._names)
        vectors = np.zeros((len(batch), names.shape[1]), np.float32)
        for place, probabilities in zip(places, found, strict=True):
            best = np.argsort(-probabilities, kind="stable")[: self.concepts]
            mean = probabilities[best].astype(np.float64) @ names[best]
            vectors[place] = mean / np.linalg.norm(mean)
        return vectors

    def _reuse(self, stage: str, rows: int) -> None:
        reused = self.run_stats().reused
        reused[stage] = reused.get(stage, 0) + rows

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Encodes the pool's texts; see `EncoderRetriever.index`."""
        # Texts are small: more of them at a time keep the cores busy.
        asked, self.batch_size = self.batch_size, max(self.batch_size, _PASSAGES)
        try:
            super().index(passages, workdir=workdir)
        finally:
            self.batch_size = asked

    def search(self, queries: Queries, k: int) -> Run:
        """Reads the images and searches exactly; see `EncoderRetriever.search`."""
        # Asked of the table: rows that were encoded before are not encoded again.
        images, ids = queries.images, queries.ids.to_pylist()
        imageless = {
            query_id
            for query_id, path in zip(ids, queries.column("img_path"), strict=True)
            if path is None
            or images is None
            or (images.missing == "skip" and not images.exists(path))
        }
        return without_rankings(super().search(queries, k), imageless)


@cache
def _vectors(encoder: TextEncoder, names: tuple[str, ...]) -> "NDArray[np.float32]":
    """Vectors of the class names, made once per process."""
    return encoder.encode(names)


RETRIEVER = ImageConcepts
