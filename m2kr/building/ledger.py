"""The ledger: what became of every upstream row. Faults and repairs row by row, the rest as counts.

Every row that a builder reads of an input is used, filtered by a named rule, or dropped as faulty;
`Ledger.close` refuses a table for which that does not add up.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr import atomic
from m2kr.errors import CheckError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

    Rows = int | Sequence[int] | NDArray[np.int64]

Action = Literal["dropped", "repaired", "filtered", "used"]
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
        full: Write used and filtered rows too.
    """

    def __init__(self, table: str, path: Path | None = None, *, full: bool = False) -> None:
        self.table = table
        self.counts: Counter[tuple[Action, str]] = Counter()
        self._flows: dict[str, Counter[str]] = {}
        self._path = path
        self._full = full
        self._parts: list[dict[str, Any]] = []
        self._pending = 0
        self._writer: pq.ParquetWriter | None = None

    def read(self, file: str, n: int = 1) -> None:
        """``n`` more rows of an input were read; each must be used, filtered or dropped."""
        self._flow(file)["read"] += n

    def use(self, file: str, rows: "Rows", *, out: int | None = None) -> None:
        """Rows of an input were used.

        Args:
            file: Name of the input.
            rows: Their numbers, 1-based, or the number of one.
            out: How many rows of the table they gave; as many as they are by default.
        """
        n = _count(rows)
        self._flow(file)["used"] += n
        self._flow(file)["rows"] += n if out is None else out
        if self._full:
            self._add("used", "", file, rows, "")

    def drop(self, rule: str, *, file: str, row: "Rows", detail: str = "") -> None:
        """A faulty upstream row was left out. ``row`` is 1-based, a line or record number."""
        self.counts["dropped", rule] += _count(row)
        self._flow(file)["dropped"] += _count(row)
        self._add("dropped", rule, file, row, detail)

    def repair(self, rule: str, *, file: str, row: "Rows", detail: str = "") -> None:
        """An upstream row was used after a repair."""
        self.counts["repaired", rule] += _count(row)
        self._add("repaired", rule, file, row, detail)

    def filter(self, rule: str, n: int = 1, *, file: str = "", row: "Rows | None" = None) -> None:
        """Sound upstream rows were left out because the benchmark does not take them.

        Args:
            rule: Why.
            n: How many, if ``row`` does not tell.
            file: Name of the input.
            row: Their numbers, 1-based, for a full ledger.
        """
        n = n if row is None else _count(row)
        self.counts["filtered", rule] += n
        if file:
            self._flow(file)["filtered"] += n
        if self._full and row is not None:
            self._add("filtered", rule, file, row, "")

    def _flow(self, file: str) -> Counter[str]:
        return self._flows.setdefault(file, Counter())

    def _add(self, action: Action, rule: str, file: str, rows: "Rows", detail: str) -> None:
        numbers = [rows] if isinstance(rows, int) else rows
        facts = {"table": self.table, "action": action, "rule": rule, "file": file}
        self._parts.append({**facts, "row": numbers, "detail": detail})
        self._pending += len(numbers)
        if self._pending >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._path and self._parts:
            if self._writer is None:
                self._writer = pq.ParquetWriter(_aside(self._path), ledger_schema())
            columns = {
                name: [part[name] for part in self._parts for _ in part["row"]]
                for name in ("table", "action", "rule", "file", "detail")
            }
            columns["row"] = [int(row) for part in self._parts for row in part["row"]]
            self._writer.write_table(pa.Table.from_pydict(columns, schema=ledger_schema()))
        self._parts.clear()
        self._pending = 0

    def close(self, *, whole: bool = True) -> dict[str, Any]:
        """Completes the file; the counts as ``{"ledger": {action: {rule: n}}, "inputs": {file: flow}}``.

        Args:
            whole: The inputs were read to their ends, so that what was read must add up.

        Raises:
            CheckError: rows of an input are unaccounted for: a defect of the builder.
        """
        self._flush()
        if self._writer and self._path:
            self._writer.close()
            atomic.replace(_aside(self._path), self._path)
        totals: dict[str, dict[str, int]] = {}
        for (action, rule), n in sorted(self.counts.items()):
            totals.setdefault(action, {})[rule] = n
        flows = {file: dict(flow) for file, flow in sorted(self._flows.items()) if flow["read"]}
        for file, flow in flows.items():
            told = sum(flow.get(name, 0) for name in ("used", "filtered", "dropped"))
            if whole and told != flow["read"]:
                raise CheckError(
                    f"{flow['read']:,} rows were read, but {told:,} are accounted for",
                    where=f"{self.table}, input {file}",
                    expected="every row used, filtered or dropped",
                    fix="report this as a defect of the source's builder",
                )
        return {"ledger": totals, "inputs": flows}


def merge_ledgers(parts: list[Path], path: Path) -> None:
    """Writes one ledger file from the parts of several tables, in the order given."""
    import pyarrow.parquet as pq

    with (
        atomic.writing(path, alone=True) as aside,
        pq.ParquetWriter(aside, ledger_schema()) as writer,
    ):
        for part in parts:
            if part.exists():
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)


def _count(rows: "Rows") -> int:
    return 1 if isinstance(rows, int) else len(rows)


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
