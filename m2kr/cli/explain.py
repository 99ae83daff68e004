"""``m2kr explain``."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from m2kr.cli import options
from m2kr.errors import InputError, UsageError

if TYPE_CHECKING:
    from m2kr.data.load import Split
    from m2kr.data.records import Queries
    from m2kr.evaluation.query_view import ViewedPassage
    from m2kr.report.explain.explanation import Explanation
    from m2kr.report.explain.page import Picture
    from m2kr.retrieval.adhoc import AdHocQuery
    from m2kr.retrieval.encoder import EncoderRetriever

EXAMPLES = (
    "m2kr explain okvqa --checkpoint LinWeizheDragon/PreFLMR_ViT-L --query-id OKVQA_1",
    "m2kr explain mini --checkpoint ./embedded --query-id ID --passage-id factbook/gb/flag",
    "m2kr explain evqa --checkpoint ./my-model --query-id ID --run runs/evqa.parquet -k 5",
    "m2kr explain mini -r my_late.py:MyLate --query-id ID --run results/mini.test.mylate.1a2b.json",
    'm2kr explain mini -r my_late.py:MyLate --image cat.jpg --question "What breed is this?"',
)
_PAGE = Path("explain.html")
_MOST = 100
_TRAINED = ("preflmr", "flmr")  # retrievers whose rows are known one by one


@dataclass(frozen=True, slots=True)
class _Model:
    """Who makes the score.

    Attributes:
        name: For people.
        retriever: Any late-interaction encoder; None for a checkpoint of ours, whose rows are known.
        checkpoint: A folder or hub id.
        instructed: Whether a checkpoint reads instructions beside questions.
        revision: Of a hub id.
        device: For a checkpoint.
    """

    name: str
    retriever: "EncoderRetriever | None" = None
    checkpoint: str | None = None
    instructed: bool = True
    revision: str | None = None
    device: str = "auto"

    def searcher(self) -> "EncoderRetriever":
        """The retriever, to search a pool with."""
        if self.retriever is not None:
            return self.retriever
        from m2kr.retrievers import create

        given = {"checkpoint": self.checkpoint, "revision": self.revision, "device": self.device}
        kind = _TRAINED[0] if self.instructed else _TRAINED[1]
        made = create(kind, {k: v for k, v in given.items() if v is not None})
        return cast("EncoderRetriever", made)


def command(
    source: Annotated[str, typer.Argument(help="Source name.")],
    checkpoint: options.CheckpointOrNone = None,
    retriever: options.RetrieverOrNone = None,
    query_id: Annotated[
        str | None, typer.Option("--query-id", help="Query of the split; or ask your own.")
    ] = None,
    question: options.Question = "",
    image: options.ImageOrNone = None,
    instruction: options.Instruction = None,
    passage_id: Annotated[
        list[str] | None,
        typer.Option(
            "--passage-id",
            help="Passage to explain; may be repeated. If absent: of --run; the first positive; or "
            "what is found for your own question.",
        ),
    ] = None,
    run: options.RunOrNone = None,
    k: options.K = 3,
    set_: options.Settings = None,
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

    The score of late interaction falls apart exactly into one term per query row: a word, a filler, the
    image as a whole or one of its patches. Each is owed to one token of the passage. With --run the best
    right passage stands beside what was found. A retriever of your own names its rows by row_labels.
    """
    from m2kr import atomic, paths
    from m2kr.cli import output
    from m2kr.data.load import load
    from m2kr.retrieval.adhoc import AdHocQuery, instruction_for

    own = bool(question.strip()) or image is not None
    if own == (query_id is not None):
        raise UsageError(
            "there are two queries" if own else "nothing is asked",
            expected="--query-id ID, or --question and --image of your own",
        )
    if k > _MOST:
        raise UsageError(f"{k} passages on one page", expected=f"-k of at most {_MOST}")
    if passage_id and run is not None:
        raise UsageError("--passage-id and --run are both given", expected="one of them")
    if own and run is not None:
        raise UsageError(
            "a run has no passages for a question of your own",
            expected="--query-id ID, or no --run",
        )
    root = paths.data_root(data)
    output.say(f"data root: {root}", json_mode=json)
    loaded = load(source, split, edition=edition, data=root, images=images or ())
    page = out or (None if json else _PAGE)
    if page is not None:
        atomic.require_file(page)
    chosen: list[ViewedPassage] = []
    if query_id is not None:
        query = _one_query(loaded, loaded.query(query_id))
        chosen = _chosen(loaded, query_id, passage_id, run, k)
    else:
        chosen = [_passage(loaded.passage(one)) for one in dict.fromkeys(passage_id or ())]
    model = _model(checkpoint, retriever, options.settings(set_), revision, device)
    with tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True) as scratch:
        if own:
            asked = AdHocQuery(question, image, instruction)
            told = instruction_for(loaded, asked) if instruction is None else instruction
            query = asked.queries(told, Path(scratch))
            chosen = chosen or _found(loaded, model, asked, k, root)
        row = query[0]
        explained, picture = _explain(model, loaded, query, chosen)
    if page is not None:
        _write(page, loaded, row, model.name, chosen, explained, picture, own=own)
    if json:
        output.emit(
            {
                "data": str(root),
                "source": loaded.source,
                "split": loaded.split,
                "edition": loaded.edition,
                "checkpoint": model.checkpoint,
                "model": model.name,
                "query_id": query_id,
                "question": row["question"],
                "img_path": str(image) if image is not None else row["img_path"],
                "page": None if page is None else str(page),
                "passages": [
                    _record(passage, own=own) | shown.as_dict()
                    for passage, shown in zip(chosen, explained, strict=True)
                ],
            }
        )
        return
    _show(chosen, explained, own=own)
    output.say(f"the page is {page}")


