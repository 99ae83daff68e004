"""Checking what is built: hashes, schema, counts, ids, judgements, fingerprints, cards and images.

Every file is hashed before anything in it is read, so that a damaged one is reported and not mapped.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2kr import atomic
from m2kr.building import card
from m2kr.building.hashing import shard_facts
from m2kr.building.images.shard_writer import check_store
from m2kr.building.pool import PoolReader
from m2kr.building.publish import listed_files
from m2kr.data.file_checks import OTHER_BYTES, SourceFiles, hash_file
from m2kr.data.images.shards import holds_shards
from m2kr.data.images.source_roots import SourceRoots
from m2kr.data.lookup import INDEX, open_index
from m2kr.data.manifests import (
    EARLIER,
    EarlierManifestError,
    build_again,
    config_of,
    manifest_text,
    read_manifest,
    read_manifests,
    rebuild_command,
    signed,
    source_of,
)
from m2kr.data.rows import open_shards, read_batches
from m2kr.errors import M2KRError, as_m2kr_error
from m2kr.fingerprint import combine, image_paths_part, pool_part, query_parts
from m2kr.locks import hold
from m2kr.paths import editions, manifest_path
from m2kr.progress import SILENT, Progress, task
from m2kr.schema import ID_COLUMN, MANIFEST_FORMAT, Column, arrow_schema, qrels_columns, table_name
from m2kr.sources import UNKNOWN, normalise

log = logging.getLogger("m2kr.building")
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


def verify_root(
    root: Path,
    source: str | None = None,
    edition: str | None = None,
    progress: Progress = SILENT,
) -> Iterator[tuple[str, Finding]]:
    """Checks all that is built under a data root; nothing that is damaged ends it.

    Args:
        root: The data root.
        source: One source by its canonical name; all if absent.
        edition: One edition; all if absent.
        progress: Told of each table, in rows.

    Yields:
        Edition names and what was checked there.
    """
    stores = set[Path]()

    def named(manifests: Mapping[Path, M2KRError]) -> dict[Path, M2KRError]:
        return {
            path: error
            for path, error in manifests.items()
            if source is None or normalise(source) == normalise(source_of(path))
        }

    for folder in editions(root):
        if edition not in (None, folder.name):
            continue
        for path, error in named(read_manifests(folder)[1]).items():
            if isinstance(error, EarlierManifestError):
                lock = path.with_name(f".{config_of(path)}.lock")
                with suppress(M2KRError, OSError), hold(lock, f"the manifest {path}"):
                    if adopt(path, progress):
                        card.write_cards_of(folder)
        sound, damaged = read_manifests(folder)
        for path, error in named(damaged).items():
            early = isinstance(error, EarlierManifestError)
            said = f"{error.what}; they were checked, and do not fit" if early else error.what
            yield folder.name, Finding(path.name, "manifest", said, build_again(path))
        chosen = [record for name, record in sound.items() if source in (None, name)]
        for record in chosen:
            findings = [
                *verify(folder, record, progress),
                *_images(folder, record, stores, progress),
            ]
            yield from ((folder.name, finding) for finding in findings)
        if chosen and not damaged:
            yield from ((folder.name, each) for each in _cards(folder, list(sound.values())))


def verify(edition: Path, manifest: Manifest, progress: Progress = SILENT) -> list[Finding]:
    """Checks every file and table of one source against its manifest; reads each shard twice.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        progress: Told of each table, in rows.
    """
    fix = rebuild_command(manifest, edition)
    findings = [_manifest(edition, manifest, fix)]
    groups: dict[str, list[str]] = {name: [] for name in manifest["tables"]}
    for name in manifest["files"]:
        table = name.rpartition("/")[0]
        groups.setdefault(table if table in groups else name, []).append(name)
    files, damaged = SourceFiles(edition, manifest), set[str]()
    for name, listed in groups.items():
        facts = manifest["tables"].get(name)
        with task(progress, name, facts["rows"] if facts else None):
            problems = [
                f"{Path(file).name}: {problem if isinstance(problem, str) else problem.what}"
                for file, problem in files.problems(listed, anew=True).items()
            ]
            if facts:
                problems += _unlisted(edition / name, listed)
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        findings.append(Finding(name, "files", problems[0] + more if problems else "", fix))
        damaged |= {name} if problems else set()
    return findings + _tables(edition, manifest, damaged, progress)


def _unlisted(folder: Path, listed: list[str]) -> list[str]:
    known = {Path(file).name for file in listed}
    others = sorted(path.name for path in folder.glob("data-*") if path.name not in known)
    return [f"{other!r}: the manifest does not list this file, delete it" for other in others]


def _tables(
    edition: Path, manifest: Manifest, damaged: set[str], progress: Progress
) -> list[Finding]:
    """Checks what the tables of one source hold, but for those whose files are damaged."""
    findings: list[Finding] = []
    fix = rebuild_command(manifest, edition)
    for name, facts in manifest["tables"].items():
        if name in damaged or _pool_of(manifest, name) in damaged:
            continue
        with task(progress, f"rows of {name}", facts["rows"]):
            try:
                findings += _contents(edition, manifest, name, facts)
            except Exception as error:  # noqa: BLE001 - a check that can't be made has failed
                findings.append(Finding(name, "readable", as_m2kr_error(error).what, fix))
    return findings


def _manifest(edition: Path, manifest: Manifest, fix: str) -> Finding:
    """Whether the manifest's file is byte for byte what was written."""
    path = manifest_path(edition, manifest["source"]["config"])
    problem = ""
    try:
        if path.read_bytes() != manifest_text(read_manifest(path)).encode():
            problem = "its layout was changed, though it says the same"
    except (OSError, M2KRError) as error:
        problem = as_m2kr_error(error).what
    return Finding(path.name, "manifest", problem, fix)


