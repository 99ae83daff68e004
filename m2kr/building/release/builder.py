"""The release route: the authors' normalised tables, re-written into our layout."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.building import registry
from m2kr.building.fetch import hub
from m2kr.building.fetch.folder import sha256_file
from m2kr.building.release.rows import lose_positives, normalised_passages, normalised_queries
from m2kr.building.release.tables import ReleaseTable, check_tables, find_table
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.building.templates import store_templates
from m2kr.errors import UsageError
from m2kr.progress import Progress
from m2kr.schema import LOST_IDS, SUFFIX, TableKind
from m2kr.sources import Source, comparable_notes

if TYPE_CHECKING:
    import pyarrow as pa


REPO = "BByrneLab/multi_task_multi_modal_knowledge_retrieval_benchmark_M2KR"
REVISION = "5d8cf441601d964ef1e7eb2c191d81f20323f6b0"
# Raised when the same files give other rows; the version of a source is its other route's.
VERSION = 3
LICENCE = "MIT (as tagged by the authors); the sources' own terms stay"
# Bytes of all splits of a config; of the others it is known that they have fewer than _MOST.
_SIZES = {
    "WIT_passages": 8_420_000_000,
    "WIT_data": 2_500_000_000,
    "Infoseek_data": 3_490_000_000,
    "MSMARCO_passages": 1_950_000_000,
}
_MOST = 140_000_000
INSTEAD = (
    "use the open copy aimagelab/ReT-M2KR (m2kr import NAME --from ret-m2kr), or a folder of the "
    "same Parquet files: --from DIR"
)


@dataclass
class ReleaseBuilder(Builder):
    """A builder that reads a source from the authors' release.

    Args:
        name: Source name.
        folder: A local copy of the release's files; the hub if absent.
        revision: Commit of the hub's data set.
        repair: Drop passages that occur twice; without, the pool stays the official one.
        any_counts: Accept other row counts than the pinned revision's.

    Attributes:
        loses: A right passage is not in its pool, so that queries have a column for such; known from
            `prepare` on.

    Raises:
        UsageError: the release does not hold the source.
    """

    name: str
    folder: Path | None = None
    revision: str = REVISION
    repair: bool = True
    any_counts: bool = False
    inputs: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, ReleaseTable] = field(default_factory=dict)
    loses: bool = False
    _root: Path | None = None

    route = "release"

    def __post_init__(self) -> None:
        self._own = registry.builder(self.name).source
        if not self._own.released:
            raise UsageError(
                f"the authors' release does not hold {self.name}", fix=f"m2kr build {self.name}"
            )
        self.source = self._source()
        self.recorded_options = {
            "revision": "local files" if self.folder else self.revision,
            "repair": "yes" if self.repair else "no",
            "counts": "any" if self.any_counts else "checked",
        }
        if self.any_counts:
            self.note = "row counts were not checked against the pinned release"

    def _source(self) -> Source:
        """The source's spec; the choices of its other route don't apply.

        A query without a right passage counts as missed, and so does a right passage that the pool
        lacks: published means are over all queries.
        """
        spec = replace(self._own, options=(), variants={}, rules=())
        extra = (*spec.query_columns, LOST_IDS) if self.loses else spec.query_columns
        return replace(spec, version=VERSION, unjudged="miss", query_columns=extra)

    def patterns(self, splits: Sequence[str] | None = None) -> list[str]:
        """Globs of the files that some query splits (all by default) need."""
        return [f"{name}-*.parquet" for name in self._table_names(splits or self._own.pools)]

    def _table_names(self, splits: Iterable[str]) -> list[str]:
        queries = [self._table_name("queries", split) for split in splits]
        pools = [self._table_name("passages", self._own.pools[split]) for split in splits]
        return [*queries, *dict.fromkeys(pools)]

    def _table_name(self, kind: TableKind, split: str) -> str:
        return f"{self._own.config}_{SUFFIX[kind]}/{split}"

    def prepare(
        self,
        root: Path,
        splits: Sequence[str],
        *,
        offline: bool,
        jobs: int,
        progress: Progress,  # noqa: ARG002 - the hub's client draws its own
    ) -> None:
        """Fetches the files of some splits, and checks them before anything is written.

        Raises:
            CheckError: a file is of a revision before June 2024, or not the pinned one.
        """
        self._root = root
        base = self.folder or hub.snapshot(
            REPO,
            self.revision,
            self.patterns(splits),
            offline=offline,
            jobs=jobs,
            instead=INSTEAD,
        )
        self.tables = {name: find_table(base, name) for name in self._table_names(splits)}
        check_tables(self._own, self.tables.values(), any_counts=self.any_counts)
        self.loses = any(
            lose_positives(
                self.tables[self._table_name("queries", split)],
                self.tables[self._table_name("passages", self._own.pools[split])],
            )
            for split in splits
        )
        self.source = self._source()
        self.inputs = [
            self._input(base, path) for table in self.tables.values() for path in table.files
        ]

    def _input(self, base: Path, path: Path) -> dict[str, Any]:
        inner, sha256, url = path.relative_to(base).as_posix(), sha256_file(path), None
        if self.folder is None:
            hub.check_blob(path, sha256)
            url = f"hf://datasets/{REPO}@{base.name}/{inner}"  # the commit, if a branch was named
        facts = {"name": f"release/{inner}", "url": url, "size": path.stat().st_size}
        return {**facts, "sha256": sha256, "licence": LICENCE}

    def same_pools(self, options: Mapping[str, str]) -> list[list[str]]:  # noqa: ARG002
        """Pools whose files are the same."""
        hashes = {entry["name"].removeprefix("release/"): entry["sha256"] for entry in self.inputs}
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, table in self.tables.items():
            config, split = name.split("/")
            if config.endswith(SUFFIX["passages"]):
                mine = tuple(hashes[f"{config}/{path.name}"] for path in table.files)
                groups.setdefault(mine, []).append(split)
        return list(groups.values())

    def passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """The pool of one split."""
        table = self.tables[self._table_name("passages", pool)]
        return normalised_passages(ctx, table, repair=self.repair)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of one split."""
        return normalised_queries(ctx, self.tables[self._table_name("queries", split)])

    def amend(self, record: dict[str, Any], staging: Path) -> dict[str, Any]:
        """The manifest with the instructions that were seen; these go to the registry as well."""
        from m2kr.data.rows import read_batches

        seen = Counter[str]()
        for split in record["splits"]:
            for batch in read_batches(staging / self._table_name("queries", split)):
                for pair in batch.column("instruction").value_counts().to_pylist():
                    seen[pair["values"]] += pair["counts"]
        ranked = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))
        record["instructions"] = {"distinct": len(seen), "most": [list(p) for p in ranked[:50]]}
        if self._root is not None and not record["partial"] and not self.any_counts:
            origin = f"the release, {self.recorded_options['revision'][:12]}"
            store_templates(self.name, seen, origin, self._root)
        if not self.any_counts:
            # The files' rows were counted before anything was dropped; what was is in the ledger.
            record["count_warnings"] = []
        record["comparable"] = comparable_notes([record["comparable"], self.note])
        return record


def size_of(config: str) -> str:
    """Roughly how large the files of a config such as ``WIT_data`` are, all splits together."""
    size = f"{_SIZES[config] / 1e9:.1f} GB" if config in _SIZES else f"under {_MOST // 10**6} MB"
    return f"{config}: {size} in all splits"


def about_bytes(config: str, expected: Mapping[str, int], split: str) -> int:
    """Roughly how large, or at most, one split's files of a config are: its share of all rows.

    Args:
        config: Such as ``WIT_data``.
        expected: Rows by split and pool, as `Source.expected`.
        split: A split of ``_data``, or a pool of ``_passages``.
    """
    pools = config.endswith(f"_{SUFFIX['passages']}")
    rows = sum(n for name, n in expected.items() if name.endswith("_passages") == pools)
    return round(_SIZES.get(config, _MOST) * expected[split] / rows)
