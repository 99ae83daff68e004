"""Judge files: all that scoring a run needs of a split, in one Parquet file, without a text.

The first rows hold the queries in ``question_id`` and the columns beside it, the passages in ``passage_id``
(and ``scored_as``), and the distinct answers in ``answer_rows`` (numbers of the passages that hold it) and
``answer_words`` (whether as whole words); further rows are null, for a column may be longer than another.
``answers`` of a query are numbers of answers, -1 for a blank one. ``m2kr_judge`` in the metadata is JSON
with the split's facts and the hash of all pages; ``m2kr_judge_sha256`` is its own.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.data.load import Split
from m2kr.errors import InputError, MissingError, UsageError
from m2kr.parquet import ParquetReader

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from numpy.typing import NDArray

    from m2kr.data.lookup import IdIndex
    from m2kr.data.rows import RowReader
    from m2kr.evaluation.answer_ranks import AnswerLists, Answers
    from m2kr.schema import TableKind

FORMAT = "m2kr-judge-1"
SUFFIX = ".judge.parquet"
KEY, SHA256_KEY = b"m2kr_judge", b"m2kr_judge_sha256"
PASSAGE_COLUMNS = ("passage_id", "scored_as")
ANSWER_COLUMNS = ("answer_rows", "answer_words")
SHORT = "has_short_answer"
# What scoring and results read of a manifest.
MANIFEST = ("headline", "comparable", "partial", "relevance_threshold", "unjudged", "groups")


def names_judge_file(source: object) -> bool:
    """Whether what stands in a source's place is the path of a judge file."""
    return isinstance(source, Path) or (isinstance(source, str) and source.endswith(".parquet"))


@dataclass(frozen=True, repr=False)
class JudgeFile(Split):
    """A split as a judge file has it: runs are scored on it as on the split itself; nothing can search it.

    Attributes:
        made_of: Edition that it was made of.
        recorded: Fingerprints of the split.
        table: The file's columns.
        sizes: Rows of ``queries``, ``passages`` and ``answers``.
    """

    made_of: str = ""
    recorded: dict[str, str] = field(default_factory=dict)
    table: "pa.Table | None" = field(default=None, repr=False, compare=False)
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "JudgeFile":
        """Reads a judge file.

        Raises:
            MissingError: there is none.
            InputError: it is damaged, of another version, or something else.
        """
        import pyarrow as pa

        path = Path(path)
        if not path.is_file():
            raise MissingError("there is no such judge file", where=str(path), fix=_FIX)
        try:
            with ParquetReader(path) as reader:
                metadata = reader.metadata
                facts = _facts(path, metadata.get(KEY), metadata.get(SHA256_KEY))
                if schema_text(reader.schema) != facts["schema"]:
                    raise _refusal(path, "its columns are not those that were written")
                groups = [reader.group(i, reader.schema.names) for i in range(reader.groups)]
            judge = cls(
                source=facts["source"],
                split=facts["split"],
                folder=path,
                manifest=facts["manifest"],
                made_of=facts["edition"],
                recorded=facts["fingerprints"],
                table=pa.concat_tables(groups),
                sizes=facts["sizes"],
            )
            judge._require_whole()
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise _refusal(path, f"the file is damaged: {error}") from error
        return judge

    @property
    def _counts(self) -> dict[str, int]:
        return self.sizes  # whether queries have an image is not in it

    def _require_whole(self) -> None:
        """Refuses columns that are shorter or longer than was written."""
        table = self.table
        assert table is not None
        of_pool = {"passage_id": "passages", "scored_as": "passages"}
        of_answers = dict.fromkeys(ANSWER_COLUMNS, "answers")
        optional = {"scored_as", *self.manifest["groups"]}
        for name in table.column_names:
            size = self.sizes[(of_pool | of_answers).get(name, "queries")]
            nulls = table.column(name).null_count
            if size > len(table) or (nulls != len(table) - size and name not in optional):
                raise _refusal(self.folder, f"column {name!r} has other rows than were written")

    @property
    def edition(self) -> str:
        """Name of the edition that it was made of."""
        return self.made_of

    @property
    def pool(self) -> str:
        """Whose passages it has: the split's."""
        return self.split

    @property
    def fingerprints(self) -> dict[str, str]:
        """Those of the split."""
        return dict(self.recorded)

    @cached_property
    def queries(self) -> "Dataset":
        """Ids, judgements and groups; ``answers`` are numbers."""
        return self.queries_view.dataset

    @cached_property
    def passages(self) -> "Dataset":
        """Ids alone."""
        return self.passages_view.dataset

    def _rows(self, kind: "TableKind", split: str) -> "pa.Table":  # noqa: ARG002
        assert self.table is not None
        of_pool = kind == "passages"
        names = [
            name
            for name in self.table.column_names
            if name not in ANSWER_COLUMNS and (name in PASSAGE_COLUMNS) == of_pool
        ]
        return self.table.select(names).slice(0, self.sizes[kind]).replace_schema_metadata()

    def answers(self, rows: "NDArray[np.int64]") -> "Answers":
        """The split's answers.

        Args:
            rows: Per place in a run's vocabulary its row in the pool.
        """
        from m2kr.evaluation.answer_ranks import AnswersInLists

        return AnswersInLists(self._answer_lists, rows)

    @cached_property
    def _answer_lists(self) -> "AnswerLists":
        import numpy as np

        from m2kr.evaluation.answer_ranks import AnswerLists

        offsets, rows = self._list("answer_rows")
        marked, words = self._list("answer_words")
        pool = self.sizes["passages"]
        if not np.array_equal(offsets, marked) or (
            len(rows) and not 0 <= rows.min() <= rows.max() < pool
        ):
            raise _refusal(self.folder, "its answers name passages that it lacks")
        places = np.flatnonzero(words)
        of_words = np.searchsorted(places, offsets)
        return AnswerLists(
            of_query=self.queries_view.column("answers"),
            short=np.array(self.queries_view.column(SHORT), bool),
            passages=np.split(rows, offsets[1:-1])[: len(offsets) - 1],
            words=np.split(rows[places], of_words[1:-1])[: len(offsets) - 1],
            pool=pool,
        )

    def _list(self, name: str) -> "tuple[NDArray[np.int64], NDArray[Any]]":
        """Where each list of a column of answers begins, and one end more; and the values of all."""
        import numpy as np
        import pyarrow.compute as pc

        assert self.table is not None
        lists = self.table.column(name).slice(0, self.sizes["answers"]).combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        values = lists.flatten().to_numpy(zero_copy_only=False)
        return offsets, values.astype(np.int64)

    def require_unharmed(self) -> None:
        """Does nothing: the file was read as a whole."""

    def _dataset(self, kind: "TableKind", split: str) -> "Dataset":
        raise MissingError(
            f"a judge file has no {kind} of {split}", where=self.label, fix="load the source itself"
        )

    @cached_property
    def _access(self) -> "dict[TableKind, tuple[IdIndex, RowReader]]":
        self._dataset("passages", self.split)
        return {}

    @cached_property
    def images(self) -> None:
        """None."""
        return None


