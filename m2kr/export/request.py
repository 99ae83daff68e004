"""What an export is asked to write, and how rows are streamed into its files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from m2kr import atomic
from m2kr.data.load import Split, load
from m2kr.errors import CheckError, UsageError
from m2kr.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from m2kr.retrieval.run import Run

_ROWS = 2_000  # in memory at a time


@dataclass(frozen=True)
class ExportRequest:
    """What to write.

    Attributes:
        splits: Splits of one source.
        folder: An empty folder.
        run: A run of the split, if a result is exported.
        progress: Told of the rows.
    """

    splits: Sequence[Split]
    folder: Path
    run: "Run | None" = None
    progress: Progress = SILENT

    @property
    def pools(self) -> dict[str, Split]:
        """By name of a pool a split that is searched in it."""
        return {split.pool: split for split in reversed(self.splits)}

    def batches(self, rows: "Dataset") -> Iterator["pa.RecordBatch"]:
        """The rows of a table, some at a time."""
        for batch in streamed(rows):
            yield batch
            self.progress.advance("export", len(batch))

    @contextmanager
    def file(self, name: str) -> Iterator[BinaryIO]:
        """A new file below the folder, on the disk when it is closed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.create(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def write_parquet(
        self,
        name: str,
        schema: "pa.Schema",
        batches: "Iterator[pa.RecordBatch]",
        *,
        codec: str = "zstd",
    ) -> None:
        """Writes batches to a Parquet file."""
        import pyarrow.parquet as pq

        with (
            self.file(name) as file,
            pq.ParquetWriter(file, schema, compression=codec, write_page_checksum=True) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)


def streamed(rows: "Dataset") -> Iterator["pa.RecordBatch"]:
    """The rows of a table, read and dropped again: a mapped pool would stay resident."""
    import pyarrow as pa

    if not rows.cache_files:  # it is in memory
        yield from rows.data.table.to_batches(max_chunksize=_ROWS)
    for part in rows.cache_files:
        with pa.OSFile(part["filename"]) as file:
            for batch in pa.ipc.open_stream(file):
                yield from (batch.slice(start, _ROWS) for start in range(0, len(batch), _ROWS))


def require_current(split: Split) -> None:
    """Refuses a split that was built anew, or written to, since it was opened: files are read again.

    Raises:
        CheckError: it was; the command has to be run again.
    """
    split.require_unharmed()
    if not split.passages.cache_files:
        return
    now = load(split.source, split.split, edition=split.edition, data=split.folder.parent)
    if now.fingerprints != split.fingerprints:
        raise CheckError(
            "it was built anew while it was read", where=split.label, fix="run the command again"
        )


def whole_grades(split: Split, what: str) -> "pa.Table":
    """The judgements of a split with grades as int64, for a format that has no others.

    Raises:
        UsageError: a grade is no whole number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    judged = split.queries_view.judgements()
    grades = judged.column("relevance")
    odd = judged.filter(pc.not_equal(grades, pc.floor(grades)))
    if len(odd):
        query, passage, grade = (column[0].as_py() for column in odd.columns)
        raise UsageError(
            f"{len(odd):,} grades are no whole numbers, such as {grade} of {passage!r} for {query!r}",
            where=split.label,
            expected=f"whole grades, as {what} has no others",
            fix="--format parquet keeps them",
        )
    return judged.set_column(2, "relevance", grades.cast(pa.int64()))


def unjudged_note(split: Split, judged: "pa.Table", what: str) -> list[str]:
    """A word on queries that other tools leave out."""
    lacking = len(split.queries_view) - len(judged.column("question_id").unique())
    if not lacking:
        return []
    return [f"{split.split}: {lacking:,} queries have no right passage; {what} leaves them out"]
