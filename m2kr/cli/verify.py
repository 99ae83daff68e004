"""``m2kr verify``."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.building.verify import Finding

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
    """Check built data: hashes of all files, schema, counts, ids, judgements, fingerprints, images."""
    from m2kr import paths
    from m2kr.building.verify import verify_root
    from m2kr.cli import output
    from m2kr.data.built_sources import BuiltSources
    from m2kr.errors import MissingError
    from m2kr.sources import build_command

    root = paths.data_root(data)
    name = None if source is None else BuiltSources.below(root).name_of(source)
    with output.Bars() as bars:
        findings = list(verify_root(root, name, edition, bars))
    if not findings:
        raise MissingError(
            "there is nothing built to verify",
            where=str(root),
            fix=build_command(name or "mini"),
        )
    bad = [(e, f) for e, f in findings if f.problem]
    if json:
        output.emit(
            {
                "data": str(root),
                "ok": not bad,
                "checks": len(findings),
                "problems": [
                    {
                        "edition": e,
                        "table": f.table,
                        "check": f.check,
                        "problem": f.problem,
                        "fix": f.fix,
                    }
                    for e, f in bad
                ],
            }
        )
    else:
        rows = [(e, _tables_of(f), bool(f.problem)) for e, f in findings]
        count = Counter(rows)
        output.table(
            ("edition", "tables of", "checks passed", "failed"),
            [
                (e, of, f"{count[e, of, False]:,}", f"{count[e, of, True]:,}")
                for e, of in dict.fromkeys((e, of) for e, of, _ in rows)
            ],
        )
        for e, f in bad:
            output.say(f"{e}/{f.table}: {f.problem}; try: {f.fix}")
        output.say(f"{len(findings) - len(bad)} checks passed, {len(bad)} failed; data root {root}")
    if bad:
        raise typer.Exit(1)


def _tables_of(finding: "Finding") -> str:
    """The source whose tables were checked, as their names begin; for the rest, what it is."""
    name = re.match(r"([^/]+)_(data|passages|qrels|manifest|ledger)\b", finding.table)
    return name[1] if name else f"({finding.check})"
