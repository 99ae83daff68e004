"""Makes a manifest fit an edition whose files a test wrote by hand, as if they had been built so."""

import hashlib
import json
from pathlib import Path
from typing import Any

from m2kr.data.manifests import manifest_text, signed


def resign(edition: Path, config: str, **changes: Any) -> dict[str, Any]:
    """Lists the files of a source as they are now, makes changes to its manifest and signs it.

    Args:
        edition: The edition folder.
        config: Stem of the source's folders.
        changes: Keys of the manifest with new values.

    Returns:
        The manifest.
    """
    path = edition / f"{config}_manifest.json"
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    for name in list(record["files"]):
        data = (edition / name).read_bytes()
        facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        record["files"][name] = facts
        table, _, file = name.rpartition("/")
        for shard in record["tables"].get(table, {}).get("shards", []):
            if shard["file"] == file:
                shard |= facts
    record = signed(record)
    path.write_text(manifest_text(record), encoding="utf-8")
    return record
