"""``m2kr search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from m2kr.retrieval.adhoc import AdHocResult

EXAMPLES = (
    'm2kr search mini --retriever bm25 --question "What do giraffes eat?"',
    "m2kr search mini --retriever image_concepts --image cat.jpg -k 3 --html found.html",
    "m2kr search okvqa --retriever preflmr --checkpoint ./my-model --image cat.jpg "
    '--question "What breed is this?"',
)
_TEXT = 240  # characters of a passage in the table


def command(
    source: Annotated[str, typer.Argument(help="Source whose passages are searched.")],
    retriever: options.Retriever,
    question: options.Question = "",
    image: options.ImageOrNone = None,
    k: options.K = 5,
    checkpoint: options.CheckpointOrNone = None,
    instruction: options.Instruction = None,
    set_: options.Settings = None,
    split: options.Split = "test",
    html: options.Html = None,
    images: options.Images = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Ask a question of your own, about an image of your own, and see the passages that are found.

    The pool is indexed first, which takes a while for a big one and a neural retriever.
    """
    from m2kr import atomic, paths
    from m2kr.cli import output, swapped
    from m2kr.data.load import load
    from m2kr.retrieval.adhoc import AdHocQuery, search_one
    from m2kr.retrieval.cache import cache_folder
    from m2kr.retrievers import create

    query = AdHocQuery(question, image, instruction)
    if html is not None:
        atomic.require_file(html)
    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    with swapped.hint(root, "search", source, "-r", [retriever]):
        loaded = load(source, split, edition=edition, data=root, images=images or ())
    settings = options.settings(set_) | ({"checkpoint": checkpoint} if checkpoint else {})
    with output.Bars() as bars:
        found = search_one(
            loaded,
            create(retriever, settings),
            query,
            k,
            cache=cache_folder(root),
            progress=bars,
        )
    where = f"{loaded.source}/{loaded.pool}, edition {loaded.edition}"
    if html is not None:
        atomic.write_text(html, _page(found, where, checkpoint))
    if json:
        output.emit(_record(found) | {"data": str(root), "pool": where, "page": _text(html)})
        return
    _show(found)
    if html is not None:
        output.say(f"the page is {html}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _record(found: "AdHocResult") -> dict[str, Any]:
    return {
        "question": found.question.text,
        "image": _text(found.question.image),
        "instruction": found.instruction,
        "retriever": found.retriever,
        "seconds": found.seconds,
        "notes": list(found.notes),
        "passages": [
            {
                "rank": hit.rank,
                "score": hit.score,
                "passage_id": hit.passage_id,
                "title": hit.title,
                "text": hit.text,
            }
            for hit in found.hits
        ],
    }


def _show(found: "AdHocResult") -> None:
    from m2kr.cli import output

    if found.hits:
        output.table(
            ("rank", "score", "passage", "title", "text"),
            [
                (str(hit.rank), f"{hit.score:.4f}", hit.passage_id, hit.title, cut(hit.text))
                for hit in found.hits
            ],
        )
    else:
        output.say(f"{found.retriever} found nothing")
    for note in found.notes:
        output.say(f"note: {note}")


def cut(text: str, most: int = _TEXT) -> str:
    """The beginning of a text on one line, ending at a word where it can."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    head = line[:most]
    return (head.rpartition(" ")[0] or head) + " …"


def _page(found: "AdHocResult", where: str, checkpoint: str | None) -> str:
    """The page of a result; whatever passages and questions hold is shown as text."""
    from m2kr.report.html import InlineImage, render

    model = f", model {checkpoint}" if checkpoint else ""
    seconds, image = found.seconds, found.question.picture()
    return render(
        "search.html",
        title=found.question.text.strip() or "What is in this image?",
        items=(
            where,
            f"by {found.retriever}{model}",
            f"indexed in {seconds['index']:.1f} s, searched in {seconds['search']:.2f} s",
        ),
        question=found.question.text,
        picture=None if image is None else InlineImage.of(image),
        result=found,
        best=found.hits[0].score if found.hits else 0,
    )
