"""Builds of an earlier m2kr, whose manifests hold no list of files: checked once, then signed."""

import json
import logging
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr.building.hashing import shard_facts
from m2kr.building.publish import listed_files
from m2kr.building.verify import verify_tables
from m2kr.data.manifests import EARLIER, Manifest, config_of, manifest_text, signed
from m2kr.errors import M2KRError, from_system
from m2kr.progress import SILENT, Progress
from m2kr.schema import MANIFEST_FORMAT
from m2kr.sources import UNKNOWN

log = logging.getLogger("m2kr.building")


def adopt(path: Path, progress: Progress = SILENT) -> Manifest | None:
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
        for finding in verify_tables(edition, record, set(), progress):
            if finding.problem:
                log.warning("%s: %s: %s", path, finding.table, finding.problem)
                return None
        atomic.write_text(path, manifest_text(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: %s", path, from_system(error) or error)
        return None
    except M2KRError as error:
        log.warning("%s: %s", path, error)
        return None
    log.warning("%s: made by an earlier m2kr; checked, and signed", path)
    return record
