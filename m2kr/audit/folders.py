"""Unbuilt benchmark folders (BEIR, M-BEIR, ReT-M2KR, MTEB), read without refusing what is wrong in them.

An importer stops at the first record that it can't take; here such a record is counted, and what can be
read of it is kept. Which names a field may have is the importers' table.
"""

import hashlib
import itertools
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from m2kr.audit.benchmark import (
    CORPUS,
    QRELS,
    QUERIES,
    Benchmark,
    Corpus,
    Faults,
    QuerySet,
    any_there,
)
from m2kr.audit.image_looks import ImageLook, look_of
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.userdata.fields import PASSAGE_NAMES, QUERY_NAMES, is_missing, query_row
from m2kr.building.userdata.layouts import LAYOUTS, GivenFiles, canonical_split
from m2kr.building.userdata.qrels import judgements_of, qrels_file, qrels_records
from m2kr.building.userdata.readers import (
    MAX_LINE,
    Record,
    RecordFile,
    file_kind,
    record_file,
    text_file,
)
from m2kr.data.images.store import ImageStore
from m2kr.errors import InputError, M2KRError, MissingError, UsageError
from m2kr.packed import is_gzip
from m2kr.progress import SILENT, Progress
from m2kr.sources import folded_splits, plain_split
from m2kr.unicode_halves import loads, mended_text

log = logging.getLogger("m2kr.audit")

_ROWS, _CHARACTERS = 10_000, 64 << 20  # in memory as Python objects
_QRELS = frozenset(("", ".txt", ".gz", ".qrels", ".qrel", ".trec", ".rel"))
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
MOST_EMBEDDED = 4000  # images in records that are looked into: the first


@dataclass
class _Files:
    """The files of one split; a list of files is read as one."""

    passages: list[RecordFile]
    queries: list[RecordFile]
    qrels: list[RecordFile]
    only_judged: bool = False
    title_in_text: bool = False
    instructions: list[RecordFile] = field(default_factory=list)


