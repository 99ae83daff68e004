"""``m2kr export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr export okvqa --format judge --out okvqa.judge.parquet",
    "m2kr export okvqa --format beir --split test --out okvqa-beir",
    "m2kr export mini --format mteb --images photos --out mini-mteb",
    "m2kr export results/mini.test.bm25.1a2b3c4d.json --format trec --out for-trec-eval",
    "m2kr export results/mini.test.rag.extractive.1a2b3c4d.json --format inspect --out logs",
)


def command(
    source: Annotated[
        str, typer.Argument(help="Source name, or a result (JSON): its split and run.")
    ],
    format_: Annotated[
        Literal["parquet", "beir", "mteb", "trec", "release", "croissant", "judge", "inspect"],
        options.FORMAT,
    ] = "parquet",
    split: options.Splits = None,
    out: options.OutOrNone = None,
    images: options.Images = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Write a built source in another tool's format.

    parquet: passages, queries and judgements as plain Parquet. beir: corpus.jsonl, queries.jsonl and
    qrels. mteb: a data set folder that MTEB's retrieval tasks load. trec: judgements, topics and a
    result's run. release: the authors' release layout. croissant: Parquet with Croissant metadata.
    judge: one file (of the test split, unless --split names another) with which
    'm2kr eval FILE -r run:...' scores runs without the corpus. inspect: a result of m2kr rag as logs
    that Inspect AI opens, one an arm.

    All splits are written unless --split names some. What is at --out is replaced only if it is an
    earlier export of the same source in the same format.
    """
    from m2kr import paths
    from m2kr.cli import output
    from m2kr.data.built_sources import BuiltSources
    from m2kr.data.load import load
    from m2kr.errors import UsageError
    from m2kr.evaluation.judge_file import SUFFIX
    from m2kr.evaluation.result import Result
    from m2kr.evaluation.result_data import open_split
    from m2kr.export.formats import export
    from m2kr.rag.records import is_rag_result

    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    if format_ == "inspect" or (source.endswith(".json") and is_rag_result(Path(source))):
        _export_answers(source, format_, out, data, json=json)
        return
    run = None
    if source.endswith(".json"):
        if split:
            raise UsageError("a result has one split", fix="leave --split out")
        result = Result.load(source)
        splits = [open_split(result, data=data, images=images or ())]
        run = result.load_run() if format_ in ("trec", "parquet", "croissant") else None
    else:
        found = BuiltSources.below(root).find(source, edition)
        names = split or (["test"] if format_ == "judge" else list(found.manifest["splits"]))
        splits = [
            load(found.name, name, edition=found.folder.name, data=root, images=images or ())
            for name in names
        ]
    stem = splits[0].source
    name = f"{stem}.{splits[0].split}{SUFFIX}" if format_ == "judge" else f"{stem}-{format_}"
    with output.Bars() as bars:
        done = export(splits, format_, out or Path(name), run=run, progress=bars)
    files = [done.path] if done.path.is_file() else done.path.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    if json:
        output.emit(
            {
                "format": format_,
                "out": str(done.path),
                "bytes": size,
                "splits": {each.split: each.fingerprints["eval"] for each in splits},
                "notes": list(done.notes),
            }
        )
        return
    for note in done.notes:
        output.say(note)
    output.say(f"{done.path} ({output.size(size)}): {', '.join(s.label for s in splits)}")


def _export_answers(
    source: str, format_: str, out: Path | None, data: Path | None, *, json: bool
) -> None:
    """A result of a reader as logs."""
    from m2kr.cli import output
    from m2kr.errors import UsageError
    from m2kr.rag.inspect_log import write_inspect_logs
    from m2kr.rag.records import RagResult

    if format_ != "inspect":
        raise UsageError(
            f"a result of a reader can't be written as {format_}",
            where=source,
            fix=f"m2kr export {source} --format inspect",
        )
    result = RagResult.load(source)
    with output.Bars() as bars:
        logs = write_inspect_logs(
            result, out or Path(f"{result.source}-inspect"), data=data, progress=bars
        )
    if json:
        output.emit({"format": format_, "files": [str(log) for log in logs]})
        return
    for log in logs:
        output.say(f"{log} ({output.size(log.stat().st_size)})")