def require_run(split: Split, retriever: object, is_run: bool) -> None:
    """Refuses a retriever on a judge file.

    Raises:
        UsageError: it is one.
    """
    if isinstance(split, JudgeFile) and not is_run:
        name = getattr(retriever, "name", retriever)
        raise UsageError(
            f"'{name}' can't search a judge file, which has no texts",
            where=str(split.folder),
            expected="a run that is already made",
            fix=f"m2kr eval {split.folder} -r run:FILE",
        )


_FIX = f"m2kr export SOURCE --format judge --out FILE{SUFFIX}"


def _facts(path: Path, raw: bytes | None, digest: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise _refusal(path, "it is no judge file")
    if digest != hashlib.sha256(raw).hexdigest().encode():
        raise _refusal(path, "the file is damaged")
    facts: dict[str, Any] = json.loads(raw)
    if facts.get("format") != FORMAT:
        raise _refusal(path, f"it is a judge file of another version: {facts.get('format')}")
    if pages_sha256(path, facts["pages"]) != {n: facts[n] for n in ("pages", "pages_sha256")}:
        raise _refusal(path, "the file is damaged")
    return facts


def schema_text(schema: "pa.Schema") -> list[str]:
    """Names and types of columns; what Arrow and Parquet call a list's values is not part of it."""
    return [f"{each.name}: {each.type}".replace("<element:", "<item:") for each in schema]


def pages_sha256(path: Path, size: int | None = None) -> dict[str, Any]:
    """Bytes and hash of a Parquet file before its footer.

    Args:
        path: The file.
        size: Where the footer begins; what is written so far if absent.
    """
    with path.open("rb") as file:
        data = file.read(-1 if size is None else size)
    return {"pages": len(data), "pages_sha256": hashlib.sha256(data).hexdigest()}


def _refusal(path: Path, what: str) -> InputError:
    return InputError(what, where=str(path), expected=f"a judge file ({FORMAT})", fix=_FIX)
