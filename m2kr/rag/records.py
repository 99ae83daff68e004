"""What an experiment with a reader came to: a result file, and a table with a row for every answer."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from m2kr import atomic
from m2kr.errors import InputError, MissingError, plainly
from m2kr.evaluation.result import file_word, json_sha256
from m2kr.rag.reader import Answer
from m2kr.rag.scorer import GoldAnswer, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

RAG_FORMAT = "m2kr-rag-1"
NONE, RETRIEVED, ORACLE = "none", "retrieved", "oracle"
ARMS = (NONE, RETRIEVED, ORACLE)
SCORE, RULE, DETAIL = "score:", "rule:", "detail:"
RECORDS_ENDING = ".records.parquet"
_AT_ONCE = 8192  # rows of a row group


@dataclass(frozen=True, slots=True)
class Record:
    """One answer with all that is known of it.

    Attributes:
        question_id: The query's id.
        arm: ``none``, ``retrieved`` or ``oracle``.
        k: Passages that were asked for; 0 without retrieval. There may be fewer in ``passage_ids``.
        passage_ids: What the reader was given, best first.
        answer: What it said.
        seconds: That it took; see `m2kr.rag.pipeline.answer_questions`.
        verdicts: By scorer.
        gold: What it was scored against.
        task: The query's task, where the source has a column of that name.
    """

    question_id: str
    arm: str
    k: int
    passage_ids: tuple[str, ...]
    answer: Answer
    seconds: float
    verdicts: Mapping[str, Verdict]
    gold: GoldAnswer
    task: str | None = None


def records_schema(scorers: Sequence[str]) -> "pa.Schema":
    """Columns of the table of records.

    ``score:NAME`` is null where the scorer couldn't judge, which is never 0. ``detail`` and
    ``detail:NAME`` are JSON objects: more from the reader, and from a scorer.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    fields = {
        "question_id": text,
        "arm": text,
        "k": pa.int64(),
        "passage_ids": pa.list_(text),
        "answer": text,
        "answer_score": number,
        "answer_passage_id": text,
        "input_tokens": pa.int64(),
        "output_tokens": pa.int64(),
        "seconds": number,
        "dollars": number,
        "detail": text,
        "group": text,
        "question_type": text,
        "task": text,
    }
    for name in scorers:
        fields |= {SCORE + name: number, RULE + name: text, DETAIL + name: text}
    return pa.schema(list(fields.items()))


class RecordsWriter:
    """Writes records to a Parquet file, some at a time.

    Args:
        file: The open file.
        scorers: Names of the scorers; each record has a verdict of every one.
    """

    def __init__(self, file: BinaryIO, scorers: Sequence[str]) -> None:
        import pyarrow.parquet as pq

        self._scorers = tuple(scorers)
        self._schema = records_schema(scorers)
        self._writer: pq.ParquetWriter = pq.ParquetWriter(
            file, self._schema, compression="zstd", write_page_checksum=True
        )
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self._flush()
        self._writer.close()

    def write(self, record: Record) -> None:
        """Adds one record."""
        said, gold = record.answer, record.gold
        row: dict[str, Any] = {
            "question_id": record.question_id,
            "arm": record.arm,
            "k": record.k,
            "passage_ids": list(record.passage_ids),
            "answer": said.text,
            "answer_score": said.score,
            "answer_passage_id": said.passage_id,
            "input_tokens": said.input_tokens,
            "output_tokens": said.output_tokens,
            "seconds": record.seconds,
            "dollars": said.dollars,
            "detail": _json(said.detail),
            "group": gold.group,
            "question_type": gold.question_type,
            "task": record.task,
        }
        for name in self._scorers:
            verdict = record.verdicts[name]
            row[SCORE + name], row[RULE + name] = verdict.score, verdict.rule
            row[DETAIL + name] = _json(verdict.detail)
        self._rows.append(row)
        if len(self._rows) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


def _json(detail: Mapping[str, Any]) -> str | None:
    if not detail:
        return None
    return json.dumps(dict(detail), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, repr=False)
