"""One query as people look at it: its image, question, right passages, and what a run ranked."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from m2kr.data.lookup import values_at
from m2kr.errors import M2KRError, UsageError, plainly
from m2kr.evaluation.answers import Span, answer_spans
from m2kr.evaluation.query_text import query_html, query_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.images.store import ImageStore
    from m2kr.data.load import Split
    from m2kr.retrieval.run import Run


@dataclass(frozen=True, slots=True)
class ViewedPassage:
    """A passage of a query, right or retrieved.

    Attributes:
        passage_id: Its id.
        title: Its title; empty where it has none.
        text: Its text; None if the pool has no such passage.
        img_path: The path of its image; None where it has none.
        grade: How it is judged for the query; 0 if it isn't.
        right: Whether metrics count it as right: its grade reaches the split's threshold and no
            passage before it in the run counts as the same one.
        rank: From 1; None if it isn't in the run, or there is none.
        score: In the run.
        answers: Where answers stand in the text; see `m2kr.evaluation.answers.answer_spans`.
    """

    passage_id: str
    title: str
    text: str | None
    img_path: str | None
    grade: float
    right: bool
    rank: int | None
    score: float | None
    answers: tuple[Span, ...]


@dataclass(frozen=True, repr=False)
class QueryView:
    """A query with its right passages and the first ones of a run.

    Attributes:
        source: Source name.
        split: Split name.
        edition: Edition.
        row: The query: ``question_id, instruction, question, img_path, answers, ...``.
        positives: Its right passages, with their ranks in the run.
        ranked: The first passages of the run.
        run: The run's name; None without a run.
        depth: How many passages the run has for the query; None if it lacks the query, or without a run.
        first_right: Rank of the first right passage, as MRR and hit rate count it; None if there is none.
    """

    source: str
    split: str
    edition: str
    row: Mapping[str, Any]
    positives: tuple[ViewedPassage, ...]
    ranked: tuple[ViewedPassage, ...] = ()
    run: str | None = None
    depth: int | None = None
    first_right: int | None = None
    images: "ImageStore | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, split: "Split", query_id: str, run: "Run | None" = None, k: int = 5) -> "QueryView":
        """The view of one query.

        Args:
            split: A loaded split.
            query_id: Query of the split.
            run: Rankings of its queries.
            k: How many of the run's passages.

        Raises:
            InputError: the split has no such query.
            UsageError: ``k`` is below 0.
        """
        if k < 0:
            raise UsageError(f"k is {k}", expected="0 or more")
        row = split.query(query_id)
        answers = row["answers"] or ()
        grades = _grades(row)
        threshold = split.relevance_threshold
        ranking, scores = (
            (run.passage_ids(query_id), run.scores(query_id).tolist())
            if run is not None and query_id in run
            else ([], [])
        )
        places = _counted_as(split, ranking)
        judged = {rank: grades[passage] for passage, rank in places.items() if passage in grades}

        def viewed(passage_id: str, rank: int | None, grade: float) -> ViewedPassage:
            known = split.passage_rows([passage_id])[0] >= 0
            passage = split.passage(passage_id) if known else {}
            text = passage.get("passage_content")
            return ViewedPassage(
                passage_id,
                str(passage.get("title") or ""),
                text,
                passage.get("img_path"),
                grade,
                grade >= threshold,
                rank,
                None if rank is None else scores[rank - 1],
                tuple(answer_spans(text or "", answers)),
            )

        return cls(
            source=split.source,
            split=split.split,
            edition=split.edition,
            row=row,
            positives=tuple(
                viewed(passage_id, places.get(passage_id), grade)
                for passage_id, grade in grades.items()
                if grade >= threshold
            ),
            ranked=tuple(
                viewed(passage_id, rank, judged.get(rank, 0.0))
                for rank, passage_id in enumerate(ranking[:k], 1)
            ),
            run=None if run is None else run.name,
            depth=None if run is None or query_id not in run else len(ranking),
            first_right=min((n for n, grade in judged.items() if grade >= threshold), default=None),
            images=split.images,
        )

    @property
    def query_id(self) -> str:
        """Of the query."""
        return str(self.row["question_id"])

    @property
    def label(self) -> str:
        """Where it is from: ``mini/test (default)``."""
        return f"{self.source}/{self.split} ({self.edition})"

    def __repr__(self) -> str:
        return query_text(self)

    def _repr_html_(self) -> str:
        return query_html(self)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values, texts whole."""
        image = self.image
        return {
            "source": self.source,
            "split": self.split,
            "edition": self.edition,
            "query": dict(self.row),
            "image": {
                "path": self.row["img_path"],
                "size": None if image is None else list(image.size),
                "fault": self.image_fault or None,
            },
            "positives": [asdict(passage) for passage in self.positives],
            "run": self.run,
            "depth": self.depth,
            "first_right": self.first_right,
            "ranked": [asdict(passage) for passage in self.ranked],
        }

    @cached_property
    def image(self) -> "Image | None":
        """The query's image, None where it has none or `image_fault` says why it can't be shown."""
        return self._image[0]

    @property
    def image_fault(self) -> str:
        """Why the image can't be shown; empty where it can, or the query has none."""
        return self._image[1]

    @cached_property
    def _image(self) -> "tuple[Image | None, str]":
        path = self.row["img_path"]
        if path is None:
            return None, ""
        if self.images is None:
            return None, "the source has no image root"
        try:
            with plainly(path):
                if not self.images.exists(path):
                    return None, "not found"
                return self.images.open(path), ""
        except M2KRError as error:
            return None, error.what


def _grades(row: Mapping[str, Any]) -> dict[str, float]:
    """The passages that a query is judged with a grade above 0, the highest of repeated ones."""
    grades: dict[str, float] = {}
    for ids, given in (("pos_item_ids", "pos_item_grades"), ("lost_item_ids", "lost_item_grades")):
        judged: Sequence[str] = row.get(ids) or ()
        for passage_id, grade in zip(judged, row.get(given) or [1.0] * len(judged), strict=True):
            if grade > 0:
                grades[passage_id] = max(grade, grades.get(passage_id, 0.0))
    return grades


def _counted_as(split: "Split", ranking: Sequence[str]) -> dict[str, int]:
    """The first rank of each passage in a ranking, passages that count as another being that one."""
    counted = list(ranking)
    if ranking and "scored_as" in split.passages_view.table.column_names:
        rows = split.passage_rows(ranking)
        others = values_at(split.passages_view.table.column("scored_as"), rows.clip(0))
        known = zip(ranking, others, rows.tolist(), strict=True)
        counted = [other if other and row >= 0 else own for own, other, row in known]
    places: dict[str, int] = {}
    for rank, passage_id in enumerate(counted, 1):
        places.setdefault(passage_id, rank)
    return places
