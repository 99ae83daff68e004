"""Mining negatives: what a retriever ranks high for a query, without all that is, or may be, right.

The file has one row a query and passage, a query's rows best first. A row that is not kept says why:
see `REASONS`. Right passages that were not retrieved stand behind the others without a rank, with the
score that the retriever gives them: a teacher needs it. Such a file is a run as well (`run:FILE`), so
other filters need no other search; and a teacher (see `m2kr.training.teacher`):

    m2kr mine mini -r bm25 --out mined.parquet
    m2kr mine mini -r rerank --set first=run:mined.parquet --set model=FOLDER --out scored.parquet
    m2kr train RECIPE --set negatives.file=mined.parquet --set negatives.mined=4
      --set distillation.kind=kl --set distillation.file=scored.parquet
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import atomic, retrievers
from m2kr._version import __version__
from m2kr.data.load import Split, load
from m2kr.data.lookup import values_at
from m2kr.errors import CheckError, MissingError, UsageError, plainly
from m2kr.evaluation.judge_file import require_run
from m2kr.evaluation.result import file_word
from m2kr.progress import SILENT, Progress, task
from m2kr.retrieval.cache import cache_folder
from m2kr.retrieval.own_code import json_settings, own_code
from m2kr.retrieval.protocol import RetrieverBase, RunContext
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.run import Run
from m2kr.retrieval.run_io import MINED, RUN_META
from m2kr.retrieval.search_split import (
    check_retriever,
    declared_modalities,
    index_pool,
    rank_queries,
    require_images,
    require_queries,
)
from m2kr.training.right_passages import QueryAnswers, RightPassages
from m2kr.training.scored_pairs import FORMAT, read_pairs, read_provenance

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from m2kr.data.records import Queries
    from m2kr.retrieval.protocol import Retriever

    Ints = NDArray[np.int64]

logger = logging.getLogger("m2kr.training")

DEPTH = 100
# Why a passage is no negative; the first that holds is given.
REASONS = (
    "",  # it is one
    "positive",
    "same text as a positive",
    "answer",
    "above positive + margin",
    "positive's score unknown",
)
_KEPT, _POSITIVE, _SAME_TEXT, _ANSWER, _ABOVE, _UNKNOWN = range(len(REASONS))
_ROWS = 1 << 20  # of a row group, at the most
_QUERIES = 10_000  # searched with at once
_PROVED = 8  # of them, whose best passage is scored alone, too
_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("passage_id", pa.string()),
        ("passage_row", pa.int32()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("positive_score", pa.float64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)


@plainly()
def mine(
    source: "str | Split",
    retriever: "str | Retriever | Run",
    *,
    split: str = "train",
    k: int | None = None,
    margin: float | None = None,
    out: "str | PathLike[str] | None" = None,
    settings: Mapping[str, str] | None = None,
    edition: str | None = None,
    data: "str | PathLike[str] | None" = None,
    images: "Sequence[str | Path]" = (),
    progress: Progress = SILENT,
) -> Path:
    """Ranks a split's pool for each of its queries, and writes which passages are negatives.

    Args:
        source: A source name, or a loaded `Split`.
        retriever: As for `m2kr.evaluate`; a run (``run:FILE``, a `Run`) needs no search.
        split: Of a source that is given by name.
        k: Candidates a query; 100, or a run's own depth if that is less.
        margin: A candidate that scores higher than the best right passage by more than this is no
            negative: it may be right. All may score higher if None.
        out: The file; by default one in the folder ``mined`` that is named after what was done.
        settings: Settings of a retriever that is given by name.
        edition: Of the source.
        data: Data root.
        images: Image roots searched first.
        progress: Told of the stages.

    Returns:
        The file; `m2kr.training.scored_pairs.read_provenance` tells what it holds.

    Raises:
        UsageError: k or margin is out of range, or scores are not the re-ranker's so deep.
        MissingError: the split has no right passages, or data, images or packages are not there.
        CheckError: a run lacks queries, or was made for other data.
    """
    if k is not None and k < 1:
        raise UsageError(f"k is {k}", expected="at least 1")
    if margin is not None and not np.isfinite(margin):
        raise UsageError(
            f"margin is {margin}", expected="a number of the retriever's scale of scores"
        )
    opened = (
        source
        if isinstance(source, Split)
        else load(source, split, edition=edition, data=data, images=images)
    )
    made: Retriever
    if isinstance(retriever, str):
        made = retrievers.create(retriever, settings or {})
    else:
        made = (
            RunRetriever(retriever) if isinstance(retriever, Run) else retrievers.adapted(retriever)
        )
    require_run(opened, made, False)  # a judge file has no texts
    miner = _Miner(opened, made, k, margin, progress)
    path = Path(out) if out is not None else Path("mined", miner.name)
    if path.suffix != ".parquet":
        raise UsageError(
            "a mined file is Parquet", where=str(path), expected=f"{path.stem or 'mined'}.parquet"
        )
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    atomic.require_file(path)
    given = None
    if isinstance(retriever, str) and isinstance(made, RunRetriever):
        given = Path(retriever.removeprefix("run:")).expanduser()
        given = given if given.is_file() else given.with_name(made.file)  # it was a pattern
    miner.write(path, given)
    return path


class _Miner:
    """Mines one split with one retriever; everything that can be checked is, before the search."""

    def __init__(
        self,
        split: Split,
        retriever: "Retriever",
        k: int | None,
        margin: float | None,
        progress: Progress,
    ) -> None:
        self._split, self._retriever, self._margin, self._progress = (
            split,
            retriever,
            margin,
            progress,
        )
        check_retriever(retriever)
        self._run = retriever.run if isinstance(retriever, RunRetriever) else None
        self._images = require_images(split, declared_modalities(retriever))
        self._settings = json_settings(retriever)
        self._k = self._depth(k)
        self._positives = RightPassages(split)
        if not len(self._positives.rows):
            raise MissingError(
                "no query has a right passage in the pool, so nothing tells negatives from them",
                where=split.label,
                expected="a split with positives, such as train",
            )
        if self._run is not None:
            self._require_run(self._run)
        self._counts = dict.fromkeys(REASONS, 0)
        self._without = 0
        self._unscored = 0

    def _depth(self, k: int | None) -> int:
        """How deep to go; a re-ranker's scores end at its depth."""
        most = self._run.depth if self._run is not None else None
        if "reranker" in self._settings and type(self._settings.get("depth")) is int:
            most = min(self._settings["depth"], most or self._settings["depth"])
            if k is not None and k > most:
                raise UsageError(
                    f"the re-ranker looks at the first {most} passages; what is below has no score of it",
                    expected=f"-k up to {most}",
                    fix=f"--set depth={k}" if self._run is None else f"-k {most}",
                )
        if k is not None and most is not None and k > most and self._run is not None:
            raise UsageError(f"the run was made {most} deep, and k is {k}", fix=f"-k {most}")
        return k or min(DEPTH, most or DEPTH)

    def _require_run(self, run: Run) -> None:
        made_for = run.recorded.get("fingerprints", {})
        for part in ("queries", "pool"):
            if made_for.get(part, own := self._split.fingerprints[part]) != own:
                raise CheckError(
                    f"the run was made for another {'pool' if part == 'pool' else 'set of queries'} "
                    f"than {self._split.label} has",
                    where=f"run '{run.name}'",
                    fix=f"m2kr eval {self._split.source} --split {self._split.split} -r {run.name}",
                )
        ids = self._split.queries_view.ids.to_pylist()
        require_queries(run, ids, f"run '{run.name}' on {self._split.label}")
        rows = self._split.passages_view.row_numbers(run.vocabulary)
        if (rows < 0).any():
            odd = run.vocabulary[int(np.flatnonzero(rows < 0)[0])].as_py()
            raise CheckError(
                f"it ranks {(rows < 0).sum():,} passages that the pool lacks, such as '{odd}'",
                where=f"run '{run.name}' on {self._split.label}",
            )

    @property
    def _recorded(self) -> dict[str, Any]:
        """What decides the file."""
        retriever: dict[str, Any] = {
            "name": self._retriever.name,
            "settings": self._settings,
            "modalities": declared_modalities(self._retriever).as_dict(),
        }
        if self._run is not None:
            retriever |= {
                "run_sha256": self._run.sha256(),
                "modalities": self._run.recorded.get("modalities", {}),
            }
        return {
            "format": FORMAT,
            "source": self._split.source,
            "split": self._split.split,
            "edition": self._split.edition,
            "fingerprints": self._split.fingerprints,
            "retriever": retriever,
            "k": self._k,
            "margin": self._margin,
        }

    @property
    def name(self) -> str:
        """Of the file: the same for the same experiment, another for any other."""
        raw = json.dumps(self._recorded, sort_keys=True).encode()
        digest = hashlib.sha256(raw).hexdigest()[:8]
        words = (self._split.source, self._split.split, file_word(self._retriever.name))
        return ".".join((*words, digest, "parquet"))

    def write(self, path: Path, run_file: Path | None) -> None:
        """Searches and writes, some queries at a time; the file is there when it is whole."""
        split, queries = self._split, self._split.queries_view
        known = self._known_scores(run_file)
        empty: list[list[Any]] = []
        with (
            atomic.writing(path) as aside,
            tempfile.TemporaryDirectory(prefix="m2kr-", ignore_cleanup_errors=True) as scratch,
        ):
            if self._run is None:
                cache = cache_folder(split.folder.parent)
                context = RunContext(
                    Path(scratch), cache, None, self._progress, split.fingerprints, split
                )
                with task(self._progress, "index", len(split.passages_view)):
                    index_pool(self._retriever, split.passages_view, context)
            with (
                pq.ParquetWriter(
                    aside, _SCHEMA, compression="zstd", write_page_checksum=True
                ) as writer,
                task(self._progress, "mine", len(queries)),
            ):
                for first, run in self._runs(queries):
                    empty += [
                        [first + int(i), run.query_ids[i]]
                        for i in np.flatnonzero(run.counts() == 0)
                    ]
                    for table in self._tables(first, run, known):
                        writer.write_table(table, row_group_size=_ROWS)
                    self._progress.advance("mine", len(run))
                split.require_unharmed()
                facts = self._facts()
                recorded = {
                    "name": self._retriever.name,
                    "format": 1,
                    "empty": empty,
                    "metadata": {
                        **{
                            key: facts[key]
                            for key in ("source", "split", "edition", "fingerprints", "k")
                        },
                        "settings": self._settings,
                        "modalities": facts["retriever"]["modalities"],
                        **({"images": self._images} if self._images else {}),
                    },
                }
                writer.add_key_value_metadata(
                    {
                        MINED: json.dumps(facts, sort_keys=True),
                        RUN_META: json.dumps(recorded, sort_keys=True),
                    }
                )

    def _facts(self) -> dict[str, Any]:
        kept = self._counts[""]
        counts = {reason: count for reason, count in self._counts.items() if reason}
        return {
            **self._recorded,
            "m2kr": __version__,
            "pool_order": self._split.passages_view.order,
            "counts": {
                "queries": len(self._split),
                "candidates": kept + sum(counts.values()),
                "kept": kept,
                "left_out": counts,
                "queries_without_negatives": self._without,
                "queries_whose_positive_has_no_score": self._unscored,
                "queries_without_positive": int((np.diff(self._positives.offsets) == 0).sum()),
                "blank_answers": self._answers.blank,
            },
        }

    def _known_scores(self, run_file: Path | None) -> Any:
        """Scores of right passages that a mined file has which is used as a run."""
        if run_file is None or not run_file.is_file() or read_provenance(run_file) is None:
            return None
        return read_pairs(run_file, self._split, dtype=np.float64)

    def _runs(self, queries: "Queries") -> Iterator[tuple[int, Run]]:
        """The rankings, some queries at a time, with the row of the first."""
        step = max(1, min(_QUERIES, _ROWS // self._k))
        ids = queries.ids
        for first in range(0, len(queries), step):
            stop = min(first + step, len(queries))
            some = ids.slice(first, stop - first).to_pylist()
            if self._run is not None:
                run = self._run.select(some)
            else:
                part = queries.part(first, stop)
                run = rank_queries(self._retriever, part, self._k)
                require_queries(run, some, self._retriever.name)
                run = run.select(some)
            yield first, run.top(self._k)

    def _tables(self, first: int, run: Run, known: Any) -> Iterator[pa.Table]:
        """The file's rows for some queries, from their rankings."""
        split, positives = self._split, self._positives
        vocabulary = split.passages_view.row_numbers(run.vocabulary)
        if (vocabulary < 0).any():
            odd = run.vocabulary[int(np.flatnonzero(vocabulary < 0)[0])].as_py()
            raise CheckError(
                f"it ranks the passage '{odd}', which the pool lacks",
                where=f"retriever {self._retriever.name} on {split.label}",
            )
        rows = vocabulary[run.codes]
        owners = first + run.owners()
        is_positive = positives.hold(owners, positives.counted_as(rows))
        reason = np.zeros(len(rows), np.int64)
        reason[is_positive] = _POSITIVE
        left = np.flatnonzero(reason == _KEPT)
        reason[left[positives.same_text(owners[left], rows[left])]] = _SAME_TEXT
        left = np.flatnonzero(reason == _KEPT)
        reason[left[self._answers.within(owners[left], rows[left])]] = _ANSWER
        last = first + len(run)
        missing = self._not_retrieved(
            first, last, owners[is_positive], rows[is_positive], run.counts()
        )
        extra = self._scores_of(first, run, rows, missing, known)
        best = np.full(len(run), -np.inf)
        np.maximum.at(best, owners[is_positive] - first, run.flat_scores[is_positive])
        for place, scores in enumerate(extra):
            if scores is not None and len(scores):
                best[place] = max(best[place], float(np.max(scores)))
        best[np.isneginf(best)] = np.nan
        some = run.counts() > 0
        self._unscored += int((np.isnan(best) & some).sum())
        if self._margin is not None:
            left = np.flatnonzero(reason == _KEPT)
            limit = best[owners[left] - first] + self._margin
            reason[left[run.flat_scores[left] > limit]] = _ABOVE
            reason[left[np.isnan(limit)]] = _UNKNOWN
        kept = reason == _KEPT
        for number, name in enumerate(REASONS):
            self._counts[name] += int((reason == number).sum())
        self._without += int((np.bincount(owners[kept] - first, minlength=len(run)) == 0).sum())
        yield self._table(run, rows, reason, best, missing, extra)

    def _not_retrieved(
        self, first: int, last: int, owners: "Ints", rows: "Ints", counts: "Ints"
    ) -> "list[Ints]":
        """By query the right passages that its ranking lacks; none where there is no ranking."""
        offsets = self._positives.offsets
        by_query = np.split(rows, np.searchsorted(owners, np.arange(first + 1, last)))
        missing = []
        for place, ranked in enumerate(by_query):
            own = self._positives.rows[offsets[first + place] : offsets[first + place + 1]]
            missing.append(own[~np.isin(own, ranked)] if counts[place] else own[:0])
        return missing

    def _scores_of(
        self, first: int, run: Run, rows: "Ints", missing: "list[Ints]", known: Any
    ) -> "list[NDArray[np.float64] | None]":
        """Scores of right passages that were not retrieved; None where nobody knows them."""
        if self._run is None:
            return self._pair_scores(run, rows, missing) or [None] * len(missing)
        if known is None:
            return [None] * len(missing)
        found: list[NDArray[np.float64] | None] = []
        for place, rows in enumerate(missing):
            start, stop = known.offsets[first + place : first + place + 2]
            score = dict(
                zip(known.rows[start:stop].tolist(), known.scores[start:stop].tolist(), strict=True)
            )
            found.append(
                np.array([score[row] for row in rows.tolist()])
                if all(row in score for row in rows.tolist())
                else None
            )
        return found

    def _pair_scores(
        self, run: Run, rows: "Ints", missing: "list[Ints]"
    ) -> "list[NDArray[np.float64] | None] | None":
        """What the retriever says of them, if it says of some ranked passages what its search said."""
        retriever = self._retriever
        if not isinstance(retriever, RetrieverBase):
            return None
        proved = np.flatnonzero(run.counts())[:_PROVED]
        asked = list(missing)
        for place in proved.tolist():
            asked[place] = np.append(rows[run.offsets[place]], missing[place])
        with own_code(retriever, f"{type(retriever).__name__}.pair_scores"):
            scores = retriever.pair_scores(asked)
        if scores is None:
            return None
        made: list[NDArray[np.float64] | None] = [*scores]
        for place in proved.tolist():
            if not np.isclose(scores[place][0], run.flat_scores[run.offsets[place]], rtol=1e-4):
                logger.warning(
                    "%s scores a passage otherwise when it is asked for it alone, so right passages "
                    "that it doesn't retrieve have no score",
                    retriever.name,
                )
                return None
            made[place] = scores[place][1:]
        return made

    def _table(
        self,
        run: Run,
        rows: "Ints",
        reason: "Ints",
        best: "NDArray[np.float64]",
        missing: "list[Ints]",
        extra: "list[NDArray[np.float64] | None]",
    ) -> pa.Table:
        """Ranked rows and, behind them, the query's right passages without a rank."""
        split, counts = self._split, run.counts()
        added = [m if e is not None else m[:0] for m, e in zip(missing, extra, strict=True)]
        more = np.array([len(a) for a in added], np.int64)
        places = np.arange(len(run))
        owner = np.concatenate([run.owners(), np.repeat(places, more)])
        order = np.argsort(owner, kind="stable")
        owner = owner[order]
        size = int(more.sum())
        scores = np.concatenate(
            [run.flat_scores, *(e for e in extra if e is not None)], dtype=np.float64
        )
        all_rows = np.concatenate([rows, *added]).astype(np.int64)
        ranks = np.arange(len(rows)) - np.repeat(run.offsets[:-1], counts) + 1
        unranked = np.arange(len(all_rows)) >= len(rows)
        reasons = np.concatenate([reason, np.full(size, _POSITIVE)])[order]
        ids = values_at(split.passages_view.ids, all_rows[order])
        best = best[owner]
        return pa.table(
            {
                "question_id": pa.array(run.query_ids, pa.string()).take(pa.array(owner)),
                "passage_id": pa.array(ids, pa.string()),
                "passage_row": pa.array(all_rows[order].astype(np.int32)),
                "rank": pa.array(
                    np.concatenate([ranks, np.zeros(size, np.int64)])[order].astype(np.int32),
                    mask=unranked[order],
                ),
                "score": pa.array(scores[order]),
                "positive_score": pa.array(best, mask=np.isnan(best)),
                "kept": pa.array(reasons == _KEPT),
                "reason": pa.array(REASONS, pa.string()).take(pa.array(reasons)),
            },
            schema=_SCHEMA,
        )

    @cached_property
    def _answers(self) -> "QueryAnswers":
        return QueryAnswers(self._split)
