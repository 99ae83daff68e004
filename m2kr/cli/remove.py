"""``m2kr remove``."""

from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr remove metals",
    "m2kr remove mine --all   (what from_records without a name has left)",
    "m2kr remove okvqa --edition rebuilt",
)


def command(
    source: Annotated[str, typer.Argument(help="A source that is built.", metavar="SOURCE")],
    data: options.Data = None,
    edition: options.Edition = None,
    every: Annotated[bool, typer.Option("--all", help="From every edition that holds it.")] = False,
    json: options.Json = False,
) -> None:
    """Remove a built source's tables from an edition.

    Images, downloads, results and cached rows stay.
    """
    from m2kr import paths
    from m2kr.building.publish import remove
    from m2kr.cli import output

    root = paths.data_root(data)
    gone = remove(source, root, edition=edition, every=every)
    if json:
        told = [{"source": g.source, "folder": str(g.folder), "bytes": g.bytes} for g in gone]
        output.emit({"data": str(root), "removed": told})
        return
    for each in gone:
        output.say(f"removed {each.source} from {each.folder} ({output.size(each.bytes)})")
