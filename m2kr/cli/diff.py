"""``m2kr diff``."""

from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr diff m2kr/okvqa rebuilt/okvqa",
    "m2kr diff m2kr rebuilt --source okvqa --split test",
    "m2kr diff mini /mnt/other/mini --examples 10",
)


def command(
    a: Annotated[str, typer.Argument(help="EDITION/SOURCE, EDITION or an edition folder.")],
    b: Annotated[str, typer.Argument(help="The same, for the other version.")],
    source: Annotated[
        str | None,
        typer.Option("--source", help="Source, if A and B are editions; else all they share."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Compare this query split and its pool alone.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Differences shown of each sort.")
    ] = 3,
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Show how two built versions of a source differ: ids, rows, columns, fingerprints.

    Exit code 0 if everything that both have is equal, else 1. What only one of them has (splits,
    columns) is listed and not compared. The order of rows and the cut into files do not count.
    Tables whose files have equal hashes in both manifests are not read: m2kr verify does that.
    """
    from m2kr import paths
    from m2kr.build.compare.diff import diff
    from m2kr.build.compare.names import find_versions
    from m2kr.cli import diff_view, output

    root = paths.data_root(data)
    pairs = find_versions(a, b, root, source)
    with output.Bars() as bars:
        found = [diff(x, y, split=split, examples=examples, progress=bars) for x, y in pairs]
    equal = all(each.equal for each in found)
    if json:
        sources = [diff_view.record(each) for each in found]
        output.emit({"data": str(root), "equal": equal, "sources": sources})
    else:
        for each in found:
            diff_view.show(each)
        output.say("everything compared is equal" if equal else "A and B differ")
    if not equal:
        raise typer.Exit(1)
