"""The builder of a source made from a user's own files."""

import hashlib
import itertools
import json
import math
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr import sources
from m2kr.building import registry
from m2kr.building.spec import Builder
from m2kr.building.userdata.fields import (
    PASSAGE_NAMES,
    QUERY_NAMES,
    Row,
    passage_row,
    query_id,
    query_row,
    query_task,
    warn_of_near_misses,
)
from m2kr.building.userdata.layouts import Layout
from m2kr.building.userdata.qrels import JudgedQuery, read_qrels
from m2kr.building.userdata.readers import Record, RecordFile
from m2kr.data.manifests import read_manifest
from m2kr.errors import InputError, UsageError
from m2kr.hashes import file_sha256
from m2kr.paths import manifest_path
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS, Column

if TYPE_CHECKING:
    from pathlib import Path

    from m2kr.building.spec import BuildContext

VERSION = 3  # of imported sources: raised when the same files give other rows
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SPLIT = re.compile(r"[A-Za-z0-9_]{1,64}")
_TAKEN = ("all", "downloads")
_SAMPLE = 1000  # records whose field names are looked at, and about as many names


def _checked_name(name: str) -> str:
    """The source name for what a user typed: lower case, safe, and no source of the benchmark.

    Raises:
        UsageError: it is none of that.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a source", expected="letters, digits, - and _, a letter first"
        )
    plain = sources.normalise(name)
    labels = {n for source in registry.sources().values() for n in (source.config, *source.aliases)}
    if plain in {*sources.builder_names(), *map(sources.normalise, labels)}:
        raise UsageError(f"'{name}' is a source of the benchmark", expected="a name of your own")
    if plain in _TAKEN:
        raise UsageError(f"'{name}' has a meaning of its own", expected="another name")
    return name.lower()


class _IdSet:
    """Millions of ids as 128-bit hashes; complete after `seal`, which tells of ids used twice."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._lines = array("Q")
        self._hi: Any = None
        self._lo: Any = None

    def __len__(self) -> int:
        return len(self._lines) if self._hi is None else len(self._hi)

    def add(self, row_id: str, line: int) -> None:
        """Adds the id of a line."""
        self._digests += _digest(row_id)
        self._lines.append(line)

    def seal(self, file: RecordFile, name: str) -> None:
        """Ends the adding and forgets the lines.

        Args:
            file: Where the ids come from, for errors.
            name: Name of the id column.

        Raises:
            InputError: an id was added twice; names both lines.
        """
        pairs = np.frombuffer(self._digests, "<u8").reshape(-1, 2)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        hi, lo = pairs[order, 0], pairs[order, 1]
        equal = np.flatnonzero((hi[1:] == hi[:-1]) & (lo[1:] == lo[:-1]))
        if len(equal):
            place = min(equal, key=lambda i: self._lines[order[i + 1]])
            first, second = (self._lines[order[i]] for i in (place, place + 1))
            raise InputError(
                f"this {name} was already used in {file.where(first)}",
                where=file.where(second),
                expected="a different id for each record",
            )
        self._hi, self._lo = hi, lo
        self._digests, self._lines = bytearray(), array("Q")

    def __contains__(self, row_id: str) -> bool:
        hi, lo = np.frombuffer(_digest(row_id), "<u8")
        start, stop = (np.searchsorted(self._hi, hi, side) for side in ("left", "right"))
        return bool((self._lo[start:stop] == lo).any())


def _digest(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=16).digest()


