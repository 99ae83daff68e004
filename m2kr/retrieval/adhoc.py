"""One query of one's own, a question or an image or both, asked of a built split's pool."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.instructions import TEMPLATES
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.protocol import Modalities, RunContext
from m2kr.retrieval.search_split import (
    check_retriever,
    declared_modalities,
    index_pool,
    rank_queries,
    require_images,
)
from m2kr.schema import QUERY_COLUMNS, arrow_schema, default_value

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.data.load import Split
    from m2kr.data.records import Queries
    from m2kr.retrieval.protocol import Retriever

_ID = "asked"
_READ = 1000
_SEEN = 10_000  # queries among which an instruction is looked for
_MOST_BYTES = 256 << 20
# Which list suits a query with or without question and image, where the split has none like it.
_LISTS = {(True, True): "iq2t", (False, True): "wit", (True, False): "msmarco"}


@dataclass(frozen=True, slots=True)
class AdHocQuery:
    """What is asked.

    Attributes:
        text: The question; may be empty if there is an image.
        image: An image file.
        instruction: None for one like those of the split's own queries; see `instruction_for`.
    """

    text: str = ""
    image: Path | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip() and self.image is None:
            raise UsageError("nothing is asked", expected="a question, an image, or both")

    def picture(self) -> "Image | None":
        """The decoded RGB image.

        Raises:
            MissingError: there is no such file.
            InputError: it is no image, damaged, or too large.
        """
        from m2kr.data.images.store import decode

        return None if self.image is None else decode(self._bytes(), str(self.image))

    def _bytes(self) -> bytes:
        assert self.image is not None
        if not self.image.is_file():
            raise MissingError("there is no such image file", where=str(self.image))
        if self.image.stat().st_size > _MOST_BYTES:
            raise InputError("the file is too large for an image", where=str(self.image))
        return self.image.read_bytes()

    def queries(self, instruction: str, folder: Path) -> "Queries":
        """It as the only query of a split; the image is copied into ``folder``."""
        import pyarrow as pa

        from m2kr.data.images.store import ImageStore
        from m2kr.data.records import Queries

        row: dict[str, Any] = {column.name: default_value(column) for column in QUERY_COLUMNS}
        row |= {"question_id": _ID, "question": self.text, "instruction": instruction}
        store = None
        if self.image is not None:
            # Under a name of ours: a file may be called what no img_path may.
            (folder / "image").write_bytes(self._bytes())
            row["img_path"] = "image"
            store = ImageStore([folder])
        table = pa.Table.from_pylist([row], schema=arrow_schema(QUERY_COLUMNS))
        return Queries(table, store)


@dataclass(frozen=True, slots=True)
class AdHocHit:
    """A passage that was found.

    Attributes:
        rank: From 1.
        score: The retriever's.
        passage_id: Its id.
        title: Its title; may be empty.
        text: All of it.
    """

    rank: int
    score: float
    passage_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class AdHocResult:
    """An answer.

    Attributes:
        question: What was asked.
        instruction: That the query was given.
        retriever: Name of who answered.
        hits: Best first; fewer than k where the retriever found no more.
        seconds: ``index`` and ``search``.
        notes: What a reader should know, such as that the image was not looked at.
    """

    question: AdHocQuery
    instruction: str
    retriever: str
    hits: tuple[AdHocHit, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def search_one(
    split: "Split",
    retriever: "Retriever",
    question: AdHocQuery,
    k: int = 5,
    *,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> AdHocResult:
    """The best passages of a split's pool for a query that is not in the split.

    Args:
        split: Whose pool is searched.
        retriever: Any; it indexes the pool first.
        question: What is asked.
        k: Passages.
        cache: Folder in which the pool's encoded rows are kept, as for evaluations.
        progress: Told of the stages and the rows that are done of them.

    Raises:
        UsageError: the retriever reads nothing of what is asked, or only replays a run.
        MissingError: the image file is not there, or passages' images that the retriever reads.
        InputError: the image can't be decoded.
    """
    if k < 1:
        raise UsageError(f"k is {k}", expected="at least 1")
    check_retriever(retriever)
    reads = declared_modalities(retriever)
    notes = _unread(retriever.name, reads, question)
    question.picture()  # before the pool is indexed
    require_images(split, Modalities(query=frozenset(), passage=reads.passage))
    instruction = question.instruction
    if instruction is None:
        instruction = instruction_for(split, question)
    pool = split.passages_view
    with tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True) as scratch:
        query_folder, work = Path(scratch, "query"), Path(scratch, "index")
        query_folder.mkdir()
        work.mkdir()
        context = RunContext(work, cache, progress=progress, fingerprints=split.fingerprints)
        started = time.perf_counter()
        with task(progress, "index", len(pool)):
            index_pool(retriever, pool, context)
        indexed = time.perf_counter()
        run = rank_queries(retriever, question.queries(instruction, query_folder), k)
        seconds = {"index": indexed - started, "search": time.perf_counter() - indexed}
    if _ID not in run:
        raise UsageError(
            "it has no ranking for a new query",
            where=f"retriever {retriever.name}",
            expected="a retriever that searches; a run that is replayed can't",
        )
    best = run.top(k)
    hits = _hits(split, best.passage_ids(_ID), best.scores(_ID).tolist())
    return AdHocResult(question, instruction, retriever.name, hits, seconds, notes)


def instruction_for(split: "Split", question: AdHocQuery) -> str:
    """The instruction of the split's first query that also has, or lacks, a question and an image.

    So it is one of the source's own templates. Where there is no such query among the first 10,000,
    it is the first template for queries of that form.
    """
    form = (bool(question.text.strip()), question.image is not None)
    seen = 0
    for rows in split.queries_view.batches(_READ):
        for row in rows:
            if (bool(row["question"].strip()), row["img_path"] is not None) == form:
                return str(row["instruction"])
        seen += len(rows)
        if seen >= _SEEN:
            break
    return TEMPLATES[_LISTS[form]].templates[0]


def _unread(name: str, modalities: Modalities, question: AdHocQuery) -> tuple[str, ...]:
    """Notes on what the retriever doesn't read; refuses what leaves it nothing to read."""
    reads, text = modalities.query, bool(question.text.strip())
    if reads == {"text"} and not text:
        raise UsageError(
            f"{name} reads text alone, and there is no question",
            fix='--question "...", or a retriever that looks at images',
        )
    if reads == {"image"} and question.image is None:
        raise UsageError(f"{name} looks at images alone, and there is none", fix="--image FILE")
    given = {"text": text, "image": question.image is not None}
    unread = {"text": "read the question", "image": "look at the image"}
    return tuple(
        f"{name} does not {unread[kind]}" for kind in unread if given[kind] and kind not in reads
    )


def _hits(split: "Split", ids: Sequence[str], scores: Sequence[float]) -> tuple[AdHocHit, ...]:
    rows = [split.passage(passage_id) for passage_id in ids]
    return tuple(
        AdHocHit(rank, score, passage_id, row.get("title") or "", row["passage_content"])
        for rank, (passage_id, score, row) in enumerate(zip(ids, scores, rows, strict=True), 1)
    )
