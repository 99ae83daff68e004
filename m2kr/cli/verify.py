"""``m2kr verify``."""

from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr verify",
    "m2kr verify mini --edition mini",
)


def command(
    source: Annotated[
        str | None,
        typer.Argument(help="Source name; everything that is built if absent."),
    ] = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Check built data: hashes, schema, counts, ids, judgements and fingerprints."""
    from rich.table import Table

    from m2kr import paths
    from m2kr.build.verify import verify
    from m2kr.cli import output
    from m2kr.data.load import built, built_source, manifest_of
    from m2kr.errors import MissingError
    from m2kr.sources import build_command

    root = paths.data_root(data)
    have = built(root)
    if source is not None:
        name = built_source(source, have)
        have = {name: have.get(name, {})}
    chosen = [(n, e, f) for n, es in have.items() for e, f in es.items() if edition in (None, e)]
    if not chosen:
        raise MissingError(
            "there is nothing built to verify",
            where=str(root),
            fix=build_command(name if source is not None else "mini"),
        )
    findings = []
    with output.Bars() as bars:
        for name, e, folder in chosen:
            findings += [(e, f) for f in verify(folder, manifest_of(folder, name), bars)]
    bad = [(e, f) for e, f in findings if f.problem]
    if json:
        output.emit(
            {
                "data": str(root),
                "ok": not bad,
                "checks": len(findings),
                "problems": [
                    {"edition": e, "table": f.table, "check": f.check, "problem": f.problem}
                    for e, f in bad
                ],
            }
        )
    else:
        table = Table("edition", "table", "check", "result")
        for e, f in findings:
            table.add_row(e, f.table, f.check, f.problem or "ok")
        output.console().print(table)
        output.say(f"{len(findings) - len(bad)} checks passed, {len(bad)} failed; data root {root}")
    if bad:
        raise typer.Exit(1)
