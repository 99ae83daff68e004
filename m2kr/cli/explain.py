"""``m2kr explain``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2kr.cli import options
from m2kr.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.load import Split
    from m2kr.report.explain.explanation import Explanation
    from m2kr.report.explain.page import Picture

EXAMPLES = (
    "m2kr explain okvqa --checkpoint LinWeizheDragon/PreFLMR_ViT-L --query-id OKVQA_1",
    "m2kr explain mini --checkpoint ./embedded --query-id ID --passage-id factbook/gb/flag",
    "m2kr explain evqa --checkpoint ./my-model --query-id ID --run runs/evqa.parquet --top 5",
)
_PAGE = Path("explain.html")


def command(
    source: Annotated[str, typer.Argument(help="Source name.")],
    checkpoint: options.Checkpoint,
    query_id: Annotated[str, typer.Option("--query-id", help="Query of the split.")],
    passage_id: Annotated[
        list[str] | None,
        typer.Option(
            "--passage-id",
            help="Passage to explain; may be repeated. The first positive if absent.",
        ),
    ] = None,
    run: options.RunOrNone = None,
    top: Annotated[int, typer.Option("--top", min=1, max=100, help="How many of --run.")] = 3,
    split: options.Split = "test",
    revision: options.Revision = None,
    device: options.Device = "auto",
    images: options.Images = None,
    out: options.OutOrNone = None,
    data: options.Data = None,
    edition: options.Edition = None,
    json: options.Json = False,
) -> None:
    """Show what a passage's score is made of: a page with image, heat map and highlighted texts.

    The page is explain.html if --out does not say otherwise, and none with --json.

    The score falls apart exactly into one term per query row: a word, a filler, the image as a
    whole or one of its patches. Each is owed to one token of the passage.
    """
    from m2kr import atomic, paths
    from m2kr.cli import output
    from m2kr.data.load import load
    from m2kr.data.records import Queries
    from m2kr.retrievers._models import require_packages

    require_packages(("torch", "transformers"), "models", "explaining a score")
    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    loaded = load(source, split, edition=edition, data=root, images=images or ())
    query = loaded.query(query_id)
    chosen = _chosen(loaded, query, passage_id, run, top)
    page = out or (None if json else _PAGE)
    if page is not None:
        atomic.require_file(page)
    image = loaded.queries_view.image(query)
    asked = Queries.text(query)
    explained, picture = _explain(checkpoint, revision, device, asked, image, chosen)
    if page is not None:
        _write(page, loaded, query, checkpoint, chosen, explained, picture)
    if json:
        output.emit(
            {
                "data": str(root),
                "source": loaded.source,
                "split": loaded.split,
                "edition": loaded.edition,
                "checkpoint": checkpoint,
                "query_id": query_id,
                "img_path": query["img_path"],
                "page": None if page is None else str(page),
                "passages": [
                    each.as_dict() | shown.as_dict()
                    for each, shown in zip(chosen, explained, strict=True)
                ],
            }
        )
        return
    _show(chosen, explained)
    output.say(f"the page is {page}")


@dataclass(frozen=True, slots=True)
class _Passage:
    """A passage to explain, and its place in the run if it comes from one."""

    row: "dict[str, Any]"
    relevant: bool
    rank: int | None = None
    run_score: float | None = None

    @property
    def facts(self) -> tuple[str, ...]:
        if self.rank is None or self.run_score is None:
            return ()
        return (f"rank {self.rank} of the run", f"scored {self.run_score:.4f} there")

    def as_dict(self) -> "dict[str, Any]":
        return {
            "passage_id": self.row["passage_id"],
            "title": self.row.get("title"),
            "relevant": self.relevant,
            "rank": self.rank,
            "run_score": self.run_score,
        }


def _chosen(
    loaded: "Split",
    query: "dict[str, Any]",
    passage_ids: list[str] | None,
    run: Path | None,
    top: int,
) -> list[_Passage]:
    """The passages that were asked for."""
    positives, query_id = query["pos_item_ids"], query["question_id"]
    if passage_ids and run is not None:
        raise UsageError("--passage-id and --run are both given", expected="one of them")
    if run is not None:
        from m2kr.retrieval.run import Run

        ranking = Run.load(run)
        found = ranking.passage_ids(query_id)[:top]
        scores = ranking.scores(query_id).tolist()
        if not found:
            raise InputError(f"the run has no passage for query '{query_id}'", where=str(run))
        return [
            _Passage(loaded.passage(each), each in positives, place + 1, scores[place])
            for place, each in enumerate(found)
        ]
    if not passage_ids and not positives:
        raise UsageError(
            f"query '{query_id}' has no positive passage to explain",
            expected="--passage-id ID, or --run FILE",
        )
    ids = dict.fromkeys(passage_ids or positives[:1])
    return [_Passage(loaded.passage(each), each in positives) for each in ids]


def _explain(
    checkpoint: str,
    revision: str | None,
    device: str,
    query: str,
    image: "Image | None",
    chosen: list[_Passage],
) -> "tuple[list[Explanation], Picture | None]":
    """The passages' scores taken apart, and the image with the part of it that the model sees."""
    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.model.image_features import ImageFeatures
    from m2kr.report.explain.page import Picture
    from m2kr.report.explain.run import explain_passages, seen
    from m2kr.retrievers._models import pick_device

    model = PreFLMR.from_pretrained(checkpoint, revision=revision, device=pick_device(device))
    explained = explain_passages(
        model, query, [each.row["passage_content"] for each in chosen], image=image
    )
    if image is None:
        return explained, None
    return explained, Picture.seen(image, seen(ImageFeatures(model).processor, image.size))


def _write(
    path: Path,
    loaded: "Split",
    query: "dict[str, Any]",
    checkpoint: str,
    chosen: list[_Passage],
    explained: "list[Explanation]",
    picture: "Picture | None",
) -> None:
    from m2kr import atomic
    from m2kr.report.explain.page import Heading, page

    headings = [
        Heading(
            passage_id=each.row["passage_id"],
            title=each.row.get("title") or "",
            facts=each.facts,
            relevant=each.relevant,
            anchor=f"passage-{n}",
        )
        for n, each in enumerate(chosen, 1)
    ]
    facts = (
        f"query {query['question_id']}",
        f"{loaded.source}/{loaded.split}, edition {loaded.edition}",
        f"model {checkpoint}",
    )
    panels = list(zip(explained, headings, strict=True))
    atomic.write_text(path, page("What the score is made of", facts, panels, picture))


def _show(chosen: list[_Passage], explained: "list[Explanation]") -> None:
    """Scores and their parts as a table."""
    from m2kr.cli import output
    from m2kr.report.explain.text import PARTS

    kinds = list(explained[0].parts)
    heads = ("passage", "right", "score", *(PARTS[kind] for kind in kinds))
    rows = []
    for each, shown in zip(chosen, explained, strict=True):
        parts = [f"{shown.parts[k]:.2f} ({shown.share(shown.parts[k]):.0%})" for k in kinds]
        right = "yes" if each.relevant else ""
        rows.append((each.row["passage_id"], right, f"{shown.score:.4f}", *parts))
    output.table(heads, rows)
