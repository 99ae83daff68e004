"""Expected tables of sources that are built from true-format upstream files, and how to hold a build to them.

The tables (``fixtures/expected``) were written by hand from what is known of the sources and from the
builders' own rules, not from what the code gives. A source is added by a line in `EDITIONS` and one in
`LISTS`; the tests of ``test_sources_one.py`` then run over it.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from servers.faulty_server import FaultyServer
from support.upstream_fixture import LONG, UPSTREAM, Served, place_by_hand

from m2kr.building.build import Built, build
from m2kr.building.manifest import decisive
from m2kr.data.rows import open_shards

EXPECTED = Path(__file__).parents[1] / "fixtures" / "expected"
GOLDEN = Path(__file__).parents[1] / "golden"
# Name of an edition in the expected tables -> source, and the edition asked for.
EDITIONS = {
    "MSMARCO": ("msmarco", None),
    "OKVQA": ("okvqa", None),
    "Infoseek": ("infoseek", None),
    "EVQA": ("evqa", None),
    "KVQA": ("kvqa", None),
    "CC3M": ("cc3m", None),
    "OVEN": ("oven", None),
    "LLaVA": ("llava", None),
    "WIT": ("wit", None),
    "IGLUE": ("iglue", None),
    "msmarco-full": ("msmarco", "msmarco-full"),
    "okvqa-gs": ("okvqa", "okvqa-gs"),
    "judged": ("msmarco", "judged"),
}
SOURCES = tuple(dict.fromkeys(name for name, _ in EDITIONS.values()))
# Source -> the edition that a plain build makes.
FIRST = {name: key for key, (name, edition) in EDITIONS.items() if edition is None}
# Source -> its list of instructions.
LISTS = {
    "msmarco": "msmarco",
    "okvqa": "iq2t",
    "infoseek": "iq2t",
    "evqa": "iq2t",
    "kvqa": "kvqa",
    "cc3m": "caption",
    "oven": "iq2t",
    "llava": "llava",
    "wit": "wit",
    "iglue": "wit",
}
# Edition -> options under which some of its rows are filtered, where otherwise none is.
FILTERING = {
    "MSMARCO": {"test_pool_size": "8"},
    "Infoseek": {"distractors": "3", "test_images": "1"},
    "EVQA": {"shared_passages": "5"},
}
Rows = list[dict[str, Any]]
Ledger = dict[str, dict[str, dict[str, list[int]]]]


def golden(edition: str) -> dict[str, Any]:
    """What is expected of an edition."""
    source, _ = EDITIONS[edition]
    found = json.loads((EXPECTED / f"{source}.json").read_text().replace("{{LONG}}", LONG))
    return found["editions"][edition]  # type: ignore[no-any-return]


def expected_table(edition: str, kind: str, name: str) -> tuple[Rows, Sequence[str]]:
    """Expected rows of a table, and its columns that are sets."""
    spec = golden(edition)[kind][name]
    if "like" in spec:
        other = spec["like"].split()
        rows, sets = expected_table(
            *(edition, kind, *other)[-3:] if len(other) == 1 else (other[0], kind, other[1])
        )
        change = spec.get("change", {})
        assert set(change) <= {row.get("question_id") for row in rows}
        return [row | change.get(row.get("question_id"), {}) for row in rows], sets
    return [spec.get("defaults", {}) | row for row in spec["rows"]], spec.get("sets", [])


def rows_of(built: Built, kind: str, name: str) -> Rows:
    """The rows of a table as built."""
    config = built.manifest["source"]["config"]
    suffix = {"passages": "passages", "queries": "data", "qrels": "qrels"}[kind]
    return open_shards(built.folder / f"{config}_{suffix}" / name).to_pylist()


def ledger_of(built: Built, *actions: str) -> Ledger:
    """Row numbers by table, file and action."""
    path = built.folder / f"{built.manifest['source']['config']}_ledger.parquet"
    found: Ledger = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for entry in pq.read_table(path).to_pylist():
        if entry["action"] in actions:
            found[entry["table"]][entry["file"]][entry["action"]].append(entry["row"])
    return {
        table: {file: {a: sorted(rows) for a, rows in by.items()} for file, by in files.items()}
        for table, files in found.items()
    }


def hold_to_golden(built: Built, edition: str, files: Sequence[Path]) -> None:
    """Fails if what a source builds changed without another version.

    Args:
        built: As built.
        edition: Its name in ``golden/sources.json``.
        files: What it was built of.
    """
    source = built.manifest["source"]
    rows = {
        f"{kind}/{table}": rows_of(built, kind, table)
        for kind, tables in (("queries", source["pools"]), ("passages", source["pools"].values()))
        for table in sorted(set(tables))
    }
    acts = ("task", "groups", "headline", "unjudged", "image_store", "image_names")
    spec = decisive(source) | {name: source[name] for name in acts}
    now = {
        "version": source["version"],
        "rows": _digest(json.dumps(rows, sort_keys=True).encode()),
        "spec": _digest(json.dumps(spec, sort_keys=True).encode()),
        "fixture": _digest(*(file.name.encode() + b"\0" + file.read_bytes() for file in files)),
    }
    path, name = GOLDEN / "sources.json", source["name"]
    goldens = json.loads(path.read_text(encoding="utf-8"))
    then = goldens.get(edition, {})
    changed = [what for what in ("rows", "spec") if now[what] != then.get(what)]
    same = now["version"] == then.get("version") and now["fixture"] == then.get("fixture")
    assert not (changed and same), (
        f"the {' and '.join(changed)} of {edition} changed, so builds that people have differ from "
        f"new ones: raise `version` in the SOURCE of builders/{name}.py (now {now['version']}), say "
        f"so under Numbers in CHANGELOG.md, and run this test once with M2KR_WRITE_GOLDEN=1"
    )
    if os.environ.get("M2KR_WRITE_GOLDEN"):
        path.write_text(json.dumps(goldens | {edition: now}, indent=1) + "\n", encoding="utf-8")
    else:
        assert now == then, (
            f"{edition} has a new version or fixture: run this test once with M2KR_WRITE_GOLDEN=1"
        )


def fixture_files(name: str) -> list[Path]:
    """The files under ``fixtures/upstream`` that a source is built of."""
    shared = {"okvqa": ("wikipedia",), "infoseek": ("wikipedia",), "iglue": ("wit",)}
    folders = (name, *shared.get(name, ()))
    return [file for folder in folders for file in sorted((UPSTREAM / folder).iterdir())]


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an edition that is its product."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def ids(built: Built, kind: str, name: str) -> set[str]:
    """The ids in a table as built."""
    key = {"passages": "passage_id", "queries": "question_id"}[kind]
    return {row[key] for row in rows_of(built, kind, name)}


def make(
    server: FaultyServer,
    root: Path,
    name: str,
    edition: str | None = None,
    *,
    options: Mapping[str, str] | None = None,
    **choices: Any,
) -> Built:
    """Builds one source from the server's files.

    Args:
        server: Has them.
        root: Data root.
        name: Source name.
        edition: Edition to build.
        options: Of the builder; by default those that the source's expected tables are for.
        choices: As for `m2kr.building.build.build`.
    """
    place_by_hand(root)
    if options is None:
        options = golden(edition if edition in EDITIONS else FIRST[name])["options"]
    return build(Served(name, server.url("")), root, edition=edition, options=options, **choices)


def turned(content: bytes) -> bytes:
    """The lines of a file in reverse order."""
    return b"\n".join(reversed(content.rstrip(b"\n").split(b"\n"))) + b"\n"
