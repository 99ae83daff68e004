"""A look at a file that is here, before other files are fetched or parsed for hours: is it the right one?"""

import hashlib
from pathlib import Path

from m2kr.build.archive.members import members
from m2kr.build.probing.parse import expected_rows, rows_in
from m2kr.build.probing.unpack import Drift
from m2kr.build.spec import Asset
from m2kr.errors import CheckError, InputError

_HEAD_BYTES = 1 << 20
_FIX = "delete it, if it is still there, and run the same command again; if upstream changed, report it"


def check_content(asset: Asset, path: Path) -> None:
    """Refuses a file without one right row, a table without the columns, or other published content.

    Args:
        asset: The file.
        path: Where it is; its name may be another one.

    Raises:
        InputError: The header lacks a column, or none of the first rows is as the builder expects.
        CheckError: The content isn't the published one.
    """
    if path.is_dir():
        return
    if asset.git_blob:
        _check_blob(asset, path)
    if asset.shape is None or asset.shape.kind == "json":  # the builders read these whole at once
        return
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES + 1)
    try:
        whole = len(head) <= _HEAD_BYTES
        rows_in(head[:_HEAD_BYTES], asset.name, asset.shape, whole=whole, any_right=True)
    except Drift as drift:
        what, _, expected = str(drift).partition("; expected ")
        raise InputError(
            f"this is another file than {asset.name} is: {what}",
            where=str(path),
            expected=expected or expected_rows(asset.shape),
            fix=_FIX,
        ) from drift


def _check_blob(asset: Asset, path: Path) -> None:
    seen = {git_blob(m.read()): m.name for m in members(path) if m.name.endswith(".json")}
    if asset.git_blob not in seen:
        found = ", ".join(f"{name} with {blob}" for blob, name in seen.items()) or "no JSON file"
        raise CheckError(
            f"the content of {asset.name} is not the published one: it holds {found}",
            where=str(path),
            expected=f"a JSON file with the git blob id {asset.git_blob}",
            fix=_FIX,
        )


def git_blob(content: bytes) -> str:
    """The id that git gives a file of this content."""
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()
