"""What the retrievers ``preflmr`` and ``flmr`` share: a checkpoint, encoded and searched by MaxSim."""

import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from m2kr.errors import UsageError
from m2kr.retrieval.clock import loading
from m2kr.retrieval.encoder import EncoderRetriever, Report
from m2kr.retrieval.protocol import Modalities, Side
from m2kr.retrievers._models import (
    ModelFiles,
    cached_sha256,
    files_sha256,
    pick_device,
    require_packages,
)
from m2kr.retrievers._queries import query_text

if TYPE_CHECKING:
    import numpy as np

    from m2kr.data.records import Passages, Queries
    from m2kr.preflmr.encode.encoder import Encoder
    from m2kr.preflmr.encode.queries_and_passages import Query

Dtype = Literal["float32", "bfloat16", "float16"]

_READ = 256  # rows of a table at a time
_REPORTED = 128  # rows between two reports of progress


class LateInteraction(EncoderRetriever):
    """A checkpoint of `m2kr.preflmr` as a retriever; subclasses say which, and how it is asked.

    Args:
        checkpoint: Folder or hub id in the official layout; by default `released`.
        revision: Commit, tag or branch of a hub id.
        device: ``auto`` (a GPU where one works), ``cpu``, ``cuda:1`` ..., or several devices separated
            by commas, each of which gets a copy of the model.
        dtype: What the model computes in; the official runs encode in float32.
        token_budget: Tokens of a batch; by default what suits the device. Doesn't change the scores
            beyond rounding.
        max_length: Most tokens of a passage; by default the checkpoint's.
        instructions: Whether queries begin with their instruction; if not, it is read only where
            there is no question. By default what the models were trained with.
        compile: Whether `torch.compile` makes faster code first, which takes about a minute.
        workers: Threads that tokenise texts and decode images; by default one a core.

    Attributes:
        released: Hub id of the weights that are used unless others are named.
        instructed: Whether these models were trained with instructions.

    Raises:
        MissingError: torch, transformers or safetensors is not installed.
    """

    version = 1
    modalities = Modalities(query=frozenset({"text", "image"}))
    # Batches are made by tokens here, and MaxSim takes inner products.
    settable: ClassVar[Mapping[str, Any]] = {}
    released: ClassVar[str]
    instructed: ClassVar[bool]

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: Dtype = "float32",
        token_budget: int | None = None,
        max_length: int | None = None,
        instructions: bool | None = None,
        compile: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        require_packages(
            ("torch", "transformers", "safetensors"), "models", f"the retriever {self.name}"
        )
        if dtype not in get_args(Dtype):
            raise UsageError(f"dtype={dtype!r}", expected=", ".join(get_args(Dtype)))
        self._checkpoint = checkpoint or self.released
        self._revision = revision
        self._devices = [name.strip() for name in device.split(",")]
        self._dtype = dtype
        self._max_length = max_length
        self._instructions = self.instructed if instructions is None else instructions
        self._options = {"token_budget": token_budget, "compile": compile, "workers": workers}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Weights and files by their hashes, lengths, type, and how a query is put together."""
        return self._facts

    @cached_property
    def _facts(self) -> dict[str, Any]:
        from m2kr.preflmr import ContextTokenizer, PreFLMRConfig, QueryTokenizer
        from m2kr.preflmr.model.image_features import facts

        local = Path(self._checkpoint).is_dir()
        longest = ContextTokenizer.from_pretrained(self._folder).maxlen
        return {
            "checkpoint": _name_of(Path(self._checkpoint)) if local else self._checkpoint,
            # A hub's snapshots lie in folders named by commit.
            "revision": None if local else self._folder.name,
            **self._hashes(),
            "dtype": self._dtype,
            "query_length": QueryTokenizer.from_pretrained(self._folder).maxlen,
            "max_length": longest if self._max_length is None else self._max_length,
            "instructions": self._instructions,
            "without_image": "black 336x336",
            **facts(PreFLMRConfig.from_folder(self._folder)),
            "scoring": "MaxSim over all rows",
        }

    def cache_key(self, side: Side) -> Mapping[str, Any]:
        """Weights, files and type; of the lengths, the side's own."""
        other = {"query": {"max_length"}, "document": {"query_length", "instructions"}}[side]
        # A checkpoint is known by its bytes, wherever it lies.
        unsaid = other | {"checkpoint", "revision", "scoring"}
        return {name: value for name, value in self.settings.items() if name not in unsaid}

    @cached_property
    def _folder(self) -> Path:
        from m2kr.preflmr.inputs.files import local_folder

        return local_folder(self._checkpoint, self._revision)

    @cached_property
    def _files(self) -> ModelFiles:
        from m2kr.preflmr.checkpoint import weights

        of_weights = {entry.file for entry in weights.describe_weights(self._folder).values()}
        patterns = ("*.json", "*.txt", "*/*.json", "*/*.txt")
        others = {path for pattern in patterns for path in self._folder.glob(pattern)}
        return ModelFiles(self._folder, of_weights | others)

    def _hashes(self) -> dict[str, str]:
        """``weights_sha256`` (of several files: of their names and hashes), and that of the others."""
        weights = [path for path in self._files.paths if path.suffix == ".safetensors"]
        others = [path for path in self._files.paths if path.suffix != ".safetensors"]
        one = (
            cached_sha256(weights[0]) if len(weights) == 1 else files_sha256(self._folder, weights)
        )
        hashes = {"weights_sha256": one, "files_sha256": files_sha256(self._folder, others)}
        self._files.require_unchanged()
        return hashes

    @cached_property
    def _encoder(self) -> "Encoder":
        import torch

        from m2kr.preflmr import PreFLMR
        from m2kr.preflmr.encode.encoder import Encoder

        devices = [pick_device(name) for name in self._devices]
        dtype = getattr(torch, self._dtype)
        files = self._files
        model = PreFLMR.from_pretrained(self._folder, device=devices[0], dtype=dtype)
        files.require_unchanged()
        # Embeddings are stored in float16: rounded once, here or there.
        return Encoder(
            model,
            devices=devices,
            max_length=self._max_length,
            output="float16",
            **self._options,  # type: ignore[arg-type] # one dict of several types
        )

    def encode_stream(
        self, records: "Passages | Queries", side: Side, report: Report
    ) -> "Iterator[list[np.ndarray]]":
        """Rows batched by tokens, images decoded ahead; see `m2kr.preflmr.encode.encoder`."""
        from m2kr.concurrency import chunks
        from m2kr.preflmr.encode.queries_and_passages import Passage

        before = time.perf_counter()
        with loading():
            encoder = self._encoder
        if side == "query":
            stream = encoder.stream_queries(self._queries(records))
        else:
            table = (row for rows in records.batches(_READ) for row in rows)
            stream = encoder.stream_passages(Passage(row["passage_content"]) for row in table)
        for rows in chunks(stream, _REPORTED):
            report(len(rows), time.perf_counter() - before)
            yield rows
            before = time.perf_counter()

    def _queries(self, records: "Passages | Queries") -> "Iterator[Query]":
        from m2kr.preflmr.encode.queries_and_passages import Query
        from m2kr.preflmr.inputs.image_input import ImageSource

        for rows in records.batches(_READ):
            for row in rows:
                image, path = None, row.get("img_path")
                if records.images is not None and path is not None:
                    image = ImageSource(("stored", path), partial(records.images.open, path))
                question, instruction = row["question"], row["instruction"]
                if self._instructions:
                    yield Query(question, image, instruction)
                else:
                    yield Query(query_text(question, instruction), image)


def _name_of(checkpoint: Path) -> str:
    """The folder's name; of the ``model`` in a training run's folder, the run's."""
    folder = checkpoint.resolve()
    return folder.parent.name if folder.name == "model" else folder.name
