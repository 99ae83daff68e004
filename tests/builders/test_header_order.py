"""Upstream's tables with a header: read by the names of their columns, whatever their order."""

import csv
import gzip
import io
from pathlib import Path

import pytest
from servers.faulty_server import FaultyServer
from support import upstream_fixture
from support.golden_tables import EDITIONS, expected_table, golden, ledger_of, make, rows_of
from support.upstream_fixture import gzipped, served_files


def turned(content: bytes, delimiter: str) -> bytes:
    """A table with its columns in reverse and one more before them; odd records stay odd."""
    text = io.StringIO(content.decode("latin-1"), newline="")
    limit = csv.field_size_limit(1 << 24)
    rows = list(csv.reader(text, delimiter=delimiter))
    csv.field_size_limit(limit)
    width, out = len(rows[0]), io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    for number, row in enumerate(rows):
        right = ["of no use" if number else "more", *reversed(row)]
        writer.writerow(right if len(row) == width else row if len(row) < width else [*row, ""])
    return out.getvalue().encode("latin-1")


@pytest.mark.parametrize("edition", ["EVQA", "OKVQA", "okvqa-gs", "WIT"])
def test_columns_in_another_order_give_the_same_rows(
    tmp_path: Path, edition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = served_files()
    for name, body in files.items():
        if name.endswith(".csv"):
            files[name] = turned(body, ",")
        elif name.endswith(".tsv.gz"):
            files[name] = gzipped(turned(gzip.decompress(body), "\t"))
    text = upstream_fixture.text
    monkeypatch.setattr(
        upstream_fixture,
        "text",
        lambda name: turned(text(name), ",") if name.endswith(".csv") else text(name),
    )
    with FaultyServer(files) as server:
        built = make(server, tmp_path, *EDITIONS[edition])
    for kind in ("passages", "queries"):
        for table in golden(edition)[kind]:
            expected, _ = expected_table(edition, kind, table)
            found = rows_of(built, kind, table)
            key = "passage_id" if kind == "passages" else "question_id"
            assert [row[key] for row in found] == [row[key] for row in expected], table
            if kind == "passages":
                assert found == expected
    assert ledger_of(built, "dropped", "repaired") == golden(edition)["ledger"]
