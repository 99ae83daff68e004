"""``m2kr import``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr import mine --passages p.jsonl --queries q.jsonl --images photos",
    "m2kr import news --passages p.csv --queries q.csv --qrels qrels.tsv",
    "m2kr import scifact scifact/ --from beir",
)


def command(
    name: Annotated[str, typer.Argument(help="Name of the new source (and edition).")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of another benchmark's files; needs --from."),
    ] = None,
    passages: Annotated[
        Path | None,
        typer.Option("--passages", help="Passages: .jsonl, .csv, .tsv (also .gz) or .parquet."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="Queries, in the same formats."),
    ] = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            "--qrels", help="Judgements: lines of BEIR, TREC or M-BEIR, .csv, .jsonl or .parquet."
        ),
    ] = None,
    images: options.Images = None,
    instruction: options.Instruction = None,
    layout: Annotated[
        Literal["files", "beir", "mbeir", "ret-m2kr"],
        typer.Option("--from", help="Layout of the files."),
    ] = "files",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Which data set of the folder (mbeir, ret-m2kr)."),
    ] = None,
    split: options.SplitOrNone = None,
    drop_missing: Annotated[
        bool,
        typer.Option(
            "--drop-missing", help="Count judged passages that are not there as never found."
        ),
    ] = False,
    relevance_threshold: Annotated[
        float,
        typer.Option("--relevance-threshold", help="Grade from which a passage is right."),
    ] = 1,
    force: options.Force = False,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Import your own passages and queries as a source that everything else treats like any other.

    A passage needs an id and a text; a query an id and a question, an image, or both. Judgements come
    in the queries (pos_item_ids) or in --qrels, with their grades; without any, the data can be
    searched, not scored. Without --split the split is 'test', or all that a BEIR folder has. Images are
    not copied. A source of the same name is replaced.
    """
    from m2kr import paths
    from m2kr.building.images.coverage import count_images
    from m2kr.building.userdata.importer import import_files
    from m2kr.cli import output
    from m2kr.cli.build import show
    from m2kr.data.load import load
    from m2kr.schema import GRADES

    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    with output.Bars() as bars:
        built = import_files(
            name,
            passages,
            queries,
            qrels,
            layout=layout,
            folder=folder,
            dataset=dataset,
            split=split,
            images=images or (),
            instruction=instruction,
            edition=edition,
            data=root,
            drop_missing=drop_missing,
            relevance_threshold=relevance_threshold,
            force=force,
            progress=bars,
        )
    source = built.manifest["source"]["name"]
    counts = {
        name: count_images(load(source, name, edition=built.folder.name, data=root))
        for name in built.manifest["splits"]
    }
    if json:
        output.emit(
            {
                "data": str(root),
                "source": source,
                "folder": str(built.folder),
                "fresh": built.fresh,
                "splits": built.manifest["splits"],
                "fingerprints": built.manifest["fingerprints"],
                "images": {
                    name: {"needed": each.total, "found": each.found}
                    for name, each in counts.items()
                },
            }
        )
        return
    show(source, built.folder, built.manifest, fresh=built.fresh)
    columns = [column["name"] for column in built.manifest["source"]["columns"]["queries"]]
    if GRADES.name in columns:
        right = built.manifest.get("relevance_threshold", 1)
        output.say(f"judgements are graded: a passage is right from grade {right:g}")
    for name, facts in built.manifest["splits"].items():
        if not facts["judged"]:
            output.say(
                f"no right passage is given for the queries of {name}: "
                + (
                    "PR@K alone can be scored"
                    if facts["with_answers"]
                    else "searched, never scored"
                )
                + "; positives belong in the queries, or in a file: --qrels FILE"
            )
    for name, each in counts.items():
        if each.total:
            output.say(f"images of {name}: {each.found:,} of {each.total:,} found")
        if each.missing:
            output.say(
                f"  missing: {', '.join(each.missing)}; give their folder or archive with --images"
            )
    first = next(iter(built.manifest["splits"]))
    output.say(f"next: m2kr eval {source} --retriever bm25 --split {first} --data {root}")
