"""What builds a source (`Builder`), and what the engine hands it (`BuildContext`)."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr.building.fetch.assets import Asset, ImageArchive
from m2kr.building.ledger import Ledger
from m2kr.building.sampling import keyed_hash
from m2kr.errors import UsageError
from m2kr.instructions import TemplateList
from m2kr.locks import hold
from m2kr.progress import SILENT, Progress
from m2kr.schema import TableKind
from m2kr.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
# Key of a query row that is no column: the upstream file and row that it came from.
UPSTREAM_ROW = "upstream row"


@dataclass(frozen=True)
class BuildConfig:
    """What all tables of one build share; picklable.

    Attributes:
        builder: The source's builder.
        staging: The source's staging folder.
        files: Local upstream files by asset name.
        options: Every builder option.
        splits: The query splits that are built.
        limit: Queries kept per split (and passages beside the positives), or None for all.
        seed: For keyed choices.
        derived: Folder of what is made from upstream files and kept.
        templates: The instructions that queries are given.
        full_ledger: Write used and filtered rows to the ledger, too.
    """

    builder: "Builder"
    staging: Path
    files: Mapping[str, Path]
    options: Mapping[str, str]
    splits: tuple[str, ...]
    limit: int | None = None
    seed: int = 0
    derived: Path | None = None
    templates: TemplateList | None = None
    full_ledger: bool = False

    @property
    def source(self) -> Source:
        """The builder's spec, with the splits that are built."""
        source = self.builder.source
        return replace(source, pools={split: source.pools[split] for split in self.splits})


@dataclass(frozen=True)
class BuildContext:
    """What a builder's functions get: files, the ledger, the choices of this build.

    Attributes:
        source: The spec being built.
        files: Local path of each asset by its name.
        ledger: Where dropped, repaired and filtered rows are reported.
        options: Every option of the source by name, defaults included.
        seed: For keyed choices.
        scratch: A folder that all tables of this build share until it is published.
        derived: A folder for what is made from upstream files alone and kept for other builds.
        templates: The instructions that rows are given.
        progress: Told of long steps.
        parts: Reads a part of this build.
    """

    source: Source
    files: Mapping[str, Path]
    ledger: Ledger
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    scratch: Path | None = None
    derived: Path | None = None
    templates: TemplateList | None = None
    progress: Progress = SILENT
    parts: "Callable[[str], Iterator[pa.RecordBatch]] | None" = None

    def instruction(self, row_id: str) -> str:
        """The instruction of one row, drawn from the source's list by seed and id alone."""
        if self.templates is None:
            raise UsageError(f"no instructions are registered for {self.source.name}")
        return self.templates.choose(row_id, self.seed)

    def count(self, option: str) -> int:
        """The value of an option of kind ``count``."""
        return int(self.options[option])

    def quiet(self) -> "BuildContext":
        """The same with a ledger that nobody reads: another pass accounts for the rows of this one."""
        return replace(self, ledger=Ledger("quiet"))

    def sample(self, ids: Iterable[str], size: int, purpose: str) -> set[str]:
        """``size`` of some distinct ids, all if there are no more: those of the smallest keyed hashes.

        Args:
            ids: What is drawn from; one more of them can only push another out.
            size: How many.
            purpose: Keeps several draws apart.
        """
        return set(heapq.nsmallest(size, ids, lambda own: keyed_hash(own, purpose, self.seed)))

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """A file or folder that the tables of this build share, made by the first that asks.

        Args:
            name: Its name.
            make: Writes it at the path given; a half-written one is never used.
        """
        if self.scratch is None:
            raise UsageError(f"{name} needs a build's scratch folder")
        return made_once(self.scratch, name, make)

    def part(self, name: str) -> "Iterator[pa.RecordBatch]":
        """The batches of a part in order, read and dropped again; see `Builder.parts`."""
        if self.parts is None:
            raise UsageError(f"the part {name} needs a build")
        return self.parts(name)


