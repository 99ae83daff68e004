"""``m2kr compare``."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.evaluation.compare import Comparison

EXAMPLES = (
    "m2kr compare results",
    "m2kr compare results/mini.test.bm25.*.json results/mini.test.fusion.*.json",
    "m2kr compare results --metrics hit_rate@1,hit_rate@5 --format latex > table.tex",
    "m2kr compare results --format csv > pairs.csv",
    "m2kr compare 'results/*.rag.*.json'",
)


def command(
    systems: Annotated[
        list[str],
        typer.Argument(help="Results, folders of results, or runs that m2kr eval wrote."),
    ],
    metrics: options.Metrics = "default",
    format_: Annotated[Literal["table", "md", "latex", "csv", "json"], options.FORMAT] = "table",
    data: options.Data = None,
    json: options.Json = False,
) -> None:
    """Compare systems on the same queries: what differs, by how much, and whether it is chance.

    Per metric: paired differences with 95 % bootstrap intervals, a randomisation test with a paired t
    test beside it, both corrected for all pairs of systems (Holm), wins, ties and losses, and letters:
    systems that share one can't be told apart. Several sources are compared one by one, and by their
    mean. Results of different data, or with holes, are refused.

    By default each source's headline metric and those that eval shows; 'full' is all that the results
    have. --format json is what --json prints; csv has a row for each pair.

    Results of m2kr rag are compared by what the answers scored: a table of readers by retrievers, and
    the same tests. Their metrics are scorers, as okvqa or okvqa@5.
    """
    from m2kr import api
    from m2kr.cli import output
    from m2kr.rag.given_results import given_answers
    from m2kr.rag.grid import AnswerGrid, compare_answers

    answers = given_answers(systems, "m2kr compare")
    compared: Comparison | AnswerGrid
    if answers:
        compared = compare_answers(answers, metrics=metrics)
    else:
        compared = api.compare(systems, metrics=metrics, data=data)
    if json or format_ == "json":
        output.emit(compared.as_dict())
        return
    text = {
        "table": compared.__str__,
        "md": compared.to_markdown,
        "latex": compared.to_latex,
        "csv": compared.to_csv,
    }[format_]()
    output.say(text.rstrip("\n"))
