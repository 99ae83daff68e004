"""The manifest: everything a reader must know of a built source, in one JSON file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2kr._version import __version__
from m2kr.building.parts import Stats
from m2kr.fingerprint import combine
from m2kr.instructions import TemplateList
from m2kr.schema import MANIFEST_FORMAT, columns, table_name
from m2kr.sources import UNKNOWN, Rule, Source, comparable_notes


def make_manifest(
    source: Source,
    *,
    edition: str,
    key: str,
    route: str,
    limit: int | None,
    options: Mapping[str, str],
    seed: int,
    inputs: Sequence[Mapping[str, Any]],
    image_roots: Sequence[str],
    pools: Mapping[str, Stats],
    queries: Mapping[str, Stats],
    variant: str | None = None,
    templates: TemplateList | None = None,
    rules: Sequence[Rule] = (),
    parts: Mapping[str, Stats] | None = None,
) -> dict[str, Any]:
    """The manifest of a complete staging folder. It holds no time and no absolute build path."""
    import pyarrow as pa

    tables: dict[str, Any] = {}
    for pool, stats in pools.items():
        tables[table_name(source.config, "passages", pool)] = _table("passages", stats)
    for split, stats in queries.items():
        tables[table_name(source.config, "queries", split)] = _table("queries", stats)
        tables[table_name(source.config, "qrels", split)] = _table("qrels", stats["qrels"])
    fingerprints = {
        split: _fingerprints(stats, pools[source.pools[split]]) for split, stats in queries.items()
    }
    splits = {
        split: {
            "pool": source.pools[split],
            "queries": stats["rows"],
            "passages": pools[source.pools[split]]["rows"],
            **stats["totals"],
        }
        for split, stats in queries.items()
    }
    partial = limit is not None
    return {
        "format": MANIFEST_FORMAT,
        "source": describe_source(source),
        "edition": edition,
        "route": route,
        "partial": partial,
        "limit": limit,
        "options": dict(options),
        "rules": [dataclasses.asdict(rule) for rule in rules],
        "seed": seed,
        "key": key,
        "versions": {"m2kr": __version__, "pyarrow": pa.__version__},
        "inputs": list(inputs),
        "image_roots": list(image_roots),
        "instructions": _instructions(templates) if route == "sources" else None,
        **({"parts": {name: _flows(stats) for name, stats in parts.items()}} if parts else {}),
        "tables": tables,
        "splits": splits,
        "fingerprints": fingerprints,
        "groups": list(source.groups),
        "headline": source.headline,
        "unjudged": source.unjudged,
        "comparable": comparable_notes(
            [comparable(source, route, variant), "a partial build (--limit)" if partial else ""]
        ),
        "count_warnings": [] if partial else count_warnings(source, splits, pools, variant),
    }


def comparable(source: Source, route: str, variant: str | None = None) -> str:
    """Why scores on a build do not compare with M2KR's published ones; empty where it is shown that they do.

    The release shows it, and so may an aligned build, which is `m2kr.sources.UNKNOWN` until it is
    there and equal to the release.
    """
    if source.comparable != UNKNOWN:
        return source.comparable
    if route == "release" and source.released:
        return ""
    if route == "sources" and source.released:
        if variant:
            return source.variants[variant].comparable
        return "a rebuild from upstream files that is not aligned with the release"
    return UNKNOWN


def _instructions(templates: TemplateList | None) -> dict[str, Any] | None:
    """Which list the rows' instructions were drawn from, and how well it is known."""
    if templates is None:
        return None
    return {
        "list": templates.name,
        "origin": templates.origin,
        "confidence": templates.confidence,
        "templates": list(templates.templates),
    }


def _table(kind: str, stats: Stats) -> dict[str, Any]:
    return {"kind": kind, "rows": stats["rows"], "shards": stats["shards"]} | _flows(stats)


def _flows(stats: Stats) -> dict[str, Any]:
    """Rows of a table or part, and what became of the upstream rows that it read."""
    told = {name: stats[name] for name in ("ledger", "inputs") if stats.get(name)}
    return {"rows": stats["rows"]} | told


def _fingerprints(queries: Stats, pool: Stats) -> dict[str, str]:
    parts = {
        "queries": queries["queries"],
        "judgements": queries["judgements"],
        "pool": pool["pool"],
    }
    return parts | {"eval": combine(**parts), "image_paths": queries["image_paths"]}


def count_warnings(
    source: Source,
    splits: Mapping[str, Mapping[str, Any]],
    pools: Mapping[str, Stats],
    variant: str | None = None,
) -> list[str]:
    """Counts that differ from the published ones, as sentences."""
    published = source.variants[variant].expected if variant else source.expected
    seen = {s: int(f["queries"]) for s, f in splits.items()} | {
        p: int(stats["rows"]) for p, stats in pools.items()
    }
    return [
        f"{name}: {seen[name]:,} rows built, {expected:,} expected"
        for name, expected in published.items()
        if seen.get(name) != expected and name in seen
    ]


def describe_source(source: Source) -> dict[str, Any]:
    """A source's spec as JSON, with every column documented."""
    facts = dataclasses.asdict(source)
    facts["columns"] = {
        "queries": [dataclasses.asdict(c) for c in columns("queries", source.query_columns)],
        "passages": [dataclasses.asdict(c) for c in columns("passages", source.passage_columns)],
    }
    del facts["query_columns"], facts["passage_columns"]
    return facts


def decisive(described: Mapping[str, Any]) -> dict[str, Any]:
    """What of a described source shapes its tables, beside its version."""
    columns = {
        kind: [[column[name] for name in ("name", "type", "nullable")] for column in listed]
        for kind, listed in described["columns"].items()
    }
    return {name: described[name] for name in ("name", "config", "pools")} | {"columns": columns}


def relative(path: Path, folder: Path) -> str:
    """A path as written in a manifest: below the data root it is relative to the edition folder."""
    if path.is_relative_to(folder.parent):
        return Path("..", path.relative_to(folder.parent)).as_posix()
    return str(path)
