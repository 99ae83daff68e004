"""A built pool as queries need it: passages by id, and the texts of positives."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr.building.ledger import Ledger
from m2kr.building.spec import UPSTREAM_ROW, Row
from m2kr.data.lookup import INDEX, id_hashes, open_index
from m2kr.errors import CheckError
from m2kr.schema import LOST_IDS


class PoolReader:
    """Looks passages of a built pool up by id.

    Args:
        folder: A complete passage split.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        _, self._reader = open_index(folder, "passage_id")
        entries = np.load(folder / INDEX)
        self._hashes = np.ascontiguousarray(entries["hash"])
        self._rows = np.ascontiguousarray(entries["row"])

    def rows(self, ids: Iterable[str]) -> "np.ndarray":
        """Rows of ids, -1 for those that the pool lacks."""
        wanted = list(ids)
        distinct = list(dict.fromkeys(wanted))
        hashes = id_hashes(pa.array(distinct, pa.string()))
        low = np.searchsorted(self._hashes, hashes, side="left")
        high = np.searchsorted(self._hashes, hashes, side="right")
        found = {
            row_id: self._row(row_id, start, stop)
            for row_id, start, stop in zip(distinct, low.tolist(), high.tolist(), strict=True)
        }
        return np.fromiter((found[row_id] for row_id in wanted), np.int64, len(wanted))

    def _row(self, row_id: str, start: int, stop: int) -> int:
        for row in self._rows[start:stop].tolist():
            if self._reader.value("passage_id", row) == row_id:
                return int(row)
        return -1

    def texts(self, rows: "np.ndarray") -> list[str]:
        """Texts of passages, read from the file: through a map they would stay resident."""
        known = {
            row: self._reader.value("passage_content", row) for row in np.unique(rows).tolist()
        }
        return [known[row] for row in rows.tolist()]

    def fill_contents(
        self, rows: Iterable[Row], table: str, ledger: Ledger
    ) -> list[dict[str, Any]]:
        """Query rows with ``pos_item_contents`` read from the pool; other texts are repaired.

        A positive that the pool lacks counts as never found (`m2kr.schema.LOST_IDS`), and is told, in a
        row that says where it is from (`UPSTREAM_ROW`).

        Raises:
            CheckError: a positive of another row is not in the pool.
        """
        filled = [dict(row) for row in rows]
        wanted = [(row, passage) for row in filled for passage in row.get("pos_item_ids", ())]
        found = self.rows(passage for _, passage in wanted)
        if len(found) and found.min() < 0:
            for at in np.flatnonzero(found < 0).tolist():
                _leave_out(*wanted[at], table, self.name, ledger)
            return self.fill_contents(filled, table, ledger)
        contents = iter(self.texts(found))
        for row in filled:
            ids, told = list(row.get("pos_item_ids", ())), row.get("pos_item_contents")
            texts = list(itertools.islice(contents, len(ids)))
            upstream = row.pop(UPSTREAM_ROW, None)
            if told and upstream and told != texts:
                other = [own for own, a, b in zip(ids, told, texts, strict=True) if a != b]
                rule, detail = "a positive's text is not the pool's", ", ".join(other)
                ledger.repair(rule, file=upstream[0], row=upstream[1], detail=detail)
            row["pos_item_ids"], row["pos_item_contents"] = ids, texts
        return filled


def _leave_out(row: dict[str, Any], positive: str, table: str, pool: str, ledger: Ledger) -> None:
    """Puts a positive that the pool lacks among those that count as never found, without its text."""
    if UPSTREAM_ROW not in row:
        raise CheckError(
            f"positive {positive!r} of query {row.get('question_id')!r} is not in the pool",
            where=table,
            expected=f"a passage_id of {pool}",
        )
    file, number = row[UPSTREAM_ROW]
    ledger.repair("positive not in the pool", file=file, row=number, detail=positive)
    ids, texts = list(row["pos_item_ids"]), list(row.get("pos_item_contents") or ())
    at = ids.index(positive)
    row[LOST_IDS.name] = [*row.get(LOST_IDS.name, ()), positive]
    row["pos_item_ids"] = ids[:at] + ids[at + 1 :]
    row["pos_item_contents"] = texts[:at] + texts[at + 1 :]
