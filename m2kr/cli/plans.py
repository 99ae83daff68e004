"""What a build would fetch: the view of ``m2kr build --plan``."""

from pathlib import Path
from typing import Any

from m2kr import paths, sources
from m2kr.build.fetch import plan
from m2kr.cli import output


def show(names: list[str], root: Path, *, json: bool) -> None:
    """Every file of some sources: where it comes from, or where it must be placed by hand."""
    files = _files(names, root)
    if json:
        total = _missing(files)[0]
        output.emit(
            {
                "data": str(root),
                "downloads": str(paths.downloads(root)),
                "to_fetch_bytes": total,
                "files": files,
            }
        )
        return
    from rich.table import Table

    table = Table("source", "file", "state", "size", "from", "licence")
    for file in files:
        cells = ("source", "name", "state", "size", "url", "licence")
        row = {**file, "size": output.size(file["size"]), "url": file["url"] or "-"}
        table.add_row(*(row[cell] for cell in cells))
    output.console().print(table)
    for file in files:
        if file["state"] == "manual":
            output.say(f"place by hand: {file['path']}\n  {file['manual']}")
    output.say(f"files go to {paths.downloads(root)}")
    output.say(to_fetch(names, root))


def to_fetch(names: list[str], root: Path) -> str:
    """How much is still to be fetched, as a sentence."""
    total, unknown = _missing(_files(names, root))
    more = f", and {unknown} files of unknown size" if unknown else ""
    return f"to fetch: {output.size(total)}{more}"


def _missing(files: list[dict[str, Any]]) -> tuple[int, int]:
    """Bytes to fetch and files of unknown size; a file that several sources share counts once."""
    todo = {f["name"]: f for f in files if f["state"] in {"missing", "partial"}}.values()
    known = sum(f["size"] - f["have"] for f in todo if f["size"] is not None)
    return known, sum(f["size"] is None for f in todo)


def _files(names: list[str], root: Path) -> list[dict[str, Any]]:
    folder = paths.downloads(root)
    found = []
    for name in names:
        assets = sources.builder(name).assets({})
        manual = {asset.name: asset.manual for asset in assets}
        found += [
            {
                "source": name,
                "name": item.name,
                "path": str(folder / item.name),
                "state": item.state,
                "size": item.size,
                "have": item.have,
                "url": item.url,
                "licence": item.licence,
                "manual": manual[item.name],
            }
            for item in plan(assets, folder)
        ]
    return found
