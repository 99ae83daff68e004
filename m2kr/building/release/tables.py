"""The release's Parquet files: found, whole, of the right revision; all by a look at their footers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.parquet import ParquetReader
from m2kr.schema import SUFFIX
from m2kr.sources import Source

_SHARD = re.compile(r"(\w+)-(\d{5})-of-(\d{5})\.parquet")
_NEEDED = {
    "data": ("question_id", "pos_item_ids"),
    "passages": ("passage_id", "passage_content"),
}
_PINNED = "the release's files as of 5 June 2024 or later (revision 5d8cf441)"
_RENEW = "leave --revision and --from out to fetch them, or copy them anew"


@dataclass(frozen=True)
class ReleaseTable:
    """One split of the release.

    Attributes:
        name: Such as ``OKVQA_data/test``.
        files: Its Parquet shards, in order.
        rows: Rows in all.
        schema: Arrow schema of the first shard.
    """

    name: str
    files: tuple[Path, ...]
    rows: int
    schema: pa.Schema

    @property
    def kind(self) -> str:
        """``data`` or ``passages``."""
        return self.name.split("/")[0].rpartition("_")[2]


def find_table(base: Path, name: str) -> ReleaseTable:
    """The shards of a split in a folder of the release, every one of them.

    Raises:
        MissingError: there are none, or some are missing.
        InputError: one can't be read, or is unreasonably large inside.
    """
    config, split = name.split("/")
    shards: dict[int, Path] = {}
    total = 0
    for path in sorted((base / config).glob(f"{split}-*.parquet")):
        shard = _SHARD.fullmatch(path.name)
        if shard and shard[1] == split:
            shards[int(shard[2])] = path
            total = max(total, int(shard[3]))
    lost = [n for n in range(total) if n not in shards]
    if not shards or lost:
        example = f"{split}-{lost[0]:05d}-of-{total:05d}.parquet" if lost else f"{split}-*.parquet"
        raise MissingError(
            f"{len(lost)} of {total} shards are missing" if lost else "there are no such files",
            where=str(base / config / example),
            expected="every Parquet shard of the split, named as in the release",
            fix="copy the release whole, or leave --from and --revision out to fetch it",
        )
    files = tuple(shards[n] for n in range(total))
    metas = [_footer(path) for path in files]
    first = metas[0][1]
    for path, (_, schema) in zip(files, metas, strict=True):
        if schema.names != first.names:
            raise InputError(
                f"its columns are {', '.join(schema.names)}",
                where=str(path),
                expected=f"those of {files[0].name}: {', '.join(first.names)}",
            )
    return ReleaseTable(name, files, sum(rows for rows, _ in metas), first)


def _footer(path: Path) -> tuple[int, pa.Schema]:
    """Rows and schema of a Parquet file."""
    try:
        with ParquetReader(path) as file:
            return file.rows, file.schema
    except InputError as error:
        raise unreadable(path, str(path), error) from error


def unreadable(path: Path, where: str, error: Exception) -> InputError:
    """The error for a file of the release that is damaged."""
    return InputError(
        f"the file can't be read: {getattr(error, 'what', error)}"[:300],
        where=where,
        expected="a whole Parquet file of the release",
        fix=f"delete {path.resolve()} and fetch it again",
    )


def check_tables(source: Source, tables: Iterable[ReleaseTable], *, any_counts: bool) -> None:
    """Refuses files that are not the pinned release.

    Raises:
        CheckError: no stored instructions (before June 2024), a needed column is missing, or a row
            count differs.
    """
    wrong = []
    for table in tables:
        first = str(table.files[0])
        lacking = [c for c in _NEEDED[table.kind] if c not in table.schema.names]
        if lacking:
            raise CheckError(
                f"there is no column {lacking[0]!r}", where=first, expected=_PINNED, fix=_RENEW
            )
        if table.kind == SUFFIX["queries"] and "instruction" not in table.schema.names:
            raise CheckError(
                "there is no column 'instruction': these files are older than June 2024, when "
                "instructions were drawn anew at every evaluation",
                where=first,
                expected=_PINNED,
                fix=_RENEW,
            )
        expected = source.expected.get(table.name.split("/")[1])
        if expected is not None and table.rows != expected:
            wrong.append(f"{table.name}: {table.rows:,} rows, expected {expected:,}")
    if wrong and not any_counts:
        old = "; OVEN's splits were wrong before 3 June 2024" if source.name == "oven" else ""
        raise CheckError(
            "row counts are not the pinned release's" + old + "".join(f"\n    {w}" for w in wrong),
            where=source.config,
            expected=_PINNED,
            fix="--any-counts, if you mean to; the build is then marked as not comparable",
        )
