"""`export`: a built source, or a result's, written as another tool reads it."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import atomic
from m2kr._version import __version__
from m2kr.data.load import Split
from m2kr.errors import UsageError
from m2kr.evaluation.judge_file import FORMAT as JUDGE
from m2kr.evaluation.judge_file import KEY, SUFFIX
from m2kr.export.judge import write_judge_file
from m2kr.export.request import ExportRequest, require_current
from m2kr.progress import SILENT, Progress, task

if TYPE_CHECKING:
    from m2kr.retrieval.run import Run

MARK = "m2kr_export.json"
# By name the module that writes a format, and what it is for.
FORMATS = {
    "parquet": ("tables", "passages, queries and judgements as plain Parquet"),
    "beir": ("beir", "BEIR's corpus.jsonl, queries.jsonl and qrels, text alone"),
    "mteb": ("mteb", "a data set folder that MTEB's retrieval tasks load, images embedded"),
    "trec": ("trec", "judgements, topics and a result's run for trec_eval"),
    "release": ("release", "the authors' release layout"),
    "croissant": ("croissant", "Parquet with Croissant 1.1 metadata"),
    "judge": ("judge", "all that scoring a run needs, in one file a split, without texts"),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: File or folder.
        notes: What must be said of it.
    """

    path: Path
    notes: tuple[str, ...] = ()


def export(
    splits: Sequence[Split],
    format_: str,
    out: Path,
    *,
    run: "Run | None" = None,
    progress: Progress = SILENT,
) -> Exported:
    """Writes splits of one source in another tool's format, whole or not at all.

    Args:
        splits: The splits, of one source and edition.
        format_: One of `FORMATS`.
        out: Folder; of a judge file the file. An earlier export of the same source in the same format
            is replaced, nothing else.
        run: A run to write beside them, where the format has a place for it.
        progress: Told of the rows.

    Raises:
        UsageError: the format can't hold the source, or something else lies at ``out``.
    """
    if format_ not in FORMATS:
        raise UsageError(f"there is no format '{format_}'", expected=", ".join(FORMATS))
    if format_ == "judge":
        return _export_judge(splits, out, progress)
    mark = {
        "format": format_,
        "source": splits[0].source,
        "edition": splits[0].edition,
        "splits": {split.split: split.fingerprints for split in splits},
        "m2kr": __version__,
    }
    _require_ours(out, mark)
    out.parent.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"m2kr.export.{FORMATS[format_][0]}")
    rows = sum(len(split.queries) for split in splits)
    with atomic.writing(out) as aside:
        aside.mkdir()
        request = ExportRequest(splits, aside, run, progress)
        rows += sum(len(split.passages) for split in request.pools.values())
        try:
            with task(progress, "export", rows):
                notes = [*module.write(request), *_threshold_note(splits[0])]
        finally:  # what else went wrong may come of it
            for split in splits:
                require_current(split)
        with request.file(MARK) as file:
            file.write(f"{json.dumps(mark, indent=1)}\n".encode())
        old = out.with_name(f"{aside.name}-old")
        if out.exists():
            out.replace(old)
    atomic.discard(old)
    return Exported(out, tuple(notes))


def _threshold_note(split: Split) -> list[str]:
    """What no other tool's format has a place for: from which grade on a passage is right."""
    right = split.relevance_threshold
    if right == 1:
        return []
    return [
        f"a passage is right from grade {right:g}, which the files don't say: to be given to trec_eval as "
        f"-l {right:g}, to m2kr import as --relevance-threshold {right:g}"
    ]


def _require_ours(out: Path, mark: dict[str, Any]) -> None:
    """Refuses to write over what is no earlier export of the same thing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        there = json.loads((out / MARK).read_text(encoding="utf-8"))
        if all(there[name] == mark[name] for name in ("format", "source", "edition")):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UsageError(
        f"something else is there than an export of {mark['source']} as {mark['format']}",
        where=str(out),
        expected="a new or empty folder, or an earlier export of the same",
        fix="--out FOLDER",
    )


def _export_judge(splits: Sequence[Split], out: Path, progress: Progress) -> Exported:
    if len(splits) > 1:
        raise UsageError(
            f"a judge file is of one split, not of {', '.join(s.split for s in splits)}",
            fix=f"--split {splits[0].split}",
        )
    if out.suffix != ".parquet":
        raise UsageError(f"'{out}' is no name of a judge file", fix=f"--out {out.name}{SUFFIX}")
    if out.exists() and not _is_judge_file(out):
        raise UsageError(
            f"something else is there than a judge file ({JUDGE})", where=str(out), fix="--out FILE"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    return Exported(write_judge_file(splits[0], out, progress=progress))


def _is_judge_file(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return KEY in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False