def read_folder(
    folder: Path,
    splits: Sequence[str] | None = None,
    *,
    images: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> Benchmark:
    """The benchmark in a folder.

    Raises:
        MissingError: the folder is not there, is none of the four kinds, or lacks passages or queries.
        InputError: it is a built edition.
    """
    if not folder.is_dir():
        raise MissingError("there is no such folder", where=str(folder))
    built = sorted(folder.glob("*_manifest.json"))
    if built:
        name = built[0].name.removesuffix("_manifest.json").lower()
        raise InputError(
            "this is a built edition, not a benchmark's own folder",
            where=str(folder),
            fix=shlex.join(
                ["m2kr", "audit", name, "--edition", folder.name, "--data", str(folder.parent)]
            ),
        )
    kind, files = next(
        ((kind, files) for kind, find in _KINDS if (files := find(folder))), ("", {})
    )
    if not files:
        raise MissingError(
            "this is no folder of a benchmark that m2kr knows",
            where=str(folder),
            expected="corpus.jsonl, queries.jsonl and qrels/ (BEIR); query/*/mbeir_*.jsonl and "
            "cand_pool/ (M-BEIR); *_passages_*.jsonl (ReT-M2KR); or corpus/, queries/ and qrels/ or "
            "data/ of Parquet or JSON lines (MTEB)",
        )
    chosen = {} if splits else files
    for wanted in splits or ():
        there = {n: {n, n.rpartition("/")[2]} for n in files}
        name = wanted if wanted in set().union(*there.values()) else canonical_split(wanted)
        fitting = {n: of_split for n, of_split in files.items() if name in there[n]}
        if not fitting:
            raise MissingError(
                f"there is no split '{wanted}'",
                where=str(folder),
                expected="one of " + ", ".join(files),
            )
        chosen |= fitting
    return _Reader(folder, kind, images, progress).read(chosen)


def _beir(folder: Path) -> dict[str, _Files]:
    found = {name: _fitting(folder, f"{name}.*") for name in ("corpus", "queries")}
    found = {name: [p for p in paths if is_records(p)] for name, paths in found.items()}
    if not any(found.values()):
        return {}
    for name, paths in found.items():
        if not paths:
            raise MissingError(
                f"the folder has no file of {name}", where=str(folder), expected=f"{name}.jsonl"
            )
        if len(paths) > 1:
            raise UsageError(
                f"several files may be the {name}: {', '.join(path.name for path in paths)}",
                where=str(folder),
                expected="one of them",
            )
    of_split: dict[str, list[RecordFile]] = {}
    for path in _fitting(folder / "qrels", "*"):
        if file_kind(path) or path.suffix.lower() in _QRELS:
            name = plain_split(path.name.partition(".")[0])
            of_split.setdefault(name, []).append(_judgements(path))
    of_split = {name: of_split[theirs] for theirs, name in folded_splits(of_split).items()}
    if not of_split and (beside := _fitting(folder, "qrels.*")):
        of_split = {"test": [_judgements(path) for path in beside]}
    corpus, queries = ([record_file(path) for path in paths] for paths in found.values())
    made = {name: _Files(corpus, queries, files, True, True) for name, files in of_split.items()}
    return made or {"test": _Files(corpus, queries, [], False, True)}


def _judgements(path: Path) -> RecordFile:
    """A file of judgements; one JSON text is read as lines, which then are no judgements."""
    return text_file(path) if file_kind(path) == "json" else qrels_file(path)


def is_records(path: Path) -> bool:
    """Whether records are read from a file of this name."""
    return file_kind(path) not in ("", "json")


def _fitting(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder that fit a pattern, but for hidden ones."""
    fitting = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(p for p in fitting if p.is_file() and not p.name.startswith((".", "~")))


def _mbeir(folder: Path) -> dict[str, _Files]:
    made: dict[str, _Files] = {}
    for path in sorted(folder.glob("query/*/mbeir_*.jsonl")):
        theirs = path.parent.name
        name = path.stem.removeprefix("mbeir_").removesuffix(f"_{theirs}")
        given = GivenFiles(folder=folder, dataset=name, split=canonical_split(theirs))
        made |= _from_layout("mbeir", given, name, path)
    return _short(made)


def _ret_m2kr(folder: Path) -> dict[str, _Files]:
    made: dict[str, _Files] = {}
    for path in sorted(folder.glob("**/*_passages*.jsonl")):
        name, _, split = path.stem.partition("_passages")
        splits = [split.removeprefix("_")] if split else ["train", "valid", "test"]
        for each in splits:
            given = GivenFiles(folder=folder, dataset=name, split=each)
            made |= _from_layout("ret-m2kr", given, name, path if split else None)
    return _short(made)


def _from_layout(layout: str, given: GivenFiles, name: str, path: Path | None) -> dict[str, _Files]:
    """The files of a split; none, with a warning that names the path, where some are not there."""
    try:
        found = LAYOUTS[layout](given)
    except M2KRError as error:
        if path is not None:
            log.warning("left out: %s: %s; expected: %s", path, error.what, error.expected)
        return {}
    return {
        f"{name}/{split}": _Files(
            [found.passages],
            [files.queries],
            [] if files.qrels is None else [files.qrels],
            files.only_judged,
            found.title_in_text,
        )
        for split, files in found.splits.items()
    }


def _short(files: dict[str, _Files]) -> dict[str, _Files]:
    """Split names alone where the folder holds one data set."""
    if len({name.partition("/")[0] for name in files}) > 1:
        return files
    return {name.rpartition("/")[2]: of_split for name, of_split in files.items()}


def _mteb(folder: Path) -> dict[str, _Files]:
    """MTEB's form on the hub: configs ``corpus``, ``queries`` and ``qrels`` or ``default``.

    Each config has splits, in files that the card's ``configs`` name or in folders called like them;
    ``<name>-corpus`` and so on are further subsets. A split's queries and corpus are those of its own
    name, or the only ones there are.
    """
    configs = _card_configs(folder) or _folder_configs(folder)
    parts: dict[str, dict[str, dict[str, list[Path]]]] = {}
    for config, files in configs.items():
        subset, _, role = config.rpartition("-")
        role = {"query": "queries", "default": "qrels", "data": "qrels"}.get(role, role)
        if role in ("corpus", "queries", "qrels", "instruction") and files:
            parts.setdefault(subset, {}).setdefault(role, files)
    made = {}
    for subset, roles in parts.items():
        if "corpus" not in roles or "queries" not in roles:
            continue
        qrels = roles.get("qrels", {})
        names = {split: plain_split(split) for split in qrels or roles["queries"]}
        folded = folded_splits(names.values())
        for split, plain in names.items():
            records = {
                role: [record_file(p) for p in _of_split(of_role, split)]
                for role, of_role in roles.items()
                if role != "qrels"
            }
            if not records["corpus"] or not records["queries"]:
                raise MissingError(
                    f"split '{split}' has no corpus or no queries of its own name",
                    where=str(folder),
                    expected=f"'{split}' beside {', '.join(roles['corpus'])}",
                )
            made["/".join(filter(None, (subset, folded[plain])))] = _Files(
                records["corpus"],
                records["queries"],
                [_judgements(p) for p in qrels.get(split, ())],
                bool(qrels),
                True,
                records.get("instruction", []),
            )
    return made


def _of_split(files: Mapping[str, list[Path]], split: str) -> list[Path]:
    return files.get(split) or (next(iter(files.values())) if len(files) == 1 else [])


def _card_configs(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Files by config and split, as the dataset card names them; empty without such a card."""
    card = folder / "README.md"
    try:
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        head = yaml.safe_load(text.split("---\n")[1])["configs"] if text.startswith("---\n") else []
        configs: dict[str, dict[str, list[Path]]] = {}
        for config in head:
            named = config["data_files"]
            named = [{"split": "train", "path": named}] if isinstance(named, str) else named
            for entry in named:
                paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
                files = [p for path in paths for p in sorted(folder.glob(path)) if p.is_file()]
                configs.setdefault(config["config_name"], {})[entry["split"]] = files
    except (yaml.YAMLError, KeyError, TypeError, IndexError, ValueError, NotImplementedError):
        return {}
    roles = {name.rpartition("-")[2] for name in configs}
    return configs if roles >= {"corpus"} and roles & {"queries", "query"} else {}


def _folder_configs(folder: Path) -> dict[str, dict[str, list[Path]]]:
    configs: dict[str, dict[str, list[Path]]] = {}
    for sub in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in filter(is_records, _fitting(sub, "*")):
            split = _SHARD.sub("", path.name.partition(".")[0])
            configs.setdefault(sub.name, {}).setdefault(split, []).append(path)
    return configs


# The surest first: a folder of MTEB's may hold what looks like BEIR's.
_KINDS: tuple[tuple[str, Callable[[Path], dict[str, _Files]]], ...] = (
    ("MTEB folder", lambda folder: _mteb(folder) if _card_configs(folder) else {}),
    ("BEIR folder", _beir),
    ("M-BEIR folder", _mbeir),
    ("ReT-M2KR folder", _ret_m2kr),
    ("MTEB folder", _mteb),
)


class _Rows:
    """Rows on their way into an Arrow table."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._size = 0
        self._columns: list[list[Any]] = [[] for _ in schema]

    def add(self, *values: Any) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._size += len(values[1]) if isinstance(values[1], str) else 0
        if len(self._columns[0]) >= _ROWS or self._size > _CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        arrays = [
            pa.array(column, kind.type)
            for column, kind in zip(self._columns, self._schema, strict=True)
        ]
        self._batches.append(pa.record_batch(arrays, schema=self._schema))
        self._columns, self._size = [[] for _ in self._schema], 0

    def table(self) -> pa.Table:
        if self._columns[0]:
            self._flush()
        return pa.Table.from_batches(self._batches, self._schema)


class _Reader:
    """Reads the files of a folder's splits; each file once."""

    def __init__(self, folder: Path, kind: str, images: Sequence[Path], progress: Progress) -> None:
        self._folder, self._kind, self._roots = folder, kind, list(images)
        self._faults, self._progress = Faults(), progress
        self._embedded: dict[str, ImageLook] = {}
        self._named: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
        self._null: dict[str, set[str]] = {}

    def read(self, files: Mapping[str, _Files]) -> Benchmark:
        corpora: dict[tuple[Path, ...], Corpus] = {}
        tables: dict[tuple[Path, ...], tuple[pa.Table, pa.Table]] = {}
        splits = {}
        for name, of_split in files.items():
            passages, queries = (
                tuple(f.path for f in part) for part in (of_split.passages, of_split.queries)
            )
            if passages not in corpora:
                title = of_split.passages[0].path.relative_to(self._folder).as_posix()
                corpora[passages] = Corpus(title, self._corpus(of_split))
            if queries not in tables:
                tables[queries] = self._queries(of_split)
            splits[name] = self._split(name, corpora[passages].name, of_split, *tables[queries])
        store, why = self._images(list(corpora.values()), list(splits.values()))
        return Benchmark(
            self._folder.name or str(self._folder),
            self._kind,
            {corpus.name: corpus for corpus in corpora.values()},
            splits,
            self._faults,
            store,
            why,
            self._embedded,
            {where: sorted(names) for where, names in self._null.items() if names},
        )

    def _corpus(self, files: _Files) -> pa.Table:
        rows = _Rows(CORPUS)
        for where, record in self._records(files.passages, "passages"):
            row = self._take(record, PASSAGE_NAMES)
            passage_id = self._id(row.get("passage_id"), where)
            if passage_id is None:
                continue
            text = self._text(row.get("passage_content"), where, "text")
            title = self._text(row.get("title"), where, "title")
            if files.title_in_text:
                text = f"{title} {text}".strip() if title else text
            language = self._text(row.get("language"), where, "language")
            rows.add(
                passage_id, text, title or None, language or None, self._image(row.get("img_path"))
            )
        return rows.table()

    def _queries(self, files: _Files) -> tuple[pa.Table, pa.Table]:
        """Queries, and the judgements that lie in their records."""
        rows, qrels = _Rows(QUERIES), _Rows(QRELS)
        instructions = {
            str(record.get("query-id")): record.get("instruction")
            for _, record in self._records(files.instructions, "instructions")
        }
        for where, record in self._records(files.queries, "queries"):
            flat = files.queries[0].flat
            row = self._query(record, where, flat)
            if row is None:
                continue
            query_id = row["question_id"]
            instruction = row["instruction"] or instructions.get(query_id) or ""
            rows.add(query_id, row["question"], instruction, row["img_path"], row["answers"])
            for passage_id, grade in zip(row["pos_item_ids"], row["pos_item_grades"], strict=True):
                qrels.add(query_id, passage_id, grade)
        return rows.table(), qrels.table()

    def _query(self, record: Record, where: str, flat: bool) -> dict[str, Any] | None:
        """The query's row; without answers or positives where the importer would refuse them."""
        named = self._take(record, QUERY_NAMES)
        image = self._image(named.get("img_path"))
        # As if there were an image: what asks nothing is counted by a check, and paths are looked up later.
        record = {k: v for k, v in record.items() if k not in QUERY_NAMES["img_path"]}
        record["img_path"] = "x"
        for left_out in ("", "answers", "pos_item_ids"):
            for name in QUERY_NAMES.get(left_out, ()):
                record.pop(name, None)
            try:
                row = query_row(record, where, flat=flat)
            except InputError as error:
                if not left_out:
                    self._refused(error)
                continue
            if left_out:
                row["answers"] = self._answers(named.get("answers"))
            return row | {"img_path": image}
        query_id = self._id(named.get("question_id"), where)
        if query_id is None:
            return None
        texts = {n: self._text(named.get(n), where, n) for n in ("question", "instruction")}
        none: dict[str, Any] = {"pos_item_ids": [], "pos_item_grades": []}
        answers = self._answers(named.get("answers"))
        return {"question_id": query_id, "img_path": image, "answers": answers, **texts, **none}

    def _answers(self, value: Any) -> list[str]:
        several = value if isinstance(value, list) else [value]
        return [mended_text(str(answer)) for answer in several if not is_missing(answer)]

    def _split(
        self, name: str, corpus: str, files: _Files, queries: pa.Table, own: pa.Table
    ) -> QuerySet:
        qrels = self._qrels(files.qrels) if files.qrels else own
        if files.only_judged:
            judged = qrels.column("question_id").unique()
            queries = queries.filter(pc.is_in(queries.column("question_id"), value_set=judged))
        return QuerySet(name, corpus, queries, qrels)

    def _qrels(self, files: Iterable[RecordFile]) -> pa.Table:
        rows = _Rows(QRELS)
        for file in files:
            records = self._guarded(file, qrels_records(file, lambda e: self._refused(e)))
            while True:  # what judgements_of refuses ends it, but not the records
                try:
                    for _, query, passage, grade in judgements_of(records, file.where):
                        rows.add(mended_text(query), mended_text(passage), grade)
                    break
                except InputError as error:
                    self._refused(error)
        return rows.table()

    def _refused(self, error: M2KRError) -> None:
        self._faults.add(re.sub(r"'[^']*'|\d+", "…", error.what)[:120], str(error.where))

    def _guarded(self, file: RecordFile, records: Iterator[Any]) -> Iterator[Any]:
        """Records up to where the file can't be read any further."""
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except (M2KRError, OSError, EOFError) as error:
                what = error.what if isinstance(error, M2KRError) else str(error)
                where = getattr(error, "where", None) or str(file.path)
                self._faults.add(f"{what[:120]}; the rest of the file was not read", str(where))
                return
            self._faults.read += 1
            yield record

    def _records(self, files: Sequence[RecordFile], unit: str) -> Iterator[tuple[str, Record]]:
        for file in files:
            lines = file_kind(file.path) == "jsonl"
            records = self._lines(file) if lines else iter(file)
            self._progress.start(file.path.name, None, unit)
            nulls: set[str] | None = None
            for n, record in self._guarded(file, records):
                if nulls is None:
                    nulls = {str(key) for key, value in record.items() if is_missing(value)}
                elif nulls:
                    nulls = {key for key in nulls if is_missing(record.get(key))}
                if n % _ROWS == 0:
                    self._progress.advance(file.path.name, _ROWS)
                yield file.where(n), record
            self._progress.done(file.path.name)
            if nulls:
                self._null.setdefault(file.path.relative_to(self._folder).as_posix(), set()).update(
                    nulls
                )

    def _lines(self, file: RecordFile) -> Iterator[tuple[int, Record]]:
        """The objects of a file of JSON lines; lines that hold none are counted."""
        with open_gzip(file.path) if is_gzip(file.path) else file.path.open("rb") as stream:
            for n in itertools.count(1):
                raw = stream.readline(MAX_LINE + 2)
                if not raw:
                    return
                raw = raw.strip().removeprefix(b"\xef\xbb\xbf") if n == 1 else raw.strip()
                if not raw:
                    continue
                try:
                    record = loads(raw)
                except orjson.JSONDecodeError:
                    record = self._mended(raw, file.where(n))
                    if record is None:
                        continue
                if isinstance(record, dict):
                    yield n, record
                else:
                    self._faults.add("the line is no JSON object", file.where(n))

    def _mended(self, raw: bytes, where: str) -> Any:
        try:
            raw.decode()
            self._faults.add("the line is not JSON", where)
        except UnicodeDecodeError:
            self._faults.add("the line is not UTF-8", where)
            try:
                return loads(raw.decode(errors="replace").encode())
            except orjson.JSONDecodeError:
                pass
        return None

    def _take(self, record: Record, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        """The record's fields by our columns' names; of several the first that is not null."""
        key = (next(iter(names)), *record)
        if key not in self._named:
            if len(self._named) > 10_000:
                self._named.clear()
            fits = [
                (column, [n for n in accepted if n in record]) for column, accepted in names.items()
            ]
            self._named[key] = [(column, tuple(present)) for column, present in fits if present]
        row = {}
        for column, present in self._named[key]:
            for name in present:
                value = record[name]
                if value is not None:
                    row[column] = value
                    break
        return row

    def _id(self, value: Any, where: str) -> str | None:
        if isinstance(value, str) and value.strip():
            return mended_text(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        self._faults.add("the record has no id", where)
        return None

    def _text(self, value: Any, where: str, name: str) -> str:
        if isinstance(value, str):
            return value if value.isascii() else mended_text(value)
        if is_missing(value):
            return ""
        self._faults.add(f"field '{name}' holds no text but a {type(value).__name__}", where)
        return mended_text(str(value))

    def _image(self, value: Any) -> str | None:
        """The path of an image, or the key of one that lies in the record itself."""
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            key = f"embedded:{hashlib.sha256(value).hexdigest()}"
            if key not in self._embedded and len(self._embedded) < MOST_EMBEDDED:
                self._embedded[key] = look_of(value)
            return key
        return mended_text(value) if isinstance(value, str) and value.strip() else None

    def _images(
        self, corpora: Sequence[Corpus], splits: Sequence[QuerySet]
    ) -> tuple[ImageStore | None, str]:
        tables = [corpus.table for corpus in corpora] + [split.table for split in splits]
        if all(table.column("image").null_count == len(table) for table in tables):
            return None, ""
        store = ImageStore([*self._roots, self._folder])
        if self._roots or any_there(store, corpora, splits):
            return store, ""
        return None, "none of the first is below the folder; --images DIR says where they are"
