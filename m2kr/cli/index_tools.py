"""``m2kr index plan``, ``push`` and ``pull``: what an index will take, and sharing one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.search.late.contents import Contents
    from m2kr.search.late.planning.plan import Plan

Folder = Annotated[Path, typer.Argument(help="A token store or an index.")]
Expect = Annotated[
    list[str] | None,
    typer.Option(
        "--expect",
        metavar="KEY=VALUE",
        help="Refuse another: checkpoint, pool, eval, dtype, dim ...; may be repeated.",
    ),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")]


def plan(
    passages: Annotated[str, typer.Option("--passages", help="How many, such as 8.8M or 400k.")],
    tokens: Annotated[float, typer.Option("--tokens", help="Of a passage, on average.")],
    dim: Annotated[int, typer.Option("--dim", min=1, help="Numbers in a token's vector.")] = 128,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Vectors of a query.")] = 100,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a query.")] = 100,
    queries: Annotated[
        str, typer.Option("--queries", help="How many, for the total time.")
    ] = "1000",
    id_bytes: Annotated[float, typer.Option("--id-bytes", help="Of a passage's id.")] = 12.0,
    threads: Annotated[int | None, typer.Option("--threads", min=1)] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--bytes-only", help="Time the engines, some 5 seconds.")
    ] = True,
    json: options.Json = False,
) -> None:
    """Tell what a pool will take: bytes on disk, and seconds a query on this machine.

    Bytes follow from the formats. Seconds are estimates: the engines run on a small random pool, and
    on a quiet machine with a disk that keeps up; they double or halve with what the tokens are like.
    """
    from m2kr.cli import output
    from m2kr.search.late.planning.plan import Pool, parse_count
    from m2kr.search.late.planning.plan import plan as make_plan

    count, asked = parse_count(passages), parse_count(queries)
    found = make_plan(
        Pool(count, tokens, dim, id_bytes), rows=rows, k=k, threads=threads, calibrate=calibrate
    )
    if json:
        output.emit(found.as_dict() | {"queries": asked})
    else:
        _show(found, asked)


def _show(found: "Plan", queries: int) -> None:
    from rich.table import Table

    from m2kr.cli import output

    pool = found.pool
    output.say(
        f"{pool.passages:,} passages, {pool.all_tokens:,} tokens of {pool.dim} numbers; "
        f"queries of {found.rows} rows, k = {found.k}"
    )
    table = Table("mode", box=None, pad_edge=False)
    for name in (
        "bytes",
        "a passage",
        *(("a query", f"{queries:,} queries") if found.seconds else ()),
    ):
        table.add_column(name, justify="right")
    rows = [("exact (token store)", "exact", found.store_bytes)]
    for nbits, size in found.index_bytes.items():
        # The codes' width hardly matters for the time, which is that of 4 bits.
        rows.append((f"compressed, {nbits} bits", "compressed", size))
    for name, mode, size in rows:
        cells = [output.size(size), output.size(size / pool.passages)]
        if found.seconds:
            cells += [_time(found.seconds[mode]), _time(found.total(mode, queries))]
        table.add_row(name, *cells)
    output.console().print(table)
    if found.seconds:
        output.say(
            f"Exact search reads the store once for all queries ({_time(found.seconds['exact pass'])})"
            f" on {found.threads} threads; calibrated in {found.calibrated_in:.1f} s."
        )
    output.say(f"A compressed index has {found.centroids:,} centroids and is built from the store.")


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size * (2 if unit != "s" else 1):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.1f} ms"


def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="Data set on the hub, owner/name; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if it holds another model's or pool's.")
    ] = False,
    revision: Revision = None,
    json: options.Json = False,
) -> None:
    """Upload a token store or an index to the hub, verified, in one commit; needs HF_TOKEN."""
    from m2kr.cli import output
    from m2kr.search.late.hub import push as upload

    with output.Bars() as bars:
        made, commit = upload(
            folder, repo, private=private, replace=replace, revision=revision, progress=bars
        )
    _tell(made, {"repo": repo, "commit": commit}, json=json)


def pull(
    repo: Annotated[str, typer.Argument(help="A data set on the hub: owner/name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    expect: Expect = None,
    revision: Revision = None,
    json: options.Json = False,
) -> None:
    """Get a token store or an index from the hub, every byte verified.

    The folder appears when it is complete. With --expect, what was made with another checkpoint or
    from another pool is refused before anything big is fetched.
    """
    from m2kr.cli import output
    from m2kr.search.late.hub import pull as fetch

    with output.Bars() as bars:
        pulled = fetch(
            repo, folder, revision=revision, expected=options.settings(expect), progress=bars
        )
    _tell(pulled, {"folder": str(folder)}, json=json)


def _tell(made: "Contents", what: dict[str, Any], *, json: bool) -> None:
    from m2kr.cli import output

    facts = made.facts()
    unknown = [name for name in ("checkpoint", "pool") if name not in facts]
    told = {**what, "passages": made.passages, "tokens": made.tokens, "files": len(made.names)}
    if json:
        output.emit(told | {"facts": facts, "unknown": unknown})
        return
    for key, value in {**told, **facts}.items():
        shown = output.size(value) if key == "bytes" else value
        output.say(f"{key:<18}{f'{shown:,}' if isinstance(shown, int) else shown}")
    if unknown:
        output.say(
            f"It doesn't say its {' and '.join(unknown)}: nobody can check that it fits a model "
            "and a pool."
        )


SUBCOMMANDS = {
    "plan": (
        plan,
        (
            "m2kr index plan --passages 8.8M --tokens 80 --dim 128",
            "m2kr index plan --passages 400k --tokens 120 --rows 320 -k 500 --queries 5120",
        ),
    ),
    "push": (push, ("m2kr index push index/ my-name/okvqa-index --private",)),
    "pull": (
        pull,
        (
            "m2kr index pull my-name/okvqa-store store/",
            "m2kr index pull my-name/okvqa-index index/ --expect pool=fp1:...",
        ),
    ),
}
