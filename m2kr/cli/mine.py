"""``m2kr mine``."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = (
    "m2kr mine mini -r bm25",
    "m2kr mine okvqa -r preflmr --set checkpoint=trained/stage-2/model -k 200 --margin 0.5",
    "m2kr mine msmarco -r run:results/msmarco.train.bm25.1a2b3c4d.run.parquet --out mined.parquet",
    "m2kr mine mini -r rerank --set first=run:mined.parquet --out scored.parquet",
)


def command(
    source: Annotated[str, typer.Argument(help="Source whose queries negatives are mined for.")],
    retriever: options.Retriever,
    split: options.Split = "train",
    k: options.KOrNone = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="Leave out what scores higher than the best right passage by more than this.",
            show_default=False,
        ),
    ] = None,
    set_: options.Settings = None,
    out: options.OutOrNone = None,
    images: options.Images = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Mine negatives for training: what a retriever, or a run, ranks high and is not right.

    Left out are right passages, texts equal to theirs, texts that hold an answer (as pseudo recall
    finds it), and, with --margin, what scores above the best right passage by more than that. 100
    candidates a query, unless -k says otherwise.

    The file goes to the folder mined, named after what was done. Training takes it as
    negatives.file, and its scores as distillation.file. It is a run, too: -r run:FILE mines it again
    with other filters, and searches nothing.
    """
    from m2kr import paths
    from m2kr.cli import output, swapped
    from m2kr.training.mine import mine
    from m2kr.training.scored_pairs import read_provenance
    from m2kr.training.step_lines import duration

    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    output.say(f"mining {source}/{split} with {retriever}", json_mode=True)
    began = time.monotonic()
    with swapped.hint(root, "mine", source, "-r", [retriever]), output.Bars() as bars:
        path = mine(
            source,
            retriever,
            split=split,
            k=k,
            margin=margin,
            out=out,
            settings=options.settings(set_),
            edition=edition,
            data=root,
            images=images or (),
            progress=bars,
        )
    output.say(f"mined in {duration(time.monotonic() - began)}", json_mode=True)
    facts = read_provenance(path) or {}
    if json:
        output.emit({"out": str(path), "bytes": path.stat().st_size, **facts})
        return
    counts = facts["counts"]
    queries, name = counts["queries"], facts["retriever"]["name"]
    fewer = queries * facts["k"] - counts["candidates"]  # bm25 ranks what shares a word, say
    rows = [("negatives", counts["kept"])]
    rows += [(f"left out: {reason}", n) for reason, n in counts["left_out"].items() if n]
    rows += [
        (f"fewer than {facts['k']} passages ranked: lacking", fewer),
        ("queries without negatives", counts["queries_without_negatives"]),
        ("queries without a right passage", counts["queries_without_positive"]),
        (
            "queries whose right passages have no score",
            counts["queries_whose_positive_has_no_score"],
        ),
        ("blank answers, which are not looked for", counts["blank_answers"]),
    ]
    output.table(
        (f"{source}/{facts['split']}, {name}, {queries:,} queries x {facts['k']}", "number"),
        [(words, f"{n:,}") for words, n in rows if n or words == "negatives"],
    )
    output.say(f"{path} ({output.size(path.stat().st_size)})")
    output.say(f"next: {_next(facts, path, edition, data, images or ())}")


def _next(
    facts: "dict[str, Any]",
    path: Path,
    edition: str | None,
    data: Path | None,
    images: "Sequence[Path]",
) -> str:
    """A command that trains with the file."""
    share = {"source": facts["source"], "split": facts["split"], "edition": edition}
    source = facts["source"]
    if edition or facts["split"] != "train":
        inner = ", ".join(f"{key}: {value}" for key, value in share.items() if value)
        source = f"[{{{inner}}}]"
    words = ["m2kr", "train", "fine-tuning"]
    for setting in (
        "start.checkpoint=embedded",
        f"data.sources={source}",
        "negatives.uniform=0",
        "negatives.mined=4",
        f"negatives.file={path}",
    ):
        words += ["--set", setting]
    words += [] if data is None else ["--data", str(data)]
    words += [word for image in images for word in ("--images", str(image))]
    return shlex.join(words)
