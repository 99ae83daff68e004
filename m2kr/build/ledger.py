"""The ledger: one row per upstream row that was dropped or repaired, and counts of the rest."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m2kr import atomic

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Action = Literal["dropped", "repaired", "filtered"]
_FLUSH_ROWS = 50_000


def ledger_schema() -> "pa.Schema":
    """Columns of a ledger file: table, action, rule, file, row (1-based), detail."""
    import pyarrow as pa

    names = ("table", "action", "rule", "file")
    return pa.schema(
        [*((name, pa.string()) for name in names), ("row", pa.int64()), ("detail", pa.string())]
    )


class Ledger:
    """Collects what happened to the upstream rows of one table; memory-bounded.

    Args:
        table: The table being built, such as ``OKVQA_data/test``.
        path: Parquet file to write; None keeps counts alone.
    """

    def __init__(self, table: str, path: Path | None = None) -> None:
        self.table = table
        self.counts: Counter[tuple[Action, str]] = Counter()
        self._path = path
        self._rows: list[dict[str, object]] = []
        self._writer: pq.ParquetWriter | None = None

    def drop(self, rule: str, *, file: str, row: int, detail: str = "") -> None:
        """A faulty upstream row was left out. ``row`` is 1-based, a line or record number."""
        self._add("dropped", rule, file, row, detail)

    def repair(self, rule: str, *, file: str, row: int, detail: str = "") -> None:
        """An upstream row was used after a repair."""
        self._add("repaired", rule, file, row, detail)

    def filter(self, rule: str, n: int = 1) -> None:
        """``n`` sound upstream rows were left out because the benchmark does not take them."""
        self.counts["filtered", rule] += n

    def _add(self, action: Action, rule: str, file: str, row: int, detail: str) -> None:
        self.counts[action, rule] += 1
        self._rows.append(
            {
                "table": self.table,
                "action": action,
                "rule": rule,
                "file": file,
                "row": row,
                "detail": detail,
            }
        )
        if len(self._rows) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._path and self._rows:
            if self._writer is None:
                self._writer = pq.ParquetWriter(_aside(self._path), ledger_schema())
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=ledger_schema()))
        self._rows.clear()

    def close(self) -> dict[str, dict[str, int]]:
        """Completes the file and gives the counts as ``{action: {rule: n}}``."""
        self._flush()
        if self._writer and self._path:
            self._writer.close()
            atomic.replace(_aside(self._path), self._path)
        totals: dict[str, dict[str, int]] = {}
        for (action, rule), n in sorted(self.counts.items()):
            totals.setdefault(action, {})[rule] = n
        return totals


def merge(parts: list[Path], path: Path) -> None:
    """Writes one ledger file from the parts of several tables, in the order given."""
    import pyarrow.parquet as pq

    aside = _aside(path)
    with pq.ParquetWriter(aside, ledger_schema()) as writer:
        for part in parts:
            if part.exists():
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)
    atomic.replace(aside, path)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
