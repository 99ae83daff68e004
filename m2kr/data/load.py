"""Loading a built split: passages, queries and judgements, memory-mapped."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from m2kr import paths
from m2kr.data.built_sources import BuiltSources
from m2kr.data.file_checks import SourceFiles
from m2kr.display import html_table
from m2kr.errors import InputError, UsageError, plainly
from m2kr.schema import ID_COLUMN, TableKind, table_name
from m2kr.sources import UNKNOWN, resolve_split, verdict

if TYPE_CHECKING:
    import os

    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from PIL.Image import Image

    from m2kr.data.images.store import ImageStore, Missing
    from m2kr.data.lookup import IdIndex
    from m2kr.data.records import Passages, Queries
    from m2kr.data.rows import RowReader


_AT_ONCE = 1024  # queries in memory while one iterates


@dataclass(frozen=True, repr=False)
class Split:
    """One split of a built source: a sequence of its queries, as dicts.

    A table's files are compared with the manifest before they are read (see `m2kr.data.file_checks`), so
    that its rows are those of the fingerprints: a damaged file, or a source that was built anew meanwhile,
    is an error.

    Attributes:
        source: Source name, such as ``mini``.
        split: ``train``, ``valid``, ``test`` or one of the source's own.
        folder: The edition folder.
        manifest: The source's manifest.
        image_roots: Roots searched before those that the manifest names.
        missing_images: What a path that no root holds leads to: ``error``, ``black`` or ``skip``.
    """

    source: str
    split: str
    folder: Path
    manifest: dict[str, Any]
    image_roots: tuple[str, ...] = ()
    missing_images: "Missing" = "error"

    def __len__(self) -> int:
        """Number of queries."""
        return int(self._counts["queries"])

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """The query at a place, as a dict of the schema's columns, or those of a slice, as of a list."""
        if isinstance(place, slice):
            return self.queries_view.rows(range(len(self))[place])
        return self.queries_view[range(len(self))[place]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The queries in order, read some at a time."""
        return itertools.chain.from_iterable(self.queries_view.batches(_AT_ONCE))

    def __contains__(self, query: object) -> bool:
        """Whether there is a query of this id, or this query."""
        if isinstance(query, Mapping):
            row_id = str(query.get("question_id"))
            return row_id in self and self.query(row_id) == query
        return isinstance(query, str) and self._access["queries"][0].row(query) >= 0

    def __repr__(self) -> str:
        queries, passages, _, folder = (value for _, value in self._facts)
        return (
            f"{type(self).__name__}({self.label}: queries {queries}; passages {passages}; {folder})"
        )

    def _repr_html_(self) -> str:
        return html_table(f"Split {self.label}", self._facts)

    @property
    def _facts(self) -> list[tuple[str, str]]:
        """What people see of it."""
        images = self._counts.get("with_image")
        counts = {
            "queries": f"{len(self):,}"
            + (f" ({images:,} with an image)" if images is not None else ""),
            "passages": f"{self._counts['passages']:,}",
            "scores": verdict(str(self.manifest.get("comparable", UNKNOWN))),
            "folder": str(self.folder),
        }
        return list(counts.items())

    @property
    def _counts(self) -> Mapping[str, int]:
        counts: Mapping[str, int] = self.manifest["splits"][self.split]
        return counts

    def image(self, query: "Mapping[str, Any] | str | int") -> "Image | None":
        """The image of a query, given as its row, id or place; None where it has none.

        Of a passage's row it is the passage's.

        Raises:
            MissingError: no image root has it (unless ``missing_images`` says otherwise).
            InputError: there is no such query, or the image is damaged.
        """
        if isinstance(query, str):
            query = self.query(query)
        elif not isinstance(query, Mapping):
            query = self[query]
        return self.queries_view.image(dict(query))

    @property
    def edition(self) -> str:
        """Name of the edition."""
        return self.folder.name

    @property
    def label(self) -> str:
        """How messages name it: ``mini/test (default)``."""
        return f"{self.source}/{self.split} ({self.edition})"

    @property
    def pool(self) -> str:
        """The passage split that this split's queries are searched in."""
        return str(self.manifest["splits"][self.split]["pool"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """``queries``, ``judgements``, ``pool``, ``eval``, ``image_paths``: see `m2kr.fingerprint`."""
        return dict(self.manifest["fingerprints"][self.split])

    @property
    def relevance_threshold(self) -> float:
        """The grade from which a passage counts as right."""
        return float(self.manifest.get("relevance_threshold", 1))

    @cached_property
    def queries(self) -> "Dataset":
        """Query rows."""
        return self._dataset("queries", self.split)

    @cached_property
    def passages(self) -> "Dataset":
        """Passage rows of the pool."""
        return self._dataset("passages", self.pool)

    @cached_property
    def qrels(self) -> "Dataset":
        """Judgements: ``question_id, passage_id, relevance``."""
        return self._dataset("qrels", self.split)

    @cached_property
    def images(self) -> "ImageStore | None":
        """The source's images, or None if it has no image root.

        Its roots are looked for when an image is first asked for: nothing else needs them. Those given by
        the user are looked for at once.
        """
        from m2kr.data.images.source_roots import SourceRoots
        from m2kr.data.images.store import ImageStore

        source, data_root = self.manifest["source"], self.folder.parent
        roots = SourceRoots(
            given=tuple(map(Path, self.image_roots)),
            recorded=tuple(self._root(root) for root in self.manifest["image_roots"]),
            data_root=data_root,
            store=source.get("image_store") or source["name"],
        )
        if roots.none and not self.manifest["splits"][self.split]["with_image"]:
            return None
        return ImageStore(
            roots,
            missing=self.missing_images,
            cache=data_root / ".cache" / "images",
            names=source.get("image_names", ()),
        )

    @cached_property
    def queries_view(self) -> "Queries":
        """The queries as retrievers are given them."""
        from m2kr.data.records import Queries

        rows = self._rows("queries", self.split)
        return Queries(rows, self.images, self.fingerprints["queries"])

    @cached_property
    def passages_view(self) -> "Passages":
        """The pool as retrievers are given it."""
        from m2kr.data.records import Passages

        rows = self._rows("passages", self.pool)
        return Passages(rows, self.images, self.fingerprints["pool"])

    def passage(self, passage_id: str) -> dict[str, Any]:
        """The passage of an id, found in constant time.

        Raises:
            InputError: the pool has no such passage; names the nearest ids.
        """
        return self._row("passages", self.pool, passage_id)

    def query(self, question_id: str) -> dict[str, Any]:
        """The query of an id, found in constant time.

        Raises:
            InputError: the split has no such query; names the nearest ids.
        """
        return self._row("queries", self.split, question_id)

    def passage_rows(self, ids: Iterable[str]) -> "np.ndarray":
        """Rows (int64) of passages by id; -1 for ids that the pool lacks."""
        return self._access["passages"][0].rows(ids)

    def query_rows(self, ids: Iterable[str]) -> "np.ndarray":
        """Rows (int64) of queries by id; -1 for ids that the split lacks."""
        return self._access["queries"][0].rows(ids)

    def texts(self, rows: "Sequence[int] | np.ndarray") -> list[str]:
        """Texts of the passages at some rows."""
        from m2kr.data.lookup import values_at

        return values_at(self.passages_view.table.column("passage_content"), rows)

    def _row(self, kind: TableKind, split: str, row_id: str) -> dict[str, Any]:
        from m2kr.data.lookup import nearest_ids

        if not isinstance(row_id, str):
            raise UsageError(f"{row_id!r} is no id", expected="a text, such as those of the tables")
        index, reader = self._access[kind]
        number = index.row(row_id)
        if number < 0:
            what = {"queries": "query", "passages": "passage"}[kind]
            ids = getattr(self, kind).data.column(ID_COLUMN[kind])
            near = " or ".join(map(repr, nearest_ids(ids, row_id)))
            if elsewhere := self._splits_with(row_id) if kind == "queries" else ():
                near = ""
            raise InputError(
                f"there is no {what} {row_id!r}",
                where=f"{self.source}/{split}",
                expected=f"the split {' or '.join(elsewhere)}, which has it" if elsewhere else None,
                fix=f"did you mean {near}?" if near else None,
            )
        return reader.row(number)

    def _splits_with(self, question_id: str) -> list[str]:
        """The source's other splits that have a query."""
        others = (
            replace(self, split=name) for name in self.manifest["splits"] if name != self.split
        )
        return [split.split for split in others if question_id in split]

    @cached_property
    def _access(self) -> "dict[TableKind, tuple[IdIndex, RowReader]]":
        from m2kr.data.lookup import open_index

        tables: dict[TableKind, str] = {
            "queries": self._table("queries", self.split),
            "passages": self._table("passages", self.pool),
        }
        with self._files.opening(*tables.values()), plainly(self.folder):
            return {
                kind: open_index(self.folder / table, ID_COLUMN[kind])
                for kind, table in tables.items()
            }

    def require_unharmed(self) -> None:
        """Refuses a split whose mapped files were written to since they were opened.

        A table that was built anew is another file: the one that is open stays as it is.

        Raises:
            CheckError: rows may have changed while they were read.
        """
        self._files.require_unharmed()

    @cached_property
    def _files(self) -> SourceFiles:
        return SourceFiles(self.folder, self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the tables itself, and checks them.
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _table(self, kind: TableKind, split: str) -> str:
        return table_name(self.manifest["source"]["config"], kind, split)

    def _rows(self, kind: TableKind, split: str) -> "pa.Table":
        from m2kr.data.rows import open_shards

        table = self._table(kind, split)
        with self._files.opening(table), plainly(self.folder / table):
            return open_shards(self.folder / table)

    def _dataset(self, kind: TableKind, split: str) -> "Dataset":
        from datasets import Dataset

        table = self._table(kind, split)
        with self._files.opening(table), plainly(self.folder / table):
            return Dataset.load_from_disk(str(self.folder / table), keep_in_memory=False)

    def _root(self, root: str) -> Path:
        return Path(root) if Path(root).is_absolute() else (self.folder / root).resolve()


@plainly()
def load(
    source: str,
    split: str = "test",
    *,
    edition: str | None = None,
    data: "str | os.PathLike[str] | None" = None,
    images: Sequence[str | Path] = (),
    missing_images: "Missing" = "error",
) -> Split:
    """A built split, memory-mapped; nothing is read until it is asked for.

    Args:
        source: Source name or alias; case and punctuation do not matter.
        split: Split name or alias (``val``, ``validation``).
        edition: Edition name; may be left out if one edition alone holds the source.
        data: Data root; see `m2kr.paths.data_root`.
        images: Image roots (folders, zip, tar, Arrow files) searched before the source's own.
        missing_images: ``error``, ``black`` or ``skip``.

    Raises:
        UsageError: no such source or split, or several editions hold the source.
        MissingError: the source is not built.

    Example:
        >>> import m2kr
        >>> mini = m2kr.load("mini", "test")  # doctest: +SKIP
        >>> mini.passage("factbook/gb/flag")["title"]  # doctest: +SKIP
    """
    found = BuiltSources.below(paths.data_root(data)).find(source, edition)
    return Split(
        source=found.name,
        split=resolve_split(split, tuple(found.manifest["splits"])),
        folder=found.folder,
        manifest=found.manifest,
        image_roots=tuple(map(str, images)),
        missing_images=missing_images,
    )