def _pool_of(manifest: Manifest, table: str) -> str | None:
    """The table of passages that a table of queries is checked against."""
    if manifest["tables"][table]["kind"] != "queries":
        return None
    split = manifest["splits"][table.split("/")[1]]
    return table_name(manifest["source"]["config"], "passages", split["pool"])


def _contents(edition: Path, manifest: Manifest, name: str, facts: Manifest) -> list[Finding]:
    kind, table = facts["kind"], open_shards(edition / name)
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
        pool = PoolReader(edition / str(_pool_of(manifest, name)))
        findings.append(Finding(name, "positives", _positives(table, pool)))
    return findings + _fingerprint(edition, manifest, kind, name)


def _ids(folder: Path, column: str) -> str:
    index, reader = open_index(folder, column)
    if len(index) != len(reader):
        return f"{INDEX} has {len(index):,} entries for {len(reader):,} rows"
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


def _cards(edition: Path, records: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether card and Croissant file are those of the manifests; a copied edition may have a new name.

    They follow from the manifests: one that is gone is written anew.
    """
    names = dict.fromkeys([edition.name, *(record["edition"] for record in records)])
    made = [card.cards(name, records) for name in names]
    gone = [name for name in made[0] if not (edition / name).exists()]
    if gone:
        with suppress(M2KRError, OSError):
            card.write_cards_of(edition)
    for name in made[0]:
        problem, fix = "", f"delete {edition / name}: m2kr verify then writes it anew"
        try:
            seen = (edition / name).read_bytes()
            if name in gone:
                problem, fix = "it was gone", "nothing more: it is written anew"
            elif not any(cards[name] == seen for cards in made):
                problem = "it is not what this m2kr makes of the manifests here"
        except OSError as error:
            problem = f"it can't be read: {error.strerror}"
        yield Finding(name, "card", problem, fix)


def _images(
    edition: Path, manifest: Manifest, stores: set[Path], progress: Progress
) -> Iterator[Finding]:
    """Image roots are where the manifest says; archives and stores that m2kr made are what they were.

    Args:
        edition: The edition folder.
        manifest: The source's manifest.
        stores: Image stores that were checked before; gets those that are checked now.
        progress: Told of each store, in images.
    """
    source = manifest["source"]
    recorded = tuple((edition / root).resolve() for root in manifest["image_roots"])
    store = source.get("image_store") or source["name"]
    roots = SourceRoots((), recorded, edition.parent, store)
    fix = f"m2kr images {source['name']} --images PATH --data {edition.parent}"
    if roots.none:
        return
    try:
        there = roots.paths()
    except M2KRError as error:
        yield Finding("images", "images", f"{error.where}: {error.what}", error.fix or fix)
        there = []
    hashed = {each["name"]: each["sha256"] for each in manifest["inputs"]}
    for path in there:
        if path in stores:
            continue
        problem = ""
        try:
            if path in recorded and path.is_file() and path.name in hashed:
                with task(progress, path.name, None, "B"):
                    identity, sha256 = hash_file(path)
                if identity is None or sha256 != hashed[path.name]:
                    problem = f"{path}: {OTHER_BYTES}"
                    fix = f"delete it, then {rebuild_command(manifest, edition)}"
            elif holds_shards(path):
                stores.add(path)
                problem = check_store(path, progress)
                fix = f"move it away with its index; m2kr images {source['name']} fetches anew"
        except (M2KRError, OSError) as error:
            problem = f"{path}: {as_m2kr_error(error).what}"
        yield Finding("images", "images", problem, fix)


def adopt(path: Path, progress: Progress = SILENT) -> dict[str, Any] | None:
    """Signs the manifest of an earlier m2kr if all that it says is so; the source's lock must be held.

    Args:
        path: The manifest.
        progress: Told of each table, in rows.

    Returns:
        The new manifest; None if it is no such manifest, or something is wrong with the files.
    """
    try:
        old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(old, dict) or old.get("format") != EARLIER:
            return None
        edition = path.parent
        for table, facts in old["tables"].items():
            for shard in facts["shards"]:
                if shard_facts(edition / table / shard["file"]) != shard:
                    return None
        files = listed_files(edition, config_of(path), old["tables"])
        if not old["comparable"] and old["route"] != "release":
            old["comparable"] = UNKNOWN  # it was assumed where nothing was known
        record = signed(old | {"format": MANIFEST_FORMAT, "files": files})
        for finding in _tables(edition, record, set(), progress):
            if finding.problem:
                log.warning("%s: %s: %s", path, finding.table, finding.problem)
                return None
        atomic.write_text(path, manifest_text(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: %s", path, as_m2kr_error(error))
        return None
    except M2KRError as error:
        log.warning("%s: %s", path, error)
        return None
    log.warning("%s: made by an earlier m2kr; checked, and signed", path)
    return record