class ImportedBuilder(Builder):
    """A builder over a user's files. Making one reads all queries and checks every one of them.

    Args:
        name: Source name.
        layout: The files.
        kind: What the manifest calls the layout.
        instruction: Instruction of queries whose record has none; the layout's own by default.
        drop_missing: Take judged passages that are not in the pool for ones that can't be found, and
            leave out judgements of unknown queries, in place of raising.
        relevance_threshold: Grade from which a passage counts as right.

    Raises:
        InputError: a query or judgement is wrong; names file, line and field.
        UsageError: the name can't be used.
    """

    route = "import"

    def __init__(
        self,
        name: str,
        layout: Layout,
        *,
        kind: str = "files",
        instruction: str | None = None,
        drop_missing: bool = False,
        relevance_threshold: float = 1,
    ) -> None:
        self.layout = layout
        self.relevance_threshold = _checked_threshold(relevance_threshold)
        self.instruction = instruction
        self.drop_missing = drop_missing
        self.folder: Path | None = None  # the edition's, for `prepare`
        self.replaces = True  # other content of this name there, or refuses to
        self._pool: _IdSet | None = None
        self._judged: dict[str, dict[str, JudgedQuery] | None] = {
            split: read_qrels(files.qrels) if files.qrels else None
            for split, files in layout.splits.items()
        }
        # By split, judged queries that are not there, and the lines that name them.
        self._unknown: dict[str, dict[str, int]] = {}
        name = _checked_name(name)
        for split, files in layout.splits.items():
            if files.qrels and not self._judged[split]:
                raise InputError("there are no judgements", where=files.qrels.name)
        tasks: set[str] = set()
        grades: set[float] = set()
        for split in layout.splits:
            self._check_queries(split, tasks, grades)
        self._check_grades(grades)
        self._graded = bool(grades - {1})
        extra = [GRADES] if self._graded else []
        extra += [LOST_IDS, LOST_GRADES] if drop_missing else []
        self.source = _source(name, tuple(layout.splits), tasks, extra)
        self.image_roots = tuple(str(root.absolute()) for root in layout.images)
        _look_at(layout.passages, PASSAGE_NAMES)
        self.inputs = tuple(_inputs(layout))
        options = {"layout": kind, "drop_missing": "yes" if drop_missing else "no"}
        if instruction is not None:
            options["instruction"] = instruction
        if self.relevance_threshold != 1:
            options["relevance_threshold"] = repr(self.relevance_threshold)
        if self.image_roots:  # the manifest names them
            options["images"] = os.pathsep.join(self.image_roots)
        self.recorded_options = options

    @property
    def content(self) -> str:
        """Hash of what the import was given and asked for; hex."""
        facts = [self.source.name, [*self.source.pools], *self._facts()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _facts(self) -> list[Any]:
        return [self.recorded_options, [[file["name"], file["sha256"]] for file in self.inputs]]

    def prepare(self, root: "Path", splits: Sequence[str], **how: Any) -> None:  # noqa: ARG002
        """Refuses to replace what should stay; the build's lock is held.

        Raises:
            UsageError: the edition holds another source whose files would have the same names, or one
                of this name with other content that must not be replaced.
        """
        if self.folder is None:
            return
        path = manifest_path(self.folder, self.source.config)
        if not path.exists():
            return
        name = self.source.name
        remove = f"m2kr remove {name} --edition {self.folder.name} --data {root}"
        try:
            old = read_manifest(path)
        except InputError as error:
            if self.replaces:
                return  # what is damaged is made anew
            raise InputError(error.what, where=error.where, fix=remove) from error
        other = old["source"]["name"]
        if other != name:
            raise UsageError(
                f"'{name}' can't be told from '{other}', which is already in {self.folder}",
                expected="another edition, or a name that differs in letters or digits",
            )
        inputs = [[file["name"], file["sha256"]] for file in old["inputs"]]
        if not self.replaces and self._facts() != [old["options"], inputs]:
            raise UsageError(
                f"there is already a source '{name}' with other content in {self.folder}",
                expected="another name, or none: then the data get a place of their own",
                fix=remove,
            )

    def passages(self, ctx: "BuildContext", pool: str) -> Iterator[Row]:  # noqa: ARG002
        """The passages, in file order.

        Raises:
            InputError: a record is wrong or an id used twice; names file, line and field.
        """
        ids, file = _IdSet(), self.layout.passages
        for n, record in file:
            row = self._passage(n, record)
            ids.add(row["passage_id"], n)
            yield row
        self._seal(ids)

    def _passage(self, n: int, record: Record) -> Row:
        file, titled = self.layout.passages, self.layout.title_in_text
        return passage_row(record, file.where(n), flat=file.flat, title_in_text=titled)

    def _seal(self, ids: _IdSet) -> None:
        if not len(ids):
            raise InputError("there are no passages", where=self.layout.passages.name)
        ids.seal(self.layout.passages, "passage_id")
        self._pool = ids

    def _pool_ids(self) -> _IdSet:
        """The passage ids: remembered from building the pool, read again where that was done before."""
        if self._pool is None:
            ids = _IdSet()
            for n, record in self.layout.passages:
                ids.add(self._passage(n, record)["passage_id"], n)
            self._seal(ids)
        assert self._pool is not None
        return self._pool

    def queries(self, ctx: "BuildContext", split: str) -> Iterator[Row]:
        """The queries of a split, in file order.

        Raises:
            InputError: a positive is not among the passages; names file, line and id.
        """
        pool, file = self._pool_ids(), self.layout.splits[split].queries
        known = missing = 0
        for n, row in self._rows(split):
            if row is None:
                ctx.ledger.filter("judged in another split, or in none")
                continue
            grades = dict(zip(row["pos_item_ids"], row["pos_item_grades"], strict=True))
            lost = {i: grade for i, grade in grades.items() if i not in pool}
            known, missing = known + len(grades) - len(lost), missing + len(lost)
            for passage in lost:
                self._refuse_lost(passage, row["question_id"], file.where(n))
            if lost:
                rule, detail = "positive not among the passages", ", ".join(lost)[:1000]
                ctx.ledger.repair(
                    f"{rule}: counts as never found", file=file.path.name, row=n, detail=detail
                )
            if self.drop_missing:
                row["lost_item_ids"], row["lost_item_grades"] = list(lost), list(lost.values())
                grades = {i: grade for i, grade in grades.items() if i not in lost}
            row["pos_item_ids"], row["pos_item_grades"] = list(grades), list(grades.values())
            if not self._graded:
                del row["pos_item_grades"]
            yield row
        if missing and not known:
            raise InputError(
                f"none of {missing:,} judged passages is among the passages",
                where=self.layout.passages.name,
                expected="ids of passages as the judgements have them",
            )
        files = self.layout.splits[split]
        for query, line in self._unknown[split].items():
            assert files.qrels is not None
            rule = "judgements of a query that is not there"
            ctx.ledger.drop(rule, file=files.qrels.path.name, row=line, detail=query[:1000])

    def _refuse_lost(self, passage: str, query: str, where: str) -> None:
        """Raises for a judged passage that the pool lacks, unless such are to be taken as they are."""
        pool = self._pool_ids()
        parts = [part.strip(" '\"") for part in re.split(r"[;|]", passage)]
        several = len(parts) > 1 and any(part in pool for part in parts)
        if not several:
            parts = [part.strip("'\"") for part in re.split(r"[\s,]+", passage)]
            several = len(parts) > 1 and all(part in pool for part in parts)
        if several:
            raise InputError(
                f"positive {passage!r} of query {query!r} looks like a list of ids: the whole is not "
                "among the passages, parts of it are",
                where=where,
                expected=f"a JSON list: {json.dumps(parts, ensure_ascii=False)}",
            )
        if not self.drop_missing:
            raise InputError(
                f"positive {passage!r} of query {query!r} is not among the passages",
                where=where,
                expected=f"ids of passages in {self.layout.passages.name}",
                fix="--drop-missing to count such passages as never found",
            )

    def _rows(self, split: str) -> Iterator[tuple[int, Row | None]]:
        """Line numbers and rows; None for a query that belongs to other splits."""
        files, judged = self.layout.splits[split], self._judged[split]
        file = files.queries
        for n, record in file:
            where, positives = file.where(n), None
            if judged is not None:
                entry = judged.get(query_id(record, where))
                if entry is None and files.only_judged:
                    yield n, None
                    continue
                positives = entry.grades if entry else {}
            row = query_row(record, where, flat=file.flat, positives=positives)
            if not row["instruction"].strip():
                row["instruction"] = (
                    self.layout.instruct(record, row)
                    if self.instruction is None
                    else self.instruction
                )
            yield n, row

    def _check_queries(self, split: str, tasks: set[str], grades: set[float]) -> None:
        """Checks all queries of a split; adds what they consist of and which grades they have."""
        files, ids = self.layout.splits[split], _IdSet()
        if not _SPLIT.fullmatch(split):
            raise UsageError(f"{split!r} cannot name a split", expected="letters, digits and _")
        unseen = {query: entry.line for query, entry in (self._judged[split] or {}).items()}
        known = len(unseen)
        _look_at(files.queries, QUERY_NAMES)
        for n, row in self._rows(split):
            if row is not None:
                ids.add(row["question_id"], n)
                unseen.pop(row["question_id"], None)
                tasks.add(query_task(row))
                grades.update(row["pos_item_grades"])
        ids.seal(files.queries, "question_id")
        if unseen and files.qrels and (not self.drop_missing or len(unseen) == known):
            query, line = next(iter(unseen.items()))
            raise InputError(
                f"query {query!r} is not among the queries"
                + (", nor is any other" if len(unseen) == known > 1 else ""),
                where=files.qrels.where(line),
                expected=f"ids of queries in {files.queries.name}",
                fix="--drop-missing to leave such judgements out" if len(unseen) < known else None,
            )
        if not len(ids):
            raise InputError(f"there are no queries of '{split}'", where=files.queries.name)
        self._unknown[split] = unseen

    def _check_grades(self, grades: set[float]) -> None:
        """Refuses judgements of which none says that a passage is right."""
        if grades and max(grades) < self.relevance_threshold:
            raise InputError(
                f"no passage is right: the highest grade is {max(grades):g}, and passages are right "
                f"from grade {self.relevance_threshold:g}",
                where=", ".join(
                    dict.fromkeys((s.qrels or s.queries).name for s in self.layout.splits.values())
                ),
                fix=f"--relevance-threshold {max(grades):g}, or a lower one",
            )

    def amend(self, record: dict[str, Any], staging: "Path") -> dict[str, Any]:  # noqa: ARG002
        """The manifest with what only an import has."""
        if self.relevance_threshold != 1:
            record["relevance_threshold"] = self.relevance_threshold
        return record


def _checked_threshold(value: Any) -> float:
    """A relevance threshold.

    Raises:
        UsageError: it is not a number above 0.
    """
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"--relevance-threshold {value}", expected="a number above 0, such as 2")
    return float(value)


