"""``m2kr check-retriever``."""

from typing import Annotated

import typer

from m2kr.cli import options

EXAMPLES = (
    "m2kr check-retriever bm25",
    "m2kr check-retriever my_retriever.py:MyRetriever --set batch_size=32",
)


def command(
    retriever: Annotated[
        str, typer.Argument(help="A name, package.module:Class, or file.py:Class.")
    ],
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Check a retriever: ids, batches, padding, odd texts, missing images, caches, resuming and more.

    It searches a built-in corpus of sixteen passages and eight queries with pictures, as it is and
    changed. Exits with 1 if a check fails. As tests of one's own: m2kr.conformance.
    """
    from m2kr.cli import output
    from m2kr.conformance import check_retriever

    with output.Bars() as bars:
        verdicts = check_retriever(retriever, settings=options.settings(set_), progress=bars)
    if json:
        output.emit(verdicts.as_dict())
    else:
        output.table(
            ("check", "verdict", "why"),
            [
                (one.check, one.outcome, one.why + (f"\nto do: {one.fix}" if one.fix else ""))
                for one in verdicts.all
            ],
            title=f"{verdicts.retriever}: {'not right' if verdicts.failed else 'right'}",
        )
    if verdicts.failed:
        if not json:
            not_tried = sum(one.outcome == "not tried" for one in verdicts.all)
            output.say(
                f"{len(verdicts.failed)} of {len(verdicts.all)} checks failed"
                + (f", {not_tried} were not tried" if not_tried else "")
            )
        raise typer.Exit(1)
