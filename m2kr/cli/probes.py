"""``m2kr build --probe``: what upstream's files are like today."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import typer

from m2kr.building.spec import Builder
from m2kr.cli import output
from m2kr.errors import UpstreamError


def show(
    builders: Sequence[Builder], given: Mapping[str, str], edition: str | None, *, json: bool
) -> None:
    """Asks for the first MB of every file that some builds need, and tells what is not as expected.

    Raises:
        UsageError: an option is unknown or has a wrong value.
        typer.Exit: with `UpstreamError`'s code, if a file isn't as expected or can't be had.
    """
    from rich.table import Column, Table

    from m2kr.building.options import resolve_options
    from m2kr.building.probe import probe

    # The release route has no assets: a build checks it by its counts of rows.
    users: dict[str, list[str]] = {}
    assets = {}
    for builder in builders:
        for asset in builder.assets(resolve_options(builder.source, given, edition)):
            assets[asset.name] = asset
            users.setdefault(asset.name, []).append(builder.source.name)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(probe, assets.values()))
    bad = [file for file in found if file.status not in {"ok", "local"}]
    if json:
        files = [asdict(file) | {"sources": users[file.name]} for file in found]
        output.emit({"ok": not bad, "files": files})
    else:
        heads = ("state", "size", "rows parsed", "problem")
        table = Table("sources", Column("file", overflow="fold"), *heads)
        for file in found:
            rows = "-" if file.rows is None else f"{file.rows:,}"
            size = output.size(file.size)
            names = ", ".join(users[file.name])
            table.add_row(names, file.name, file.status, size, rows, file.problem)
        if found:
            output.console().print(table)
        asked = sum(file.status != "local" for file in found)
        output.say(f"{asked - len(bad)} of {asked} files upstream are as expected")
    if bad:
        raise typer.Exit(UpstreamError.exit_code)