def _look_at(file: RecordFile, names: Mapping[str, tuple[str, ...]]) -> None:
    """Reads the first records: what can't be read is refused before all of the file is hashed."""
    fields: set[str] = set()
    for _, record in itertools.islice(file, _SAMPLE):
        if len(fields) < _SAMPLE:
            fields |= record.keys()
    warn_of_near_misses(file.path, fields, names)


def _source(
    name: str, splits: tuple[str, ...], tasks: set[str], columns: Sequence[Column]
) -> sources.Source:
    main = "test" if "test" in splits else splits[0]
    return sources.Source(
        name=name,
        config=name.upper().replace("-", "_"),
        title=f"{name} (imported)",
        task=tasks.pop() if len(tasks) == 1 else "mixed",  # type: ignore[arg-type]
        pools=dict.fromkeys(splits, f"{main}_passages"),
        headline="hit_rate@5",
        licence="as stated by its owner",
        version=VERSION,
        summary="Made from a user's own files.",
        default_edition=name,
        query_columns=tuple(columns),
        comparable="not a source of the benchmark",
    )


def _inputs(layout: Layout) -> Iterator[dict[str, Any]]:
    files = {f"passages/{layout.passages.path.name}": layout.passages.path}
    for split, parts in layout.splits.items():
        files[f"queries/{split}/{parts.queries.path.name}"] = parts.queries.path
        if parts.qrels:
            files[f"qrels/{split}/{parts.qrels.path.name}"] = parts.qrels.path
    files |= {path.name: path for path in layout.also}
    known: dict[Path, str] = {}
    for name, path in files.items():
        if path not in known:
            known[path] = file_sha256(path)
        size = path.stat().st_size
        yield {"name": name, "url": None, "size": size, "sha256": known[path], "licence": ""}
