"""Checking a built source from its files up: hashes, schema, counts, ids, judgements, fingerprints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr.build.hashing import shard_facts
from m2kr.build.tables import PoolReader, open_shards, read_batches
from m2kr.data.lookup import FILE, open_index
from m2kr.errors import M2KRError
from m2kr.fingerprint import combine, pool_part, query_parts
from m2kr.progress import Progress, Silent
from m2kr.schema import ID_COLUMN, SUFFIX, Column, arrow_schema, qrels_columns


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        table: What it was checked on.
        check: ``files``, ``schema``, ``rows``, ``ids``, ``positives`` or ``fingerprint``.
        problem: What is wrong, or an empty string.
    """

    table: str
    check: str
    problem: str = ""


def verify(
    edition: Path, manifest: dict[str, Any], progress: Progress | None = None
) -> list[Finding]:
    """Checks every table of one source against its manifest; reads each shard twice.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        progress: Told of each table, in rows.
    """
    bars = progress or Silent()
    findings: list[Finding] = []
    for name, facts in manifest["tables"].items():
        bars.start(name, facts["rows"], "rows")
        found = _files(edition / name, name, facts)
        if not any(f.problem for f in found):
            try:
                found += _contents(edition, manifest, name, facts)
            except (M2KRError, OSError, ValueError, pa.ArrowInvalid) as error:
                found.append(Finding(name, "readable", str(error)))
        bars.done(name)
        findings += found
    return findings


def _files(folder: Path, name: str, facts: dict[str, Any]) -> list[Finding]:
    problem = ""
    for shard in facts["shards"]:
        path = folder / shard["file"]
        if not path.exists():
            problem = f"{shard['file']} is missing"
        elif (seen := shard_facts(path)) != shard:
            problem = f"{shard['file']} has sha256 {seen['sha256']}, expected {shard['sha256']}"
        if problem:
            break
    extra = {p.name for p in folder.glob("*.arrow*")} - {s["file"] for s in facts["shards"]}
    if extra and not problem:
        problem = f"files that the manifest does not list: {', '.join(sorted(extra))}"
    return [Finding(name, "files", problem)]


def _contents(
    edition: Path, manifest: dict[str, Any], name: str, facts: dict[str, Any]
) -> list[Finding]:
    kind, split = facts["kind"], name.split("/")[1]
    table = open_shards(edition / name)
    described = manifest["source"]["columns"]
    own = [Column(**c) for c in described["queries" if kind == "qrels" else kind]]
    expected = arrow_schema(qrels_columns(own) if kind == "qrels" else own)
    same = table.schema.equals(expected)
    schema = "" if same else f"columns are {table.schema.names}, expected {expected.names}"
    count = facts["rows"]
    rows = "" if len(table) == count else f"{len(table):,} rows, expected {count:,}"
    findings = [Finding(name, "schema", schema), Finding(name, "rows", rows)]
    if schema:
        return findings
    if kind in ID_COLUMN:
        findings.append(Finding(name, "ids", _ids(edition / name, ID_COLUMN[kind])))
    if kind == "queries":
        pool = manifest["splits"][split]["pool"]
        reader = PoolReader(edition / f"{manifest['source']['config']}_{SUFFIX['passages']}" / pool)
        findings.append(Finding(name, "positives", _positives(table, reader)))
    return findings + _fingerprint(edition, manifest, kind, name)


def _ids(folder: Path, column: str) -> str:
    index, reader = open_index(folder, column)
    if len(index) != len(reader):
        return f"{FILE} has {len(index):,} entries for {len(reader):,} rows"
    start = 0
    for chunk in (batch.column(column) for batch in read_batches(folder)):
        for offset, found in enumerate(index.rows(chunk.to_pylist())):
            if found != start + offset:
                return f"{chunk[offset].as_py()!r} is at row {start + offset}, found at {found}"
        start += len(chunk)
    return ""


def _positives(table: pa.Table, pool: PoolReader) -> str:
    for batch in table.select(["question_id", "pos_item_ids"]).to_batches():
        queries, positives = (column.to_pylist() for column in batch.columns)
        pairs = [(q, p) for q, each in zip(queries, positives, strict=True) for p in each]
        missing = np.flatnonzero(pool.rows(p for _, p in pairs) < 0)
        if len(missing):
            query, positive = pairs[int(missing[0])]
            return f"positive {positive!r} of query {query!r} is not in {pool.name}"
    return ""


def _fingerprint(edition: Path, manifest: dict[str, Any], kind: str, name: str) -> list[Finding]:
    recorded, split = manifest["fingerprints"], name.split("/")[1]
    if kind == "passages":
        seen = pool_part(read_batches(edition / name))
        wanted = {
            f["pool"] for s, f in recorded.items() if manifest["splits"][s]["pool"] == split
        } or {seen}
        problem = "" if wanted == {seen} else f"pool is {seen}, expected {sorted(wanted)}"
    elif kind == "queries":
        queries, judgements = query_parts(
            read_batches(edition / name), float(manifest.get("relevance_threshold", 1))
        )
        seen = combine(queries, judgements, recorded[split]["pool"])
        expected = recorded[split]["eval"]
        problem = "" if seen == expected else f"eval is {seen}, expected {expected}"
    else:
        return []
    return [Finding(name, "fingerprint", problem)]
