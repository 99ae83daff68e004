"""What a re-ranker is, what it is given, and what it may give back."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from m2kr.errors import InputError
from m2kr.retrieval.own_code import own_code

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_EXPECTED = "one number for each passage, in their order: a list, a 1-D array or tensor"


class RerankItem:
    """A query or a passage that is re-ranked.

    Attributes:
        id: Question or passage id.
        text: The question, or the passage's text.
        instruction: The query's instruction; ``""`` for a passage.
    """

    __slots__ = ("_image", "id", "instruction", "text")

    def __init__(
        self, id_: str, text: str, instruction: str, image: "Callable[[], Image | None]"
    ) -> None:
        self.id, self.text, self.instruction, self._image = id_, text, instruction, image

    @property
    def image(self) -> "Image | None":
        """The RGB image, None where it has none; decoded each time that it is asked for.

        Raises:
            InputError: the re-ranker's ``modalities`` don't say that it reads images of this side.
        """
        return self._image()


@runtime_checkable
class Reranker(Protocol):
    """Scores some passages for one query; ``-r rerank --set model=file.py:Class``.

    It may have ``name``, ``settings`` (JSON values, kept in the result) and ``modalities`` as a retriever
    has; without them it is known by its class and reads texts.
    """

    def rerank(self, query: RerankItem, passages: Sequence[RerankItem]) -> Any:
        """A score for each passage, the higher the better: any sequence of finite numbers."""
        ...


def rerank_scores(
    reranker: Reranker, query: RerankItem, passages: Sequence[RerankItem]
) -> "NDArray[np.float64]":
    """What a re-ranker says of some passages, checked.

    Raises:
        InputError: it returned something else than a finite number for each passage.
        RetrieverError: its own code raised something.
    """
    where = f"{type(reranker).__name__}.rerank of {len(passages)} passages for query '{query.id}'"
    with own_code(reranker, where):
        given = reranker.rerank(query, passages)

    def wrong(what: str) -> InputError:
        return InputError(f"returned {what}", where=where, expected=_EXPECTED)

    if given is None or isinstance(given, str | dict):
        raise wrong("None" if given is None else f"a {type(given).__name__}")
    try:
        if hasattr(given, "detach"):  # a tensor: with a gradient, on any device, of any type
            given = given.detach().cpu().double().numpy()
        if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
            raise wrong("an array with masked values")
        scores = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise wrong(f"an object of {type(given).__name__}: {error}") from error
    if scores.dtype.kind not in "fiub":
        kind = (
            f"an object of {type(given).__name__}"
            if not scores.ndim
            else f"values of type {scores.dtype}"
        )
        raise wrong(kind)
    if scores.shape != (len(passages),):
        raise wrong(f"values of shape {scores.shape} for {len(passages)} passages")
    values: NDArray[np.float64] = scores.astype(np.float64)
    if not np.isfinite(values).all():
        odd = passages[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise wrong(f"NaN or infinity for passage '{odd.id}'")
    return values