def _model(
    checkpoint: str | None,
    retriever: str | None,
    settings: dict[str, str],
    revision: str | None,
    device: str,
) -> _Model:
    """The model that options name.

    Raises:
        UsageError: none is named, or the retriever encodes nothing.
    """
    from m2kr.retrieval.encoder import EncoderRetriever
    from m2kr.retrievers import create, find
    from m2kr.retrievers._models import require_packages

    if retriever is None and checkpoint is None:
        raise UsageError(
            "no model is named",
            expected="--checkpoint FOLDER for PreFLMR, or --retriever NAME for any late interaction",
        )
    plain = retriever.lower() if retriever else _TRAINED[0]
    if plain in _TRAINED and not settings:
        require_packages(("torch", "transformers"), "models", "explaining a score")
        released: Any = find(plain)
        name = checkpoint or released.released
        instructed = retriever is None or released.instructed
        return _Model(f"model {name}", None, name, instructed, revision, device)
    given = {"checkpoint": checkpoint, "revision": revision, "device": device}
    settings = settings | {k: v for k, v in given.items() if v not in (None, "auto")}
    made = create(retriever or plain, settings)
    if not isinstance(made, EncoderRetriever):
        raise UsageError(
            f"{made.name} has no vectors, so its scores don't fall apart",
            expected="a late-interaction retriever: an EncoderRetriever that gives lists of 2-D arrays",
        )
    return _Model(f"retriever {made.name}", made, checkpoint)


def _chosen(
    loaded: "Split", query_id: str, passage_ids: list[str] | None, run: Path | None, k: int
) -> "list[ViewedPassage]":
    """The passages that were asked for; of a run its first ones, after the best of the right ones."""
    from m2kr.evaluation.query_view import QueryView
    from m2kr.evaluation.rankings import open_run

    if run is None:
        view = QueryView.of(loaded, query_id)
        right = {passage.passage_id: passage for passage in view.positives}
        if passage_ids:
            rows = {one: loaded.passage(one) for one in passage_ids}
            return [right.get(one) or _passage(row) for one, row in rows.items()]
        known = [passage for passage in view.positives if passage.text is not None]
        if not known:
            raise UsageError(
                f"query '{query_id}' has no positive passage to explain",
                expected="--passage-id ID, or --run FILE",
            )
        return known[:1]
    view = QueryView.of(loaded, query_id, open_run(run, loaded), k)
    if view.depth is None:
        raise UsageError(f"query '{query_id}' is not in the run", where=str(run))
    if not view.ranked:
        raise InputError(f"the run has no passage for query '{query_id}'", where=str(run))
    for passage in view.ranked:
        loaded.passage(passage.passage_id)
    best = sorted(
        (passage for passage in view.positives if passage.text is not None),
        key=lambda passage: passage.rank or float("inf"),
    )
    shown = any(passage.right for passage in view.ranked)
    return [*(best[:1] if not shown else ()), *view.ranked]


def _passage(
    row: "dict[str, Any]", rank: int | None = None, score: float | None = None
) -> "ViewedPassage":
    """A passage that isn't judged for the query."""
    from m2kr.evaluation.query_view import ViewedPassage

    title, text = str(row.get("title") or ""), row["passage_content"]
    image = row.get("img_path")
    return ViewedPassage(row["passage_id"], title, text, image, 0.0, False, rank, score, ())


