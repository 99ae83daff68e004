"""What an evaluation found, with everything that it depends on."""

import dataclasses
import hashlib
import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from m2kr import atomic
from m2kr._version import __version__
from m2kr.display import html_table, on_one_line
from m2kr.errors import CheckError, InputError, MissingError
from m2kr.evaluation.memory import highest_memory
from m2kr.evaluation.result_form import require_result_form

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

    from m2kr.evaluation.query_view import QueryView
    from m2kr.retrieval.run import Run

FORMAT = "m2kr-result-1"
_PACKAGES = ("torch", "transformers", "datasets", "bm25s", "ranx")  # in `versions`, if loaded
_GROUP = (
    "group."  # before a column's name among the per-query scores; no metric has a point in its name
)
_LONGEST_PART = 60  # characters; file names end at 255 bytes


def file_word(text: str) -> str:
    """A text as a part of a file name."""
    return re.sub(r"[^\w+-]+", "-", text)[:_LONGEST_PART] or "-"


@dataclass(frozen=True, repr=False)
class Result:
    """Scores of one run on one split.

    Attributes:
        source: Source name.
        split: Split name.
        edition: Edition that was evaluated.
        retriever: ``name``, ``settings``, ``modalities`` (``query`` and ``passage``) and, where there
            are any: ``arguments`` that it was made with and that its settings don't have; ``label``;
            ``run`` (``file`` and ``sha256``) of a run that was replayed, whose records the others are;
            ``reused``: rows by stage that this process, or another run, had computed before.
        k: Depth of the run.
        headline: The metric that the source's paper reports first.
        metrics: By name ``value``, ``low`` and ``high`` (95 % bootstrap interval) and ``n``, the number
            of queries for which it is defined; the first three are None where that is 0.
        groups: By column and its value ``n`` queries and those of the ``metrics`` that are defined there.
        counts: Queries, passages and what is odd about some of them.
        images: ``policy``, ``total``, ``found`` and three ``missing``; None where none was read.
        fingerprints: ``queries, judgements, pool, eval, image_paths`` of the data; ``images`` of the
            query images by content, None unless the retriever reads them.
        run_sha256: Hash of the rankings.
        partial: Whether the build was limited.
        comparable: Why the scores don't compare with published ones; empty where they do.
        seconds: ``load`` (the split, its images, weights), ``encode``, ``index``, ``search``, ``score``
            and ``total``; there is no ``load`` and ``score`` in results of older versions.
        cost: ``cpu_seconds`` by the same stages, in all threads and in child processes that have ended;
            ``passages_per_second`` that were encoded (of retrievers without an encoder: indexed) and
            ``queries_per_second`` that were searched, None where nothing was;
            ``peak_host_bytes``, which are of what ``peak_host_of`` says (``this evaluation``, or ``the
            process so far``); ``peak_device_bytes`` allocated on GPUs, None if none was used;
            ``bytes_per_passage``; ``device``, by name; ``energy_joules`` of what ``energy_of`` says,
            both None where it can't be read; ``reused``: ``rows`` by stage that were taken from a cache,
            and the ``seconds`` of that, which are in the total and in no stage. Empty in results of
            older versions.
        peak_memory_bytes: Highest resident memory of the process so far; None where unknown.
        bytes_per_passage: Size of the index on disk by passages; None where it has none.
        versions: Of Python, the platform and the packages in use.
        experiment: What was done, as JSON values: the data, what the retriever was made with, how it
            searched, depth and metrics. It names the files.
        shown: The metrics that tables show.
        notes: What must be said beside the scores, in sentences.
        search: How token vectors were searched: ``mode`` (``exact``, ``compressed``, ``official``), all
            settings of the others with ``index_bytes`` and, if asked for, ``audit`` (``queries`` and
            the recall against exact search, ``recall@k``) and ``seeds`` (of several indexes the
            ``mean``, ``low`` and ``high`` of each metric); ``seconds_per_query``,
            ``cpu_seconds_per_query``, and what it ran on. None for every other kind of retrieval, and
            in results of older versions.
        ablations: By change of the queries, such as ``no image``: ``metrics`` (by name ``value`` and
            ``delta``; of those shown the paired interval, ``low`` and ``high``, ``p`` of the
            randomisation test, and ``p_holm``, adjusted over the changes), ``flips`` (queries by metric
            whose score is another) and ``reranked`` (queries whose ranking is); or why it was
            ``skipped``. None where they weren't asked for.
        bands: ``kinds``: the same by what should not matter, such as ``batch size``; ``max``: by metric
            the largest change of all. None where they weren't asked for.
        files: File names of the run and the per-query scores beside the saved result.
        query_ids: The queries, in the order of ``scores``.
        scores: By metric the per-query scores, NaN where undefined. Saved beside the JSON.
        query_groups: By column of ``groups`` each query's value, in the same order; saved with them. Empty
            in results of older versions.
        run: The rankings. Saved beside the JSON, and not loaded with it; see `load_run`.
        path: The JSON that it was loaded from or saved as; None if it is in memory alone. Not saved.
    """

    source: str
    split: str
    edition: str
    retriever: Mapping[str, Any]
    k: int
    headline: str
    metrics: Mapping[str, Mapping[str, float | int | None]]
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]]
    counts: Mapping[str, int]
    images: Mapping[str, Any] | None
    fingerprints: Mapping[str, str | None]
    run_sha256: str
    partial: bool
    comparable: str
    seconds: Mapping[str, float]
    peak_memory_bytes: int | None
    bytes_per_passage: float | None
    versions: Mapping[str, str]
    search: Mapping[str, Any] | None = None
    experiment: Mapping[str, Any] = field(default_factory=dict)
    shown: Sequence[str] = ()
    notes: Sequence[str] = ()
    ablations: Mapping[str, Any] | None = None
    bands: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    query_ids: tuple[str, ...] = field(default=(), repr=False, compare=False)
    scores: "Mapping[str, NDArray[np.float64]]" = field(
        default_factory=dict, repr=False, compare=False
    )
    query_groups: Mapping[str, Sequence[str]] = field(
        default_factory=dict, repr=False, compare=False
    )
    run: "Run | None" = field(default=None, repr=False, compare=False)
    path: Path | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The stem of its files: ``<source>.<split>.<retriever>.<eight hex digits>``.

        The digits stand for the experiment and its rankings: what differs in anything that was done
        has another name. Behind the retriever are its label and the search, if it isn't exact.
        """
        parts = [self.source, self.split, str(self.retriever["name"])]
        if label := self.retriever.get("label"):
            parts.append(str(label))
        if self.search_mode != "exact":
            parts.append(self.search_mode)
        return ".".join(
            [*map(file_word, parts), json_sha256([self.experiment, self.run_sha256])[:8]]
        )

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value}" for name, value in self._scores())
        queries = f"{self.counts.get('queries', 0):,} queries"
        return f"Result({self._who}, {queries}: {scores or 'not scored'})"

    def _repr_html_(self) -> str:
        rows = [*self._scores(), *(("note", note) for note in self.notes)]
        return html_table(f"Result {self._who}", [*rows, ("file", self.path or "not saved")])

    @property
    def _who(self) -> str:
        words = [str(self.retriever["name"]), str(self.retriever.get("label") or "")]
        return on_one_line(f"{self.source}/{self.split} ({self.edition}), {' '.join(words)}")

    def _scores(self) -> list[tuple[str, str]]:
        """The metrics that are shown, with the ends of their intervals."""
        shown = []
        for name in self.shown or self.metrics:
            facts = self.metrics.get(name, {})
            value, low, high = (facts.get(key) for key in ("value", "low", "high"))
            if value is not None and low is not None and high is not None:
                shown.append((name, f"{value:.3f} [{low:.2f} {high:.2f}]"))
        return shown

    @property
    def search_mode(self) -> str:
        """``exact``, unless the rankings are those of an approximate search."""
        return str((self.search or {}).get("mode", "exact"))

    def value(self, metric: str) -> float | None:
        """The score of a metric, None if it wasn't computed or is undefined."""
        return self.metrics.get(metric, {}).get("value")

    def as_dict(self) -> dict[str, Any]:
        """Everything but rankings and per-query scores, as JSON values."""
        apart = {"query_ids", "scores", "query_groups", "run", "path"}
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"format": FORMAT} | {n: v for n, v in facts.items() if n not in apart}

    def save(self, folder: str | Path) -> Path:
        """Writes ``<name>.json``, ``<name>.queries.parquet`` and ``<name>.run.parquet``, whole or not.

        Returns:
            Path of the JSON, which is written last.
        """
        target = Path(folder).absolute()
        target.mkdir(parents=True, exist_ok=True)
        files = {"queries": f"{self.name}.queries.parquet"}
        _write_scores(target / files["queries"], self.query_ids, self.scores, self.query_groups)
        if self.run is not None:
            files["run"] = f"{self.name}.run.parquet"
            self.run.save(target / files["run"])
        path = target / f"{self.name}.json"
        atomic.write_json(path, self.as_dict() | {"files": files})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a saved result, with its per-query scores if they are still beside it.

        Raises:
            MissingError: no such file.
            InputError: it is not a result of this format.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingError("there is no such result", where=str(path))
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
                raise InputError(
                    "not a result of this version",
                    where=str(path),
                    expected=f'"format": "{FORMAT}"',
                )
            require_result_form(facts)
            result = cls(**facts | {"path": path.absolute()})
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"not a result: {error}", where=str(path)) from error
        scores = path.with_name(Path(result.files.get("queries", "")).name or "-")
        if not scores.is_file():
            return result
        query_ids, by_metric, groups = _read_scores(scores)
        return dataclasses.replace(
            result, query_ids=query_ids, scores=by_metric, query_groups=groups
        )

    def load_run(self) -> "Run":
        """The rankings: those in memory, or those that were saved beside the JSON.

        Raises:
            MissingError: they are in neither place.
            CheckError: the saved ones are not those of this result.
        """
        return self._run

    def scored_run(self) -> "Run":
        """The rankings as they were scored: passages that score alike in the order of the result's ``ties``.

        Raises:
            MissingError: as `load_run`.
            CheckError: as `load_run`.
        """
        return self.load_run().ordered(self.experiment.get("ties", "m2kr"))

    @property
    def run_path(self) -> Path | None:
        """Where the run file lies that was saved with the result; None of one that is in memory alone."""
        name = Path(self.files.get("run", "")).name or f"{self.name}.run.parquet"
        return self.path.with_name(name) if self.path else None

    @cached_property
    def _run(self) -> "Run":
        from m2kr.retrieval.run import Run

        if self.run is not None:
            return self.run
        if self.path is None or (file := self.run_path) is None:
            raise MissingError(f"the rankings of {self.name} are neither in memory nor saved")
        if not file.is_file():
            raise MissingError(
                "the rankings of a result are not beside it",
                where=str(file),
                expected=f"the run file that was saved with {self.path.name}",
                fix="put it there, or evaluate again",
            )
        run = Run.load(file)
        if run.sha256() != self.run_sha256:
            raise CheckError(
                f"these are not the rankings of {self.path.name}",
                where=str(file),
                expected=f"a run of the hash {self.run_sha256[:16]}…",
                fix="put the run there that was saved with the result, or evaluate again",
            )
        return run

    def show(
        self,
        query_id: str,
        k: int = 5,
        *,
        data: "str | PathLike[str] | None" = None,
        images: Sequence[str | Path] = (),
    ) -> "QueryView":
        """A query, its right passages and the first ones that were retrieved for it.

        ``print`` it, or let a notebook show it.

        Args:
            query_id: Query of the split.
            k: How many of the retrieved passages.
            data: Data root, if the split has moved from where it was evaluated.
            images: Image roots searched first.

        Raises:
            InputError: there is no such query; names the nearest ids.
            MissingError: the split or the rankings are not there.
            CheckError: the split was built anew and is another one, or the rankings are.
        """
        from m2kr.evaluation.query_view import QueryView
        from m2kr.evaluation.result_data import open_split

        return QueryView.of(
            open_split(self, data=data, images=images), query_id, self.scored_run(), k
        )


