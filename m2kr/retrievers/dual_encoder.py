"""CLIP, SigLIP and their like: one encoder of texts, one of images, one space for both."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from m2kr.data.records import Passages, Queries
from m2kr.errors import UsageError
from m2kr.instructions import join_question
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Modality, RunStats, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._model_source import ModelSource
from m2kr.retrievers._models import package_version, pick_device, require_packages
from m2kr.retrievers._queries import imageless, query_text, textless, without_rankings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

logger = logging.getLogger("m2kr.retrievers")

Fusion = Literal["mean", "sum", "text", "image"]
# Always so many at a time, whatever batch_size is: the kernels, and with them the last bits, depend on it.
_TEXTS, _IMAGES = 16, 8
_NO_LIMIT = 1_000_000  # tokenizers without a length say 10^30


class DualEncoder(EncoderRetriever):
    """Ranks passages by the inner product of vectors that a model makes of texts and of images.

    A side's vector is, of the unit vectors of its text and its image: ``mean``, their weighted mean
    brought to unit length (so that scores are cosines); ``sum``, their weighted sum (so that the score
    adds up those of all pairs, as UniIR's score fusion does); ``text`` or ``image``, that one alone. What
    a row lacks is left out, and a row that has only the other has that. A query's text is its question;
    its instruction is read where it has neither question nor image that count, or with
    ``instructions=true`` before each question.

    Args:
        model: Folder or hub id of a model with ``get_text_features`` and ``get_image_features``, such as
            CLIP, SigLIP or SigLIP 2.
        fusion: How text and image of one row are put together.
        text_weight: Weight of the text where both are there.
        image_weight: Weight of the image.
        passage_images: Whether images of passages are read; if not, passages are their texts.
        instructions: Whether a question begins with its instruction.
        max_length: Tokens read of a text; by default the model's. Longer texts are cut, and counted.
        device: ``auto`` (a GPU where one works), ``cpu``, ``cuda``, ``cuda:1`` ...
        batch_size: Rows handed over at a time; does not change the vectors.

    Raises:
        MissingError: torch or transformers is not installed.
        UsageError: a setting is out of its range.
    """

    name = "dual_encoder"
    version = 1
    settable: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        *,
        model: str = "openai/clip-vit-large-patch14",
        fusion: Fusion = "mean",
        text_weight: float = 1.0,
        image_weight: float = 1.0,
        passage_images: bool = False,
        instructions: bool = False,
        max_length: int | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        require_packages(("torch", "transformers"), "models", f"the retriever {self.name}")
        if fusion not in get_args(Fusion):
            raise UsageError(f"fusion={fusion}", expected="one of " + ", ".join(get_args(Fusion)))
        if min(text_weight, image_weight) < 0 or not text_weight + image_weight:
            raise UsageError(
                f"text_weight={text_weight:g}, image_weight={image_weight:g}",
                expected="none negative, and not both 0",
            )
        if max_length is not None and max_length < 3:
            raise UsageError(f"max_length={max_length}", expected="at least 3, or none")
        self._source = ModelSource(model)
        self._fusion, self._weights = fusion, (text_weight, image_weight)
        self._passage_images, self._instructions = passage_images, instructions
        self._max_length, self._device = max_length, device
        self.batch_size = batch_size
        self._cut: dict[str, int] = {}
        reads: frozenset[Modality] = frozenset({"text"} if fusion == "text" else {"text", "image"})
        self.modalities = Modalities(reads, reads if passage_images else frozenset({"text"}))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, its files or revision, what is read and how it is put together."""
        return {
            **super().settings,
            **self._facts,
            "fusion": self._fusion,
            "text_weight": self._weights[0],
            "image_weight": self._weights[1],
            "passage_images": self._passage_images,
            "instructions": self._instructions,
        }

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts = self._source.facts(lambda: self._loaded)
        return {
            **facts,
            # Its tokenizers change: SigLIP 2's lower-cases from version 5 on.
            "package": package_version("transformers"),
            "max_length": self._max_length or "the model's",
            "dtype": "float32",
        }

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:
        """The model's files or revision, length, and how a row's parts are put together."""
        known = self._source.cache_key(self._facts)
        if known is None:
            return None
        own = {"fusion": self._fusion, "weights": list(self._weights)}
        if side == "query":
            return {**known, **own, "instructions": self._instructions}
        return {**known, **(own if self._passage_images else {})}

    def run_stats(self) -> RunStats:
        """Time and rows, and how many texts were cut."""
        stats = super().run_stats()
        stats.notes = [
            f"{cut:,} of {what} are longer than the {self._loaded.max_length} tokens that the model reads"
            for what, cut in self._cut.items()
            if cut
        ]
        return stats

    @cached_property
    def _loaded(self) -> "_Model":
        return _Model(self._source, self._max_length, self._device)

    def encode_document(self, batch: Batch) -> Encoded:
        """Vectors of passages."""
        images = batch.images if self._passage_images else [None] * len(batch)
        return self._vectors(batch.texts, images, "passages")

    def encode_query(self, batch: Batch) -> Encoded:
        """Vectors of queries; zeros for one that has nothing, which is not ranked."""
        images = batch.images if self._fusion != "text" else [None] * len(batch)
        texts = []
        for question, instruction, image in zip(
            batch.texts, batch.instructions, images, strict=True
        ):
            if self._instructions:
                texts.append(join_question(instruction, question))
            else:
                texts.append(question.strip() if image else query_text(question, instruction))
        return self._vectors(texts, images, "queries")

    def _vectors(
        self, texts: Sequence[str], images: "Sequence[Image | None]", what: str
    ) -> "NDArray[np.float32]":
        model = self._loaded
        if self._fusion == "image":
            texts = ["" if image else text for text, image in zip(texts, images, strict=True)]
        with_text = [i for i, text in enumerate(texts) if text.strip()]
        with_image = [i for i, image in enumerate(images) if image is not None]
        of_text, cut = model.texts([texts[i] for i in with_text])
        of_image = model.images([image for image in images if image is not None])
        self._cut[what] = self._cut.get(what, 0) + cut
        parts = [(with_text, of_text, self._weights[0]), (with_image, of_image, self._weights[1])]
        both = set(with_text) & set(with_image)
        dim = max((vectors.shape[1] for _, vectors, _ in parts if len(vectors)), default=1)
        vectors = np.zeros(
            (len(texts), dim if len(with_text) + len(with_image) else model.dim), np.float32
        )
        for places, rows, weight in parts:
            for place, row in zip(places, rows, strict=True):
                vectors[place] += np.float32(weight if place in both else 1) * row
        if self._fusion == "mean":
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(lengths > 0, lengths, 1)
        return vectors

    def index(self, passages: Passages, *, workdir: Any) -> None:
        """Encodes the pool; see `EncoderRetriever.index`."""
        self._cut = {}
        super().index(passages, workdir=workdir)

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches exactly; see `EncoderRetriever.search`."""
        silent = textless(queries)
        if self._fusion != "text":
            silent &= imageless(queries)
        run = without_rankings(super().search(queries, k), silent)
        for note in self.run_stats().notes:
            logger.warning("%s: %s", self.name, note)
        return run


class _Model:
    """A dual encoder in memory.

    Attributes:
        max_length: Tokens read of a text.
        dim: Numbers in a vector.
    """

    def __init__(self, source: ModelSource, max_length: int | None, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._device = pick_device(device)
        holds = "a folder with config.json, tokenizer files, preprocessor_config.json and weights"
        with source.loading("dual encoder", holds) as how:
            self._tokenizer = AutoTokenizer.from_pretrained(source.load_from, **how)
            model = AutoModel.from_pretrained(source.load_from, dtype=torch.float32, **how)
            for method in ("get_text_features", "get_image_features"):
                if not hasattr(model, method):
                    raise UsageError(
                        f"{type(model).__name__} has no {method}",
                        where=source.load_from,
                        expected="a model with one encoder of texts and one of images, such as CLIPModel",
                    )
            # Pillow's resizing on every machine: torchvision's, where it is installed, differs.
            processors: Any = AutoImageProcessor
            self._processor = processors.from_pretrained(source.load_from, **_pillow(), **how)
        source.remember(model.config)
        self._model = model.eval().to(self._device)
        self._taken = inspect.signature(model.get_text_features).parameters
        text_config = getattr(model.config, "text_config", model.config)
        longest = getattr(text_config, "max_position_embeddings", None)
        limits = [n for n in (self._tokenizer.model_max_length, longest) if n and n < _NO_LIMIT]
        if max_length is not None and limits and max_length > min(limits):
            raise UsageError(
                f"max_length={max_length}", expected=f"at most the model's {min(limits)}"
            )
        self.max_length = max_length or min(limits, default=512)

    @cached_property
    def dim(self) -> int:
        return int(self.texts(["a"])[0].shape[1])

    def texts(self, texts: Sequence[str]) -> "tuple[NDArray[np.float32], int]":
        """Unit vectors of texts, and how many of these were cut."""
        cut = 0

        def encoded(part: Sequence[str]) -> Any:
            # All at one length, as SigLIP was trained; CLIP looks at nothing behind the text's end.
            tokens = self._tokenizer(
                list(part),
                padding="max_length",
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            if "token_type_ids" not in self._taken:  # BERT's tokenizers give them to everybody
                tokens.pop("token_type_ids", None)
            return self._model.get_text_features(**tokens.to(self._device))

        if texts:
            lengths = self._tokenizer(list(texts), verbose=False)["input_ids"]
            cut = sum(len(ids) > self.max_length for ids in lengths)
        return self._blocks(texts, _TEXTS, encoded), cut

    def images(self, images: "Sequence[Image]") -> "NDArray[np.float32]":
        """Unit vectors of images."""

        def encoded(part: "Sequence[Image]") -> Any:
            inputs = self._processor(images=list(part), return_tensors="pt")
            return self._model.get_image_features(**inputs.to(self._device))

        return self._blocks(images, _IMAGES, encoded)

    def _blocks(
        self, items: Sequence[Any], size: int, encode: Callable[[Sequence[Any]], Any]
    ) -> "NDArray[np.float32]":
        import torch

        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(items), size):
            part = items[start : start + size]
            block = [*part, *[part[-1]] * (size - len(part))]
            with torch.inference_mode():
                output = encode(block)
                # transformers 5 gives an object, 4 the tensor that it holds.
                features = output if isinstance(output, torch.Tensor) else output.pooler_output
                unit = torch.nn.functional.normalize(features.float(), dim=-1)
            vectors.append(unit[: len(part)].cpu().numpy())
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)


def _pillow() -> dict[str, Any]:
    """How `AutoImageProcessor` is told to resize by Pillow."""
    import transformers

    return (
        {"backend": "pil"}
        if int(transformers.__version__.split(".")[0]) >= 5
        else {"use_fast": False}
    )


RETRIEVER = DualEncoder
