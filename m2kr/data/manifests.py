"""The manifest of a built source as a file: written so that any change to it is seen, read with care.

The last key, ``sha256``, is the hash of all the others as canonical JSON (sorted keys, no blanks, ASCII).
``files`` lists every published file of the source with its size and sha256: see `m2kr.data.file_checks`.
"""

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2kr.errors import InputError, M2KRError
from m2kr.paths import manifest_path
from m2kr.schema import MANIFEST_FORMAT
from m2kr.sources import RELEASED, builder_names, normalise

Manifest = dict[str, Any]
DIGEST = "sha256"
_PATTERN = "*_manifest.json"
_MOST_BYTES = 256 << 20
_ROUTES = {"release": ["--route", "release"], "aligned": ["--align", "release"]}
_ROUTE_EDITIONS = {"m2kr": _ROUTES["release"], "aligned": _ROUTES["aligned"], "rebuilt": []}
EARLIER = "m2kr-manifest-1"


class EarlierManifestError(InputError):
    """A manifest of an earlier m2kr: see `m2kr.building.verify`."""


def signed(record: Mapping[str, Any]) -> Manifest:
    """A manifest with its own hash as the last key."""
    return {key: record[key] for key in record if key != DIGEST} | {DIGEST: digest_of(record)}


def digest_of(record: Mapping[str, Any]) -> str:
    """Hash of a manifest's content, its own hash left out."""
    content = {key: record[key] for key in record if key != DIGEST}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_text(record: Mapping[str, Any]) -> str:
    """The text of a manifest's file."""
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def read_manifest(path: Path) -> Manifest:
    """A manifest file, whole and unchanged since it was written.

    Raises:
        InputError: it can't be read, is no manifest of this version, or was changed.
    """
    try:
        record: Manifest = json.loads(_content(path))
        made = record.get("format") if isinstance(record, dict) else None
        sound = made == MANIFEST_FORMAT and record.get(DIGEST) == digest_of(record)
    except OSError as error:
        raise _damaged(path, f"the manifest can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the manifest is not JSON: {str(error)[:200]}") from error
    if made == EARLIER:
        raise EarlierManifestError(
            "made by an earlier m2kr, whose manifests do not list the hashes of all files",
            where=str(path),
            fix=f"m2kr verify --data {shlex.quote(str(path.parent.parent))} checks it once and signs it",
        )
    if made != MANIFEST_FORMAT:
        raise InputError(
            "not a manifest that this version of m2kr reads",
            where=str(path),
            expected=f'"format": "{MANIFEST_FORMAT}"',
            fix=f"{build_again(path)}; or upgrade m2kr",
        )
    if not sound:
        raise _damaged(path, "the manifest was changed after it was written")
    if manifest_path(path.parent, record["source"]["config"]).name != path.name:
        raise _damaged(path, f"this is the manifest of {record['source']['name']!r}, misplaced")
    return record


def read_manifests(edition: Path) -> tuple[dict[str, Manifest], dict[Path, M2KRError]]:
    """The sound manifests of an edition folder by source name, and what is wrong with the others."""
    sound: dict[str, Manifest] = {}
    damaged: dict[Path, M2KRError] = {}
    for path in sorted(edition.glob(_PATTERN)):
        try:
            record = read_manifest(path)
            sound[record["source"]["name"]] = record
        except M2KRError as error:
            if os.path.lexists(path):  # else it was replaced or removed meanwhile
                damaged[path] = error
    return sound, damaged


def config_of(path: Path) -> str:
    """Whose manifest a file is by its name: ``OKVQA`` of ``OKVQA_manifest.json``."""
    return path.name.removesuffix(_PATTERN[1:])


def source_of(manifest: Path) -> str:
    """The source whose manifest a file is by its name, for one that can't be read."""
    config = config_of(manifest)
    of_release = {stem: name for name, stem in RELEASED.items()}
    return of_release.get(config) or builder_names().get(normalise(config), config.lower())


def rebuild_command(record: Mapping[str, Any], edition: Path) -> str:
    """The command that makes a built source anew."""
    name, limit = record["source"]["name"], record["limit"]
    if record["route"] == "import":
        return (
            f"import it again, with --force: m2kr import {name} … --data {edition.parent} --force"
        )
    words = ["m2kr", "build", name]
    words += _ROUTES.get(record["route"], [])
    words += ["--edition", edition.name.removesuffix(f"-limit{limit}")]
    words += ["--limit", str(limit)] if limit is not None else []
    if record["route"] == "sources":
        for option in record["source"]["options"]:
            value = record["options"].get(option["name"], option["default"])
            words += ["--set", f"{option['name']}={value}"] if value != option["default"] else []
    return shlex.join([*words, "--data", str(edition.parent), "--force"])


def _content(path: Path) -> str:
    """The text of a file; a pipe, a device or a file of gigabytes is not even opened."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(0, "it is no regular file")
    if facts.st_size > _MOST_BYTES:
        raise ValueError(f"{facts.st_size:,} bytes, more than any manifest has")
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1).decode("utf-8")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(what, where=str(path), fix=build_again(path))


def build_again(path: Path) -> str:
    """What to do about a manifest that can't be relied on."""
    edition = path.parent
    words = ["m2kr", "build", config_of(path).lower()]
    # Where the routes build to by themselves; what else the manifest said can't be relied on.
    words += _ROUTE_EDITIONS.get(edition.name, ["--edition", edition.name])
    command = shlex.join([*words, "--data", os.fspath(edition.parent)])
    return f"{command} (downloads are kept), or import it again"