class RagResult:
    """One reader's answers on one split, without passages, with a run's and with the right ones.

    Attributes:
        source: Source name.
        split: Split name.
        edition: Edition that was asked.
        reader: ``name``; ``spec`` as it was given; ``facts``: all that decides its answers.
        retriever: Of the run ``name``, ``file``, ``sha256`` of its rankings, and what it recorded of its
            making (``fingerprints``, ``settings``, ``modalities`` …); None if there was no run.
        k: Passages that were asked for, ascending; the oracle has at most the last.
        arms: One object an arm and k, in the order of the records: ``arm``, ``k``, ``questions`` that were
            asked, ``empty`` answers, and the sums of ``input_tokens``, ``output_tokens``, ``seconds``
            and ``dollars``, each None where a part of it isn't known. An answer that two arms share
            counts in both.
        scorers: By name the facts that decide the scores.
        totals: By scorer one object an arm and k, in the same order: ``arm``, ``k``, ``judged``,
            ``not_judged``, ``mean`` (None where one was not judged: those that were are no sample of the
            rest), ``least`` and ``most`` (it if those were all wrong, and if they were right), and
            ``figures`` of the whole arm by name, such as a harmonic mean. Questions without an accepted
            answer that the scorer can use are in none of them.
        counts: ``questions`` of the split; ``asked``; ``no_gold`` that have no accepted answer and
            ``no_right_passage`` that the oracle has none for: neither is asked there.
        images: ``policy``, ``total``, ``found`` and three ``missing``; None if the reader sees none.
        fingerprints: Of the split (see `m2kr.fingerprint`), and ``images`` of the images that the reader was
            shown, by content; None if it sees none.
        partial: Whether the build was limited.
        comparable: Why scores don't compare with published ones; empty where they do.
        versions: Of Python, the platform and the packages in use.
        experiment: What was done, as JSON values; it names the files.
        bounds: By k (as text) the share of the questions with an accepted answer in the run's first k
            passages: ``value``, ``low``, ``high``, ``n``, and the same of whole ``words``; see
            `m2kr.rag.answer_in_passage`.
        notes: What must be said beside the scores, in sentences.
        files: File name of the ``records`` beside the saved result.
        path: The JSON that it was loaded from or saved as; None if it was not. Not saved.
        table: The records of a result that was not saved. Not saved.
    """

    source: str
    split: str
    edition: str
    reader: Mapping[str, Any]
    retriever: Mapping[str, Any] | None
    k: Sequence[int]
    arms: Sequence[Mapping[str, Any]]
    scorers: Mapping[str, Mapping[str, Any]]
    totals: Mapping[str, Sequence[Mapping[str, Any]]]
    counts: Mapping[str, int]
    images: Mapping[str, Any] | None
    fingerprints: Mapping[str, str | None]
    partial: bool
    comparable: str
    versions: Mapping[str, str]
    experiment: Mapping[str, Any]
    bounds: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    table: "pa.Table | None" = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The stem of its files: ``<source>.<split>.rag.<reader>.<eight hex digits>``.

        The digits stand for the experiment: what differs in anything that was done has another name.
        """
        return rag_name(self.source, self.split, str(self.reader["name"]), self.experiment)

    @property
    def label(self) -> str:
        """How tables name it: the reader, and the retriever whose passages it read."""
        retriever = (self.retriever or {}).get("name")
        return f"{self.reader['name']} + {retriever}" if retriever else str(self.reader["name"])

    def __repr__(self) -> str:
        arms = ", ".join(f"{arm['arm']}@{arm['k']}" for arm in self.arms)
        return f"RagResult({self.source}/{self.split} ({self.edition}), {self.label}: {arms})"

    def records(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """The table of records, or some of its columns; see `records_schema`.

        Rows are in the order of ``arms``, and within an arm in the split's order of queries.

        Raises:
            MissingError: it is not beside the result.
            InputError: it is damaged, or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.table is not None:
            return self.table if columns is None else self.table.select(list(columns))
        path = self.records_path
        if path is None or not path.is_file():
            raise MissingError(
                "the records of a result are not beside it",
                where=str(path or self.name),
                fix="put the file there, or run the same m2kr rag again: kept answers are not asked anew",
            )
        try:
            return pq.read_table(
                path,
                columns=None if columns is None else list(columns),
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, KeyError) as error:
            raise InputError(
                f"not a table of records: {str(error).splitlines()[0]}", where=str(path)
            ) from error

    @property
    def records_path(self) -> Path | None:
        """Where the records lie; None of a result that was not saved."""
        name = Path(self.files.get("records", "")).name or self.name + RECORDS_ENDING
        return self.path.with_name(name) if self.path else None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the records, as JSON values."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del facts["path"], facts["table"]
        return {"format": RAG_FORMAT} | facts

    def save(self, path: Path) -> "RagResult":
        """Writes the JSON, whole or not at all; gives the result with that path."""
        atomic.write_json(path, self.as_dict())
        return dataclasses.replace(self, path=path.absolute())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a saved result; its records are read when they are asked for.

        Raises:
            MissingError: no such file.
            InputError: it is no result of a reader.
        """
        path = Path(path).expanduser()
        if path.name.endswith(RECORDS_ENDING):
            path = path.with_name(path.name.removesuffix(RECORDS_ENDING) + ".json")
        if not path.is_file():
            raise MissingError(
                "there is no such result", where=str(path), fix="m2kr rag SOURCE --reader READER"
            )
        try:
            with plainly(path):
                facts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or facts.pop("format", None) != RAG_FORMAT:
                raise InputError(
                    "not a result of m2kr rag of this version",
                    where=str(path),
                    expected=f'"format": "{RAG_FORMAT}"',
                )
            _require_form(facts)
            return cls(**facts | {"path": path.absolute()})
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"not a result of m2kr rag: {error}", where=str(path)) from error


def rag_name(source: str, split: str, reader: str, experiment: Mapping[str, Any]) -> str:
    """The stem of a result's files; see `RagResult.name`."""
    parts = map(file_word, (source, split))
    return ".".join([*parts, "rag", file_word(reader), json_sha256(experiment)[:8]])