def json_sha256(value: Any) -> str:
    """The SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of m2kr, Python, the platform, and of the packages in use."""
    import numpy as np
    import pyarrow as pa

    in_use = {
        "m2kr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
    for name in _PACKAGES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            in_use[name] = str(version)
    return in_use


def peak_memory() -> int | None:
    """The process's highest resident memory so far in bytes; None where the platform can't say."""
    return highest_memory()


def _write_scores(
    path: Path,
    query_ids: tuple[str, ...],
    scores: "Mapping[str, NDArray[np.float64]]",
    groups: Mapping[str, Sequence[str]],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(values, from_pandas=True) for name, values in scores.items()}
    columns |= {_GROUP + name: pa.array(values, pa.string()) for name, values in groups.items()}
    table = pa.table({"question_id": pa.array(query_ids, pa.string()), **columns})
    with atomic.writing(path) as aside, atomic.create(aside) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def _read_scores(
    path: Path,
) -> "tuple[tuple[str, ...], dict[str, NDArray[np.float64]], dict[str, list[str]]]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        ids = tuple(table.column("question_id").to_pylist())
        names = [name for name in table.column_names if name != "question_id"]
        return (
            ids,
            {
                name: table[name].cast(pa.float64()).to_numpy()
                for name in names
                if not name.startswith(_GROUP)
            },
            {
                name.removeprefix(_GROUP): table[name].cast(pa.string()).to_pylist()
                for name in names
                if name.startswith(_GROUP)
            },
        )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(
            f"not a table of per-query scores: {str(error).splitlines()[0]}",
            where=str(path),
            fix="evaluate again",
        ) from error
