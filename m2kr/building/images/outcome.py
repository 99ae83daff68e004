"""What became of images that were to be fetched, from an archive or one by one."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnavailableImage:
    """An image that can't be had.

    Attributes:
        archive: Name of its archive, or its host.
        name: As it was asked for.
        rule: The kind of fault, for the ledger, such as ``not in the archive``.
        detail: More, if there is more to say.
    """

    archive: str
    name: str
    rule: str
    detail: str = ""


OnFault = Callable[[UnavailableImage], object]


@dataclass(frozen=True, slots=True)
class FetchCounts:
    """What became of the required images.

    Attributes:
        there: Were in the store.
        added: Are now.
        faults: Can't be had.
        received: Bytes received for them, those of the directory and of repeated attempts included.
    """

    there: int
    added: int
    faults: int
    received: int
