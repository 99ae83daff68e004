"""Checking a built source from its files up: hashes, schema, counts, ids, judgements, fingerprints.

Every file is hashed before anything in it is read, so that a damaged one is reported and not mapped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr.building.table import PoolReader, open_shards, read_batches
from m2kr.data.file_checks import OTHER_BYTES, Identity, Stamps, hashes, identity_at, size_problem
from m2kr.data.lookup import FILE, open_index
from m2kr.data.manifests import manifest_text, read_manifest, rebuild_command
from m2kr.errors import M2KRError, from_system, one_line
from m2kr.fingerprint import combine, image_paths_part, pool_part, query_parts
from m2kr.paths import manifest_path
from m2kr.progress import SILENT, Progress
from m2kr.schema import ID_COLUMN, SUFFIX, Column, arrow_schema, qrels_columns

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        table: What it was checked on: a table, another file of the edition, or images.
        check: ``manifest``, ``files``, ``schema``, ``rows``, ``ids``, ``positives``, ``fingerprint``,
            ``readable``, ``card`` or ``images``.
        problem: What is wrong, or an empty string.
        fix: What to do about it.
    """

    table: str
    check: str
    problem: str = ""
    fix: str = ""


def verify(edition: Path, manifest: Manifest, progress: Progress = SILENT) -> list[Finding]:
    """Checks every file and table of one source against its manifest; reads each shard twice.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        progress: Told of each table, in rows.
    """
    bars, fix = progress, rebuild_command(manifest, edition)
    config = manifest["source"]["config"]
    stamps = Stamps(edition, config)
    findings = [_manifest(edition, manifest, fix)]
    groups: dict[str, list[str]] = {name: [] for name in manifest["tables"]}
    for name in manifest["files"]:
        table = name.rpartition("/")[0]
        groups.setdefault(table if table in groups else name, []).append(name)
    damaged: set[str] = set()
    for name, files in groups.items():
        facts = manifest["tables"].get(name)
        bars.start(name, facts["rows"] if facts else None, "rows")
        finding = _files(edition, manifest, name, files, stamps, fix)
        findings.append(finding)
        damaged |= {name} if finding.problem else set()
        bars.done(name)
    stamps.save(manifest["files"])
    return findings + verify_tables(edition, manifest, damaged, bars)


def verify_tables(
    edition: Path, manifest: Manifest, damaged: set[str], progress: Progress
) -> list[Finding]:
    """Checks what the tables of one source hold.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        damaged: Tables whose files are not what they were; they are not read.
        progress: Told of each table, in rows.
    """
    findings: list[Finding] = []
    fix = rebuild_command(manifest, edition)
    for name, facts in manifest["tables"].items():
        if name in damaged or _pool_of(manifest, name) in damaged:
            continue
        progress.start(f"rows of {name}", facts["rows"], "rows")
        try:
            findings += _contents(edition, manifest, name, facts)
        except Exception as error:  # noqa: BLE001 - a check that can't be made has failed
            ours = from_system(error)
            findings.append(Finding(name, "readable", ours.what if ours else one_line(error), fix))
        progress.done(f"rows of {name}")
    return findings


def _manifest(edition: Path, manifest: Manifest, fix: str) -> Finding:
    """Whether the manifest's file is byte for byte what was written."""
    path = manifest_path(edition, manifest["source"]["config"])
    problem = ""
    try:
        if path.read_bytes() != manifest_text(read_manifest(path)).encode():
            problem = "its layout was changed, though it says the same"
    except (OSError, M2KRError) as error:
        problem = error.what if isinstance(error, M2KRError) else str(error)
    return Finding(path.name, "manifest", problem, fix)


def _files(
    edition: Path, manifest: Manifest, name: str, files: list[str], stamps: Stamps, fix: str
) -> Finding:
    """The files of one table, or another file, by size and hash; and that there are no others."""
    problems: list[str] = []
    whole: list[str] = []
    for file in files:
        path = edition / file
        try:
            problem = size_problem(path, identity_at(path), manifest["files"][file]["size"])
        except M2KRError as error:
            problem = error.what
        if problem:
            problems.append(f"{path.name}: {problem}")
        else:
            whole.append(file)
    for file, (identity, sha256) in _hashes(edition, whole, problems).items():
        if identity is None or sha256 != manifest["files"][file]["sha256"]:
            problems.append(f"{Path(file).name}: {OTHER_BYTES}")
        else:
            stamps.add(file, identity, sha256)
    if name in manifest["tables"]:
        known = {Path(file).name for file in files}
        others = sorted(p.name for p in (edition / name).glob("data-*") if p.name not in known)
        problems += [
            f"{other!r}: the manifest does not list this file, delete it" for other in others
        ]
    more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
    return Finding(name, "files", problems[0] + more if problems else "", fix)


def _hashes(
    edition: Path, files: list[str], problems: list[str]
) -> dict[str, tuple[Identity | None, str]]:
    """`hashes` of those files that can be read; the others are problems."""
    try:
        return hashes(edition, files)
    except M2KRError as error:
        if len(files) > 1:
            parts = (_hashes(edition, [file], problems) for file in files)
            return {file: found for part in parts for file, found in part.items()}
        problems.append(f"{Path(files[0]).name}: {error.what}")
        return {}


def _pool_of(manifest: Manifest, table: str) -> str | None:
    """The table of passages that a table of queries is checked against."""
    folder, split = table.split("/")
    config = manifest["source"]["config"]
    if folder != f"{config}_{SUFFIX['queries']}":
        return None
    return f"{config}_{SUFFIX['passages']}/{manifest['splits'][split]['pool']}"


def _contents(edition: Path, manifest: Manifest, name: str, facts: Manifest) -> list[Finding]:
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


def _fingerprint(edition: Path, manifest: Manifest, kind: str, name: str) -> list[Finding]:
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
        paths = image_paths_part(read_batches(edition / name))
        if not problem and recorded[split].get("image_paths", paths) != paths:
            problem = f"image_paths is {paths}, expected {recorded[split]['image_paths']}"
    else:
        return []
    return [Finding(name, "fingerprint", problem)]
