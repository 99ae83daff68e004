"""``m2kr index plan``, ``push`` and ``pull``: what an index will take, and sharing one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.search.hub import Contents
    from m2kr.search.plan import Plan

Folder = Annotated[Path, typer.Argument(help="A token store or an index.")]
Expect = Annotated[
    list[str] | None,
    typer.Option(
        "--expect",
        metavar="KEY=VALUE",
        help="Refuse another: checkpoint, pool, eval, dtype, dim ...; may be repeated.",
    ),
]


def plan(
    passages: Annotated[str, typer.Option("--passages", help="How many, such as 8.8M or 400k.")],
    tokens: Annotated[float, typer.Option("--tokens", help="Of a passage, on average.")],
    dim: Annotated[int, typer.Option("--dim", min=1, help="Numbers in a token's vector.")] = 128,
    id_bytes: Annotated[float, typer.Option("--id-bytes", help="Of a passage's id.")] = 12.0,
    json: options.Json = False,
) -> None:
    """Tell what a pool will take on disk, as a token store and as a compressed index.

    Bytes follow from the formats. How long a search takes is known once its first block is done: exact
    search then stops where that is more than --max-hours of m2kr eval.
    """
    from m2kr.cli import output
    from m2kr.search.plan import PoolSize, parse_count, plan_pool

    planned = plan_pool(PoolSize(parse_count(passages), tokens, dim, id_bytes))
    if json:
        output.emit(planned.as_dict())
    else:
        _show(planned)


def _show(planned: "Plan") -> None:
    from m2kr.cli import output

    pool = planned.pool
    output.say(f"{pool.passages:,} passages, {pool.all_tokens:,} tokens of {pool.dim} numbers")
    sizes = {"exact (token store)": planned.store_bytes} | {
        f"compressed, {nbits} bits": size for nbits, size in planned.index_bytes.items()
    }
    output.table(
        ("mode", "bytes", "a passage"),
        [
            (mode, output.size(size), output.size(size / pool.passages))
            for mode, size in sizes.items()
        ],
    )
    output.say(
        f"A compressed index has {planned.centroids:,} centroids and is built from the store."
    )


def push(
    folder: Folder,
    repo: Annotated[str, typer.Argument(help="Data set on the hub, owner/name; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Even if it holds another model's or pool's.")
    ] = False,
    revision: options.Revision = None,
    json: options.Json = False,
) -> None:
    """Upload a token store or an index to the hub, verified, in one commit; needs HF_TOKEN."""
    from m2kr.cli import output
    from m2kr.search.hub import push_folder

    with output.Bars() as bars:
        made, commit = push_folder(
            folder, repo, private=private, replace=replace, revision=revision, progress=bars
        )
    _tell(made, {"repo": repo, "commit": commit}, json=json)


def pull(
    repo: Annotated[str, typer.Argument(help="A data set on the hub: owner/name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    expect: Expect = None,
    revision: options.Revision = None,
    json: options.Json = False,
) -> None:
    """Get a token store or an index from the hub, every byte verified.

    The folder appears when it is complete. With --expect, what was made with another checkpoint or
    from another pool is refused before anything big is fetched.
    """
    from m2kr.cli import output
    from m2kr.search.hub import pull_folder

    with output.Bars() as bars:
        pulled = pull_folder(
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
            "m2kr index plan --passages 400k --tokens 120 --id-bytes 20",
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
