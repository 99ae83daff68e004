"""What a builder declares (assets) and what the engine hands it (context)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2kr.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

    from m2kr.build.ledger import Ledger

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asset:
    """One upstream file.

    Attributes:
        name: Path under the downloads folder, such as ``mini/photos.zip``; assets of equal name are
            one file, fetched once.
        urls: Where to get it, mirrors after the first. ``http(s)://``, or ``package:module/path`` for
            a file that travels inside an installed package.
        size: Bytes, if published.
        sha256: Hex digest, if published.
        md5: Hex digest, if that is what upstream publishes.
        licence: Terms of the file.
        manual: How to place the file by hand, where no URL works without a login.
        images: The file or folder holds images and becomes an image root of the built source.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    licence: str = ""
    manual: str = ""
    images: bool = False


@dataclass(frozen=True)
class BuildContext:
    """What a builder's functions get: files, the ledger and the seed.

    Attributes:
        source: The spec being built.
        files: Local path of each asset by its name.
        ledger: Where dropped, repaired and filtered rows are reported.
        options: Builder options by name.
        seed: For keyed choices.
    """

    source: Source
    files: Mapping[str, Path]
    ledger: "Ledger"
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


class Builder(Protocol):
    """A module in ``builders/``.

    Functions are called in several processes and may be re-run: the same inputs must give the same
    rows in the same order.
    """

    SOURCE: Source

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The upstream files that these options need."""
        ...

    def passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """The rows of one passage split. Columns left out take their default."""
        ...

    def queries(self, ctx: BuildContext, split: str) -> Iterable[Row]:
        """The rows of one query split. ``pos_item_contents`` is filled in by the engine."""
        ...
