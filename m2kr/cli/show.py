"""``m2kr show``."""

from typing import TYPE_CHECKING, Annotated

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.data.load import Split
    from m2kr.retrieval.run import Run

EXAMPLES = (
    "m2kr show mini",
    "m2kr show mini okvqa/giraffe/diet",
    "m2kr show mini okvqa/giraffe/diet --run results/mini.test.bm25.1a2b3c4d.json",
)
_LISTED = 20


def command(
    source: Annotated[str, typer.Argument(help="Source name.")],
    query_id: Annotated[
        str | None,
        typer.Argument(help="Query of the split; without one, its first queries are listed."),
    ] = None,
    run: options.RunOrNone = None,
    k: options.K = 5,
    split: options.Split = "test",
    images: options.Images = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Show a query: image, question, answers, right passages, and what a run ranked for it.

    --run takes a run file or a result (JSON). Answers stand between ** where pseudo recall finds them.
    """
    from m2kr import paths
    from m2kr.cli import output, swapped
    from m2kr.data.load import load
    from m2kr.evaluation.query_view import QueryView
    from m2kr.evaluation.rankings import open_run

    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    with swapped.hint(root, "show", source, "", [query_id] if query_id else []):
        loaded = load(source, split, edition=edition, data=root, images=images or ())
    ranking = None if run is None else open_run(run, loaded)
    if query_id is None:
        _list(loaded, ranking, json_mode=json)
        return
    view = QueryView.of(loaded, query_id, ranking, k)
    if json:
        output.emit(view.as_dict() | {"data": str(root)})
    else:
        output.say(str(view))


def _list(split: "Split", run: "Run | None", *, json_mode: bool) -> None:
    """The first queries of a split, with the rank of the first right passage."""
    from m2kr.cli import output
    from m2kr.cli.search import cut
    from m2kr.evaluation.query_view import QueryView

    listed = split[:_LISTED]
    ranks = [QueryView.of(split, q["question_id"], run, 0).first_right for q in listed]
    if json_mode:
        keys = ("question_id", "question", "img_path")
        rows = [
            {key: q[key] for key in keys} | {"first_right": r}
            for q, r in zip(listed, ranks, strict=True)
        ]
        output.emit({"queries": len(split), "listed": rows})
        return
    heads = ("query", "question", "image", *(("first right",) if run is not None else ()))
    output.table(
        heads,
        [
            (q["question_id"], cut(q["question"], 80), q["img_path"] or "", str(rank or "–"))[
                : len(heads)
            ]
            for q, rank in zip(listed, ranks, strict=True)
        ],
        title=split.label,
    )
    if len(split) > len(listed):
        output.say(f"the first {len(listed)} of {len(split):,} queries")
