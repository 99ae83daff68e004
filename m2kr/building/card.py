"""The dataset card and the Croissant file of an edition, made from its manifests."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from m2kr import atomic
from m2kr.building.croissant import croissant
from m2kr.data.manifests import read_manifests
from m2kr.locks import hold
from m2kr.schema import SUFFIX
from m2kr.sources import verdict


def write_cards_of(edition: Path) -> None:
    """Takes the edition's lock and brings its card up to date."""
    with hold(edition / ".edition.lock", f"the card of {edition}"):
        write_cards(edition)


def write_cards(edition: Path) -> None:
    """Writes ``README.md`` and ``croissant.json``, if their text changes; a lock must be held."""
    for name, data in cards(edition.name, list(read_manifests(edition)[0].values())).items():
        path = edition / name
        if not path.is_file() or path.read_bytes() != data:
            atomic.write_bytes(path, data, alone=True)


def cards(edition: str, records: list[dict[str, Any]]) -> dict[str, bytes]:
    """The bytes of an edition's ``README.md`` and ``croissant.json``."""
    texts = {
        "README.md": readme(edition, records),
        "croissant.json": json.dumps(croissant(edition, records), indent=1) + "\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def readme(edition: str, records: list[dict[str, Any]]) -> str:
    """The dataset card: YAML ``configs`` for ``datasets.load_dataset`` and a text for people."""
    configs = [
        {
            "config_name": f"{r['source']['config']}_{suffix}",
            # `load_dataset` finds its cache by the folder's name and by this text: without what
            # tells the rows it would give those of an earlier build, or of another data root.
            "description": f"rows {_rows(r, suffix)}",
            "data_files": [
                {"split": split, "path": f"{r['source']['config']}_{suffix}/{split}/data-*.arrow"}
                for split in _splits(r, suffix)
            ],
        }
        for r in records
        for suffix in SUFFIX.values()
    ]
    head = yaml.safe_dump({"configs": configs}, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# M2KR data, edition `{edition}`\n\n{_INTRO}" + "".join(
        _section(record) for record in records
    )


_INTRO = """Built by m2kr. Load it with `m2kr.load`, or with Hugging Face datasets:
`DatasetDict.load_from_disk("<this folder>/<CONFIG>_data")` maps these files as they are;
`load_dataset("<this folder>", "<CONFIG>_data")` first copies them into its own cache.

`<CONFIG>_data` holds queries, `<CONFIG>_passages` the pools they are searched in, `<CONFIG>_qrels`
the judgements; `<CONFIG>_ledger.parquet` says which upstream rows were dropped or repaired, and
`<CONFIG>_manifest.json` where everything came from.
"""


def _section(record: dict[str, Any]) -> str:
    source = record["source"]
    lines = [f"\n## {source['title']} (`{source['config']}`)\n\n"]
    if source["summary"]:
        lines.append(source["summary"] + "\n\n")
    said = verdict(record["comparable"])
    lines.append(f"**{said[0].upper()}{said[1:]}.**\n\n")
    lines.append("| split | queries | judged | with image | pool | passages | eval fingerprint |\n")
    lines.append("|---|---|---|---|---|---|---|\n")
    for split, facts in record["splits"].items():
        mark = record["fingerprints"][split]["eval"][:20]
        lines.append(
            f"| {split} | {facts['queries']:,} | {facts['judged']:,} | {facts['with_image']:,} "
            f"| {facts['pool']} | {facts['passages']:,} | `{mark}…` |\n"
        )
    lines.append(f"\nTask {source['task']}; headline metric `{record['headline']}`; ")
    lines.append(f"route `{record['route']}`. Licence: {source['licence']}\n")
    for kind, heading in (("queries", "Query columns"), ("passages", "Passage columns")):
        lines.append(f"\n{heading}:\n\n")
        lines += [f"- `{c['name']}` ({c['type']}): {c['doc']}\n" for c in source["columns"][kind]]
    if source["citation"]:
        lines.append(f"\n```bibtex\n{source['citation'].strip()}\n```\n")
    return "".join(lines)


def _splits(record: dict[str, Any], suffix: str) -> list[str]:
    return [table.split("/")[1] for table in _tables(record, suffix)]


def _rows(record: dict[str, Any], suffix: str) -> str:
    """Stands for the rows of a config: all columns of all its splits."""
    facts = {
        name: [shard["sha256"] for shard in table["shards"]]
        for name, table in _tables(record, suffix).items()
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _tables(record: dict[str, Any], suffix: str) -> dict[str, Any]:
    config = f"{record['source']['config']}_{suffix}"
    return {n: table for n, table in record["tables"].items() if n.split("/")[0] == config}