def _found(
    loaded: "Split", model: _Model, asked: "AdHocQuery", k: int, root: Path
) -> "list[ViewedPassage]":
    """The passages that the model itself finds for a question of one's own."""
    from m2kr.cli import output
    from m2kr.retrieval.adhoc import search_one
    from m2kr.retrieval.cache import cache_folder

    with output.Bars() as bars:
        found = search_one(
            loaded, model.searcher(), asked, k, cache=cache_folder(root), progress=bars
        )
    if not found.hits:
        raise InputError(f"{model.name} finds nothing for this", fix="--passage-id ID")
    return [_passage(loaded.passage(hit.passage_id), hit.rank, hit.score) for hit in found.hits]


def _one_query(loaded: "Split", row: "dict[str, Any]") -> "Queries":
    """A query of the split by itself."""
    import pyarrow as pa

    from m2kr.data.records import Queries

    table = pa.Table.from_pylist([row], schema=loaded.queries_view.table.schema)
    return Queries(table, loaded.images)


def _explain(
    model: _Model, loaded: "Split", query: "Queries", chosen: "list[ViewedPassage]"
) -> "tuple[list[Explanation], Picture | None]":
    """The passages' scores taken apart, and the image with the part of it that the model sees."""
    import pyarrow as pa

    from m2kr.data.records import Passages
    from m2kr.report.explain.encoded import explain_encoded
    from m2kr.report.explain.page import Picture
    from m2kr.retrieval.search_split import declared_modalities

    row = query[0]
    if model.retriever is not None:
        rows = [loaded.passage(passage.passage_id) for passage in chosen]
        table = pa.Table.from_pylist(rows, schema=loaded.passages_view.table.schema)
        pool = Passages(table, loaded.images)
        explained = explain_encoded(model.retriever, query, pool)
        reads = "image" in declared_modalities(model.retriever).query
        image = query.image(row) if reads else None
        return explained, None if image is None else Picture.seen(image)
    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.model.image_features import ImageFeatures
    from m2kr.report.explain.run import explain_passages, seen
    from m2kr.retrievers._models import pick_device
    from m2kr.retrievers._queries import query_text

    image = query.image(row)
    text = query.text(row) if model.instructed else query_text(row["question"], row["instruction"])
    loaded_model = PreFLMR.from_pretrained(
        str(model.checkpoint), revision=model.revision, device=pick_device(model.device)
    )
    texts = [passage.text or "" for passage in chosen]
    explained = explain_passages(loaded_model, text, texts, image=image)
    if image is None:
        return explained, None
    return explained, Picture.seen(image, seen(ImageFeatures(loaded_model).processor, image.size))


def _write(
    path: Path,
    loaded: "Split",
    query: "dict[str, Any]",
    model: str,
    chosen: "list[ViewedPassage]",
    explained: "list[Explanation]",
    picture: "Picture | None",
    *,
    own: bool,
) -> None:
    from m2kr import atomic
    from m2kr.report.explain.page import Heading, page

    headings = [
        Heading(
            passage_id=passage.passage_id,
            title=passage.title,
            facts=_place(passage, own=own),
            relevant=None if own else passage.right,
            anchor=f"passage-{n}",
        )
        for n, passage in enumerate(chosen, 1)
    ]
    facts = (
        "" if own else f"query {query['question_id']}",
        f"{loaded.source}/{loaded.split}, edition {loaded.edition}",
        model,
    )
    panels = list(zip(explained, headings, strict=True))
    atomic.write_text(path, page("What the score is made of", facts, panels, picture))


def _place(passage: "ViewedPassage", *, own: bool) -> tuple[str, ...]:
    if passage.rank is None or passage.score is None:
        return ()
    if own:
        return (f"rank {passage.rank}",)
    return (f"rank {passage.rank} of the run", f"scored {passage.score:.4f} there")


def _record(passage: "ViewedPassage", *, own: bool) -> "dict[str, Any]":
    return {
        "passage_id": passage.passage_id,
        "title": passage.title or None,
        "relevant": None if own else passage.right,
        "rank": passage.rank,
        "run_score": None if own else passage.score,
    }


def _show(chosen: "list[ViewedPassage]", explained: "list[Explanation]", *, own: bool) -> None:
    """Scores and their parts as a table."""
    from m2kr.cli import output
    from m2kr.report.explain.text import PARTS

    kinds = list(explained[0].parts)
    columns: dict[str, list[str]] = {"passage": [passage.passage_id for passage in chosen]}
    if not own:
        columns["right"] = ["yes" if passage.right else "" for passage in chosen]
    if any(passage.rank for passage in chosen):
        columns["rank"] = [str(passage.rank or "–") for passage in chosen]
    columns["score"] = [f"{shown.score:.4f}" for shown in explained]
    for kind in kinds:
        parts = ((shown.parts[kind], shown.share(shown.parts[kind])) for shown in explained)
        columns[PARTS[kind]] = [f"{part:.2f} ({share:.0%})" for part, share in parts]
    output.table(tuple(columns), list(zip(*columns.values(), strict=True)))
