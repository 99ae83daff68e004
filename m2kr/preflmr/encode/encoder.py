"""Texts and images to token matrices, fast: what the retrievers and the model's own methods use.

Tokens are made and images are decoded by worker threads ahead of the model; passages are encoded at
their own length; each core or accelerator takes the next batch when it is free. What comes out equals
what the official evaluation script computes, one padded batch after the other.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch

from m2kr.concurrency import ahead, chunks, threads
from m2kr.errors import InputError, UsageError
from m2kr.preflmr.encode import batching, device_workers
from m2kr.preflmr.encode.queries_and_passages import Passage, PassageEncoder, Query, QueryEncoder
from m2kr.preflmr.model.image_features import ImageFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from m2kr.preflmr.inputs.image_input import ImageInput
    from m2kr.preflmr.model.modeling import PreFLMRModel

    Matrix = NDArray[np.floating]

__all__ = ["Encoder", "Passage", "Query", "encode_passages", "encode_queries"]

Given = TypeVar("Given")

_CHUNK, _CHUNKS_AHEAD = 64, 8  # texts tokenised at a time, and how many times ahead
_WINDOW = 1 << 18  # tokens among which rows are sorted
_IN_FLIGHT = 4  # batches for each thread that computes, begun and done, until they are handed over
_BUDGET, _BUDGET_ACCELERATED = 2048, 32_768
_MOST_WORKERS = 16


class Encoder:
    """Encodes with one model, on one or several devices.

    Args:
        model: With tokenizers. Its weights must stay as they are while the encoder is in use.
        devices: One or several; each has a copy of the model and gets a batch whenever it is free.
            Where the model is, if absent.
        dtype: Type to compute in; the model's, if absent. Rows are brought to unit length in float32
            whatever it is.
        token_budget: Most tokens of a batch, filling included, image patches counted as tokens; 2,048
            on a processor and 32,768 on an accelerator, if absent.
        max_length: Most tokens of a passage; the checkpoint's, if absent.
        compile: Whether to have `torch.compile` make faster code first, which takes about a minute
            and changes the model's modules in place.
        workers: Threads that tokenise and decode; as many as there are cores, up to 16, if absent.
        output: Type of the matrices that come out.

    Attributes:
        devices: Those in use.
        dtype: What is computed in.
        max_length: Most tokens of a passage.
        query_length: Tokens of a query.

    Raises:
        InputError: The model has no tokenizers.
        UsageError: A device can't be used, or a number is out of range.

    Example:
        >>> from m2kr.preflmr import PreFLMR
        >>> model = PreFLMR.from_pretrained("checkpoint")  # doctest: +SKIP
        >>> Encoder(model).queries(["What is it?"], ["cat.jpg"])[0].shape  # doctest: +SKIP
        (320, 128)
    """

    def __init__(
        self,
        model: "PreFLMRModel",
        *,
        devices: str | torch.device | Sequence[str | torch.device] | None = None,
        dtype: torch.dtype | None = None,
        token_budget: int | None = None,
        max_length: int | None = None,
        compile: bool = False,
        workers: int | None = None,
        output: Literal["float32", "float16"] = "float32",
    ) -> None:
        query_tokenizer, context_tokenizer = model.query_tokenizer, model.context_tokenizer
        if query_tokenizer is None or context_tokenizer is None:
            raise InputError(
                "the model has no tokenizers",
                fix="PreFLMR.from_pretrained(…), or PreFLMR(config, query_tokenizer, "
                "context_tokenizer)",
            )
        if output not in ("float32", "float16"):
            raise UsageError(f"output={output!r}", expected="float32 or float16")
        positions = model.config.text_config.max_position_embeddings
        longest = min(context_tokenizer.maxlen, positions)
        self.max_length = longest if max_length is None else max_length
        if not 3 <= self.max_length <= longest:
            raise UsageError(f"max_length={max_length}", expected=f"3 to {longest}, the model's")
        self.query_length = query_tokenizer.maxlen
        given = [devices] if isinstance(devices, str | torch.device) else devices
        self._models = device_workers.replicas(model, given or [model.device], dtype or model.dtype)
        self._single = compile
        if compile:
            device_workers.compile_modules(self._models)
        self.devices = tuple(str(each.device) for each in self._models)
        self.dtype = self._models[0].dtype
        on_cpu = any(each.device.type == "cpu" for each in self._models)
        default = _BUDGET if on_cpu else _BUDGET_ACCELERATED
        budget = default if token_budget is None else token_budget
        self._workers = min(_MOST_WORKERS, _cores()) if workers is None else workers
        if budget < 1 or self._workers < 1:
            raise UsageError(
                f"token_budget={token_budget}, workers={workers}", expected="1 or more"
            )
        self._sight = sight = ImageFeatures(model)
        kind = np.dtype(output)
        self._window = max(_WINDOW, 8 * budget)
        self._queries = QueryEncoder(model, query_tokenizer, sight, budget, kind)
        self._passages = PassageEncoder(
            model, context_tokenizer, sight, self.max_length, budget, kind
        )

    def passages(
        self, texts: Sequence[str], images: "Sequence[ImageInput] | None" = None
    ) -> "list[Matrix]":
        """Passages as matrices, (tokens x dim) each: punctuation and filling are left out.

        Args:
            texts: Their texts.
            images: Their images, whose rows come before the text's; a passage whose image is None has
                text rows only. The released models were not trained for passages with images.

        Returns:
            Unit rows, in the order of the texts. Equal passages may share a matrix.

        Raises:
            InputError: Numbers differ, or an image can't be used.
            MissingError: There is no such image file.
        """
        given = _aligned("images", images, texts, None)
        return list(self.stream_passages(map(Passage, texts, given)))

    def queries(
        self,
        texts: Sequence[str],
        images: "Sequence[ImageInput] | None" = None,
        instructions: Sequence[str] | str | None = None,
    ) -> "list[Matrix]":
        """Queries as matrices, (rows x dim) each: text, then the image's prefix, then its patches.

        A query without image shows the black one, as in the official evaluation. Rows of the
        instruction, which are zero and add nothing to a score, are left out.

        Args:
            texts: Questions.
            images: One for each text; None where there is none.
            instructions: One for each text, or one for all.

        Returns:
            Unit rows, in the order of the texts. Equal queries may share a matrix.

        Raises:
            InputError: Numbers differ, or an image can't be used.
            MissingError: There is no such image file.
        """
        said = [instructions] * len(texts) if isinstance(instructions, str) else instructions
        given = _aligned("images", images, texts, None)
        return list(
            self.stream_queries(map(Query, texts, given, _aligned("instructions", said, texts, "")))
        )

    def stream_passages(self, passages: Iterable[Passage]) -> "Iterator[Matrix]":
        """The matrices of passages in order, however many there are; see `passages`.

        They are sorted and encoded in windows of some hundred thousand tokens, or of 128 MiB of images
        that were given in memory; so much is read ahead and held, and no more.
        """
        return self._stream(passages, self._passages)

    def stream_queries(self, queries: Iterable[Query]) -> "Iterator[Matrix]":
        """The matrices of queries in order, however many there are; see `queries`."""
        return self._stream(queries, self._queries)

    def _stream(self, items: Iterable[Any], side: Any) -> "Iterator[Matrix]":
        with (
            threads(self._workers, "m2kr-prepare") as workers,
            device_workers.evaluating(self._models),
        ):
            on_devices = device_workers.workers_of(self._models, single=self._single)

            def prepare(batch: batching.RowBatch) -> None:
                if batch.images:
                    processor = self._sight.processor
                    batch.pixels = [workers.submit(x.pixels, processor) for x in batch.images]

            tokenised = ahead(
                chunks(items, _CHUNK),
                lambda chunk: workers.submit(side.tokens, chunk),
                room=_CHUNKS_AHEAD,
            )
            batches = (
                batch
                for window in batching.windows((rows for _, rows in tokenised), self._window)
                for batch in batching.plan_batches(window, side.width, side.costs)
            )
            encoded = device_workers.run(
                batches,
                side.compute,
                on_devices,
                begin=prepare,
                room=_IN_FLIGHT * len(on_devices) * side.costs.budget,
                size=lambda batch: side.costs.of(len(batch.rows), batch.width, len(batch.images)),
            )
            yield from batching.in_order(encoded)


def encode_passages(
    model: "PreFLMRModel",
    texts: Sequence[str],
    images: "Sequence[ImageInput] | None" = None,
    **options: Any,
) -> "list[Matrix]":
    """Passages as matrices; see `Encoder.passages`, and `Encoder` for the options."""
    return Encoder(model, **options).passages(texts, images)


def encode_queries(
    model: "PreFLMRModel",
    texts: Sequence[str],
    images: "Sequence[ImageInput] | None" = None,
    instructions: Sequence[str] | str | None = None,
    **options: Any,
) -> "list[Matrix]":
    """Queries as matrices; see `Encoder.queries`, and `Encoder` for the options."""
    return Encoder(model, **options).queries(texts, images, instructions)


def _aligned(
    name: str, given: Sequence[Given] | None, texts: Sequence[str], absent: Given
) -> Sequence[Given]:
    if isinstance(texts, str):
        raise UsageError("one text is given", expected="a list of texts: [text]")
    if given is None:
        return [absent] * len(texts)
    if len(given) != len(texts):
        raise InputError(f"{len(given)} {name} for {len(texts)} texts", expected="one for each")
    return given


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
