"""What is audited: passages, queries and judgements as they are, whatever is wrong with them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from m2kr.errors import M2KRError

if TYPE_CHECKING:
    import os

    from m2kr.audit.image_looks import ImageLook
    from m2kr.data.images.store import ImageStore
    from m2kr.data.load import Split

_TEXT = pa.string()
MOST_KINDS = 20  # of faults that are told apart
CORPUS = pa.schema([(name, _TEXT) for name in ("passage_id", "text", "title", "language", "image")])
QUERIES = pa.schema(
    [(name, _TEXT) for name in ("question_id", "question", "instruction", "image")]
    + [("answers", pa.list_(_TEXT))]
)
QRELS = pa.schema([("question_id", _TEXT), ("passage_id", _TEXT), ("grade", pa.float64())])


@dataclass(frozen=True)
class Corpus:
    """The passages that one or more splits are searched in.

    Attributes:
        name: As in the source or folder.
        table: Columns of `CORPUS`; ``image`` is a path or the key of an embedded image, null if none.
    """

    name: str
    table: pa.Table


@dataclass(frozen=True)
class QuerySet:
    """The queries of a split, with judgements.

    Attributes:
        name: Of the split.
        corpus: Name of its corpus.
        table: Columns of `QUERIES`.
        qrels: Columns of `QRELS`, in the order of the file, with repeats and grades of 0 and below.
        threshold: The grade from which a passage is right.
    """

    name: str
    corpus: str
    table: pa.Table
    qrels: pa.Table
    threshold: float = 1.0


@dataclass
class Faults:
    """What could not be read as it should be, by what is wrong with it.

    Attributes:
        counts: Records by sentence.
        places: The first three places of each.
        read: Records looked at.
    """

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    read: int = 0

    def add(self, what: str, where: str) -> None:
        """One more record."""
        if what not in self.counts and len(self.counts) >= MOST_KINDS:
            what = "other faults"
        self.counts[what] += 1
        known = self.places.setdefault(what, [])
        if len(known) < 3:
            known.append(where)


@dataclass
class Benchmark:
    """A benchmark to audit.

    Attributes:
        name: Of the source or folder.
        kind: What it is: ``built source``, ``BEIR folder`` and so on.
        corpora: By name.
        splits: By name.
        faults: What could not be read.
        images: Finds images by path; None where there are none, or their roots are not known.
        no_images: Why images are not looked at, if they are named and not.
        embedded: Of images that lie in the records themselves, how they look, by key.
        untyped: Columns that hold nothing but nulls, or have no type, by table.
    """

    name: str
    kind: str
    corpora: Mapping[str, Corpus]
    splits: Mapping[str, QuerySet]
    faults: Faults = field(default_factory=Faults)
    images: "ImageStore | None" = None
    no_images: str = ""
    embedded: "Mapping[str, ImageLook]" = field(default_factory=dict)
    untyped: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_source(
    source: str,
    splits: Sequence[str] | None = None,
    *,
    edition: str | None = None,
    data: "str | os.PathLike[str] | None" = None,
    images: Sequence[Path] = (),
) -> Benchmark:
    """A built source; its tables stay where they are, memory-mapped.

    Raises:
        UsageError: there is no such source or split.
        MissingError: it is not built.
    """
    from m2kr import paths
    from m2kr.data.built_sources import BuiltSources
    from m2kr.data.load import load

    found = BuiltSources.below(paths.data_root(data)).find(source, edition)
    names = splits or list(found.manifest["splits"])
    opened = [
        load(found.name, name, edition=found.folder.name, data=data, images=images)
        for name in names
    ]
    opened = [split for split in opened if len(split) or len(split.passages_view)]
    corpora: dict[str, Corpus] = {}
    same: dict[str, str] = {}  # pools that hold the same passages are one
    of_pool: dict[str, str] = {}
    for split in opened:
        key = split.fingerprints["pool"]
        of_pool[split.pool] = same.setdefault(key, split.pool)
        if of_pool[split.pool] not in corpora:
            corpora[split.pool] = Corpus(split.pool, _passages(split.passages_view.table))
    sets = {
        split.split: QuerySet(
            split.split,
            of_pool[split.pool],
            _queries(split.queries_view.table),
            split.queries_view.judgements().rename_columns(QRELS.names).cast(QRELS),
            split.relevance_threshold,
        )
        for split in opened
    }
    store, why = None, ""
    try:
        store = next((s.images for s in opened if s.images is not None), None)
        if (
            store is not None
            and not images
            and not any_there(store, corpora.values(), sets.values())
        ):
            store, why = (
                None,
                f"none of the first is here: m2kr images {found.name}, or --images DIR",
            )
    except M2KRError as error:
        store, why = None, error.what
    return Benchmark(
        f"{found.name} ({found.folder.name})",
        "built source",
        corpora,
        sets,
        images=store,
        no_images=why,
        untyped=_untyped(opened),
    )


def any_there(store: "ImageStore", corpora: Iterable[Corpus], splits: Iterable[QuerySet]) -> bool:
    """Whether one of the first images that each table names is there, or none is named by a path."""
    tables = [corpus.table for corpus in corpora] + [split.table for split in splits]
    named = [
        path
        for table in tables
        for path in table.column("image").drop_null().slice(0, 50).to_pylist()
        if not path.startswith("embedded:")
    ]
    for path in named:
        with suppress(M2KRError):
            if store.exists(path):
                return True
    return not named


def _passages(table: pa.Table) -> pa.Table:
    columns = [table.column(n) for n in ("passage_id", "passage_content")]
    columns += [_or_null(table, name) for name in ("title", "language", "img_path")]
    return pa.table(columns, schema=CORPUS)


def _queries(table: pa.Table) -> pa.Table:
    columns = [table.column(n) for n in ("question_id", "question", "instruction")]
    return pa.table(
        [*columns, _or_null(table, "img_path"), table.column("answers")], schema=QUERIES
    )


def _or_null(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name in table.column_names and not pa.types.is_null(table.column(name).type):
        return table.column(name)
    return pa.chunked_array([pa.nulls(len(table), _TEXT)])


def _untyped(splits: "Sequence[Split]") -> dict[str, list[str]]:
    return {
        f"{kind} of {split.split}": names
        for split in splits
        for kind, rows in (("queries", split.queries_view), ("passages", split.passages_view))
        if (names := [f.name for f in rows.table.schema if pa.types.is_null(f.type)])
    }
