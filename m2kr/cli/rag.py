"""``m2kr rag``."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.rag.pipeline import RagResults
    from m2kr.rag.records import RagResult

EXAMPLES = (
    "m2kr rag mini --run bm25 --reader extractive",
    "m2kr rag mini --run results/mini.test.bm25.*.run.parquet --reader extractive --k 1,3,5,10",
    "m2kr rag okvqa --run preflmr.trec --run bm25.trec --reader blip2 --k 5 --scorer okvqa",
    "m2kr rag infoseek --run mine.json --reader hf:Qwen/Qwen2.5-VL-3B-Instruct --set max_tokens=16",
    "m2kr rag evqa --run mine.tsv --reader my_reader.py:MyReader --set reader.beams=2 --set evqa.bem=FOLDER",
)


def command(
    source: Annotated[str, typer.Argument(help="Source.")],
    reader: Annotated[
        list[str],
        typer.Option(
            "--reader",
            help="Who answers: extractive, blip2, hf:MODEL, http:MODEL, package.module:Class or "
            "file.py:Class; may be repeated.",
        ),
    ],
    run: options.Runs = None,
    k: options.Ks = "1,3,5,10",
    scorer: options.Scorers = None,
    split: options.Split = "test",
    set_: options.Settings = None,
    images: options.Images = None,
    missing_images: options.MissingImages = "error",
    missing_queries: options.MissingQueries = "error",
    out: options.OutFolder = Path("results"),
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Have readers answer a split's questions, and judge the answers.

    Each question that has an accepted answer is asked without passages, with the first passages of
    each run (a file, or a retriever's name, which then searches) for each K of --k, and with its right
    passages: at most the largest K, those that have an accepted answer in their text first.

    Answers are kept in OUT/answers.sqlite as they come, by all that the reader was and was given: the
    same is never asked twice, and what is cut off is gone on with by the same command. Results and
    records are named after what was done: another experiment never overwrites them.

    --set KEY=VALUE and reader.KEY are for the readers, NAME.KEY for the reader, retriever or scorer
    NAME. Keys of servers stand in the environment, never in a command.
    """
    from m2kr import paths
    from m2kr.cli import output
    from m2kr.rag.pipeline import answer_questions

    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    with output.Bars() as bars:
        results = answer_questions(
            source,
            reader,
            run=run,
            split=split,
            k=k,
            scorers=[name for one in scorer or () for name in one.split(",")],
            settings=options.settings(set_),
            edition=edition,
            data=root,
            images=images or (),
            missing_images=missing_images,
            missing_queries=missing_queries,
            out=out,
            progress=bars,
        )
    if json:
        output.emit({"data": str(root), "results": [_as_dict(result) for result in results]})
        return
    _show(results)
    output.say(f"results and records are in {out.absolute()}:")
    for result in results:
        output.say(f"  {result.name}.json")
    files = [str(result.path) for result in results]
    output.say(f"next: {shlex.join(['m2kr', 'report', *files, '--html', 'answers'])}")


def _as_dict(result: "RagResult") -> dict[str, Any]:
    from m2kr.rag.tables import AnswerTable

    table = AnswerTable.of(result).as_dict()
    return {**result.as_dict(), "path": str(result.path), "table": table}


def _show(results: "RagResults") -> None:
    """Results as tables for people, and what this call took."""
    from m2kr.cli import output
    from m2kr.errors import M2KRError
    from m2kr.rag.grid import compare_answers
    from m2kr.rag.tables import AnswerTable

    for result in results:
        output.say(str(AnswerTable.of(result)))
        output.say("")
    if len(results) > 1:
        try:
            output.say(f"{compare_answers(results)}\n")
        except M2KRError as error:  # such as a scorer that could not judge: results are saved
            output.say(f"not compared with each other: {error}\n")
    spent = results.spent
    paid = f", ${spent.dollars:.4f}" if spent.dollars else ""
    output.say(
        f"asked {spent.asked:,} times ({spent.seconds:.1f} s{paid}); {spent.kept:,} answers were kept or "
        "shared"
    )
