"""What a retriever reads on each side, however it says so."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args

from m2kr.errors import InputError

if TYPE_CHECKING:
    from m2kr.data.records import Passages, Queries

Modality = Literal["text", "image"]
Side = Literal["query", "document"]
_EXAMPLE = 'modalities = {"query": ["text", "image"], "passage": ["text"]}'
_TEXT: frozenset[Modality] = frozenset({"text"})


@dataclass(frozen=True, slots=True)
class Modalities:
    """What a retriever reads on each side; images are only looked for where "image" is named.

    Attributes:
        query: ``text``, ``image``, both or neither; any collection of them is taken.
        passage: The same.

    Raises:
        InputError: something else is named.

    Example:
        >>> Modalities(query={"text", "image"}).as_dict()
        {'query': ['image', 'text'], 'passage': ['text']}
    """

    query: frozenset[Modality] = _TEXT
    passage: frozenset[Modality] = _TEXT

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", _named(self.query, "query"))
        object.__setattr__(self, "passage", _named(self.passage, "passage"))

    def as_dict(self) -> dict[str, list[str]]:
        """The same for JSON: sorted lists under ``query`` and ``passage``."""
        return {"query": sorted(self.query), "passage": sorted(self.passage)}


def modalities_of(retriever: object) -> Modalities:
    """What a retriever declares to read, by ``modalities`` or ``reads_images``.

    ``modalities`` is a `Modalities` or a mapping of the same form; a side that it leaves out reads
    text. ``reads_images = True`` means text and images on both sides.

    Raises:
        InputError: it declares something else, or one thing here and another there.
    """
    where = f"{type(retriever).__name__}.modalities"
    declared = _declared(getattr(retriever, "modalities", Modalities()), where)
    reads_images = getattr(retriever, "reads_images", None)
    if reads_images is None:
        return declared
    if not isinstance(reads_images, bool):
        raise InputError(
            f"reads_images is {reads_images!r}",
            where=type(retriever).__name__,
            expected=f"True or False; to say which side: {_EXAMPLE}",
        )
    if reads_images and declared == Modalities():
        both: frozenset[Modality] = frozenset(get_args(Modality))
        return Modalities(both, both)
    if reads_images != ("image" in declared.query | declared.passage):
        raise InputError(
            f"it is {declared.as_dict()}, and reads_images is {reads_images}",
            where=where,
            expected="one of the two, or both saying the same",
            fix="leave reads_images out",
        )
    return declared


def _declared(declared: Any, where: str) -> Modalities:
    try:
        if isinstance(declared, Modalities):
            return declared
        if isinstance(declared, Mapping) and not set(declared) - {"query", "passage"}:
            return Modalities(**declared)
    except InputError as error:
        raise InputError(error.what, where=where, expected=error.expected) from error
    if isinstance(declared, Mapping):
        odd = next(key for key in declared if key not in ("query", "passage"))
        wrong = f"it has the key {odd!r}"
    elif isinstance(declared, str | Iterable):
        wrong = f"it is {declared!r}, which doesn't say which side reads that"
    else:
        wrong = f"it is {declared!r}"
    raise InputError(wrong, where=where, expected=_EXAMPLE)


def _named(given: Any, side: str) -> frozenset[Modality]:
    """The modalities of one side."""
    named = [given] if isinstance(given, str) else given
    try:
        found = frozenset(named)
    except TypeError:
        found = frozenset({repr(given)})
    odd = found - set(get_args(Modality))
    if odd:
        raise InputError(
            f"the {side} side can't read {', '.join(sorted(map(str, odd)))}",
            where="modalities",
            expected=f'"text" and "image": {_EXAMPLE}',
        )
    return found


class Undeclared:
    """Stands where the images of a side would be that a retriever doesn't declare to read."""

    def __init__(self, retriever: object, side: Side) -> None:
        self._who, self._side = type(retriever).__name__, side
        self._declared = modalities_of(retriever)

    def refuse(self) -> NoReturn:
        """Says what to declare.

        Raises:
            InputError: always.
        """
        name = "query" if self._side == "query" else "passage"
        sides = self._declared.as_dict()
        sides[name] = [each for each in ("text", "image") if each in {*sides[name], "image"}]
        plural = "queries" if name == "query" else "passages"
        line = str(sides).replace("'", '"')
        raise InputError(
            f"it reads images of {plural}, but doesn't say so, and none were looked for",
            where=self._who,
            expected=f"this line in the class: modalities = {line}",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copying and pickling ask for what isn't there
            raise AttributeError(name)
        self.refuse()


Records = TypeVar("Records", bound="Passages | Queries")


def readable(records: Records, retriever: object, side: Side) -> Records:
    """Records as a retriever may read them: their images raise, unless it declares to read them."""
    reads = modalities_of(retriever)
    if "image" in (reads.query if side == "query" else reads.passage):
        return records
    unread: Any = Undeclared(retriever, side)
    return dataclasses.replace(records, images=unread)