def load_rag_results(*paths: str | Path) -> list[RagResult]:
    """The results of readers in some files, folders and patterns (``results/*.json``), each file once.

    Of a folder's JSON files, and of a pattern's, those that are something else are left out.

    Raises:
        MissingError: nothing of that name, or no such result in the folder.
        InputError: a file that was named is no such result, or one is damaged.
    """
    files: dict[Path, None] = {}
    for given in paths:
        path = Path(given).expanduser()
        if path.is_file():
            files[path.resolve()] = None
            continue
        several = path.glob("*.json") if path.is_dir() else path.parent.glob(path.name)
        matches = [file.resolve() for file in sorted(several) if is_rag_result(file)]
        if not matches:
            raise MissingError(
                "there is no result of a reader",
                where=str(path),
                fix="m2kr rag SOURCE --reader READER",
            )
        files |= dict.fromkeys(matches)
    return [RagResult.load(file) for file in files]


def is_rag_result(file: Path) -> bool:
    """Whether a file is a result of a reader, of this version or another."""
    if file.suffix != ".json" or not file.is_file():
        return False
    with plainly(file):
        try:
            facts = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return False
    return isinstance(facts, dict) and str(facts.get("format", "")).startswith("m2kr-rag-")


_FORMS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, "source split edition comparable"),
    (dict, "reader scorers totals counts fingerprints versions experiment bounds files"),
    (list, "k arms notes"),
    ((dict, type(None)), "retriever images"),
    (bool, "partial"),
)


def _require_form(facts: Mapping[str, Any]) -> None:
    """Refuses values of another form than `RagResult`'s attributes have: anybody may have written them.

    Raises:
        TypeError: says which value.
    """
    for kind, names in _FORMS:
        for name in names.split():
            _require(
                isinstance(facts.get(name, {} if name in ("bounds", "files") else None), kind), name
            )
    _require(isinstance(facts["reader"].get("name"), str), "reader.name")
    for k in facts["k"]:
        _require(type(k) is int, "k")
    for arm in facts["arms"]:
        _require(isinstance(arm, dict) and arm.get("arm") in ARMS, "arms")
        _require(type(arm.get("k")) is int and type(arm.get("questions")) is int, "arms")
    for scorer, rows in facts["totals"].items():
        _require(isinstance(rows, list) and all(isinstance(row, dict) for row in rows), scorer)
    _require(all(isinstance(note, str) for note in facts["notes"]), "notes")
    _require(not {"path", "table"} & facts.keys(), "path")


def _require(right: bool, name: str) -> None:
    if not right:
        raise TypeError(f"'{name}' has another form")