def made_once(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """``folder/name``, made aside and moved there by one process while others wait."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with hold(folder / f".{name}.lock", f"making {path}") as held:
            if not path.exists():
                with atomic.writing(path, alone=True) as aside:
                    make(aside)
                    held.check()
    return path


class Builder:
    """What builds one source: all that the engine may ask, with the answer that most sources give.

    A source is one file in ``builders/`` of the source's name, with a class derived from this one that
    says at least `source`, `passages` and `queries`, and ``BUILDER = TheClass`` behind it.

    An instance is pickled to other processes, and what it is asked may be asked again there: the same
    inputs must give the same rows in the same order.

    Attributes:
        source: What is built.
        release_keys: By kind of table the columns that a row of ours and the same row of the release
            have in common, where that isn't the id.
        align_options: Options that ``--align release`` sets.
        image_archives: Where the source's images can be had.
        route: Where rows come from: ``sources``, or one of the engine's own routes.
        recorded_options: What the manifest says was asked for, beside the options.
        versions: What decides the rows beside the source's own version.
        inputs: Files read beside the assets, as the manifest lists them; known from `prepare` on.
        image_roots: Folders and archives of images, beside the assets that are marked as such.
        note: Why scores don't compare with published ones, whatever the source says.
        relevance_threshold: Grade from which a passage counts as right.
    """

    source: Source
    release_keys: Mapping[TableKind, tuple[str, ...]] = {}
    align_options: Mapping[str, str] = {}
    image_archives: "Sequence[ImageArchive]" = ()
    route: str = "sources"
    recorded_options: Mapping[str, str] = {}
    versions: Sequence[int] = ()
    inputs: Sequence[Mapping[str, Any]] = ()
    image_roots: Sequence[str] = ()
    note: str = ""
    relevance_threshold: float = 1

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The upstream files that these options need."""
        return ()

    def passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """The rows of one passage split. Columns left out take their default."""
        raise NotImplementedError

    def queries(self, ctx: BuildContext, split: str) -> Iterable[Row]:
        """The rows of one query split.

        ``pos_item_contents`` is filled in by the engine. Where a row brings texts of its own, those
        that differ from the pool's are noted in the ledger; it then needs `UPSTREAM_ROW`, too. Of
        a row with this a positive that the pool lacks is left out, and noted.
        """
        raise NotImplementedError

    def all_passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """Every passage that the benchmark could have taken, before the rules that choose.

        ``--align release`` chooses among these.
        """
        return self.passages(ctx, pool)

    def all_queries(self, ctx: BuildContext, split: str) -> Iterable[Row]:
        """Every query that the benchmark could have taken, before the rules that choose."""
        return self.queries(ctx, split)

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Groups of passage splits that hold the same rows; they are built once."""
        return ()

    def parts(self, options: Mapping[str, str], splits: Sequence[str]) -> Sequence[str]:
        """Names of the parts that some query splits need.

        A part is what several tables read, or a share of what one table needs: made once, before any
        table, from upstream files alone (it can't read other parts). Parts are made side by side with
        ``--jobs``, ``--shard`` and ``--engine ray``, so work is worth cutting into as many as upstream
        has files. Tables read one by ``ctx.part(name)``. It has a ledger of its own, whose flows must
        add up whatever ``--limit`` says; ``out`` there counts the part's rows. A table that accounts for
        the rows of a part calls that input ``parts/NAME``. Parts go when the build is published.
        """
        return ()

    def make_part(self, ctx: BuildContext, name: str) -> "Iterator[pa.RecordBatch]":
        """The record batches of a part, all of one schema and of some thousand rows each."""
        raise NotImplementedError

    def prepare(
        self,
        root: Path,
        splits: Sequence[str],
        *,
        offline: bool,
        jobs: int,
        progress: Progress,
    ) -> None:
        """Called before anything is fetched or written; the build's lock is held."""

    def amend(self, record: dict[str, Any], staging: Path) -> dict[str, Any]:
        """The manifest with what this route has to say in it, once all tables are made."""
        return record
