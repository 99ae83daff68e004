"""Which data a run may be scored on: those whose fingerprint is known, and where they lie.

``data/fingerprints.json`` holds by source and split the editions that are known: the ``eval`` fingerprint
and its three parts, the counts, the judge file, and who built them. They are verified, and systems on them
are ranked, where m2kr brings them along, or two people who don't depend on each other built the same.

What is proven of the data before a run is scored:

- of a judge file inside the package, or one below the data root whose contents are the known ones: that it
  is byte for byte, or value for value, what `data/fingerprints.json` names;
- of a built source: all fingerprints are computed anew of its tables;
- of any other judge file: that it is whole, that its ``eval`` fingerprint is that of its three parts, and
  where no query has an answer that its judgements have the fingerprint that it claims. Its texts are not in
  it, so that the fingerprints of queries and pool, and of judgements with answers, are what it says they
  are: a run is scored on it as on unverified data.
"""

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import paths
from m2kr.data.built_sources import BuiltSources
from m2kr.data.load import Split, load
from m2kr.data.row_hash import content_of
from m2kr.errors import M2KRError, plainly
from m2kr.evaluation.judge_file import KEY, SUFFIX, JudgeFile
from m2kr.fingerprint import combine, pool_part, query_parts
from m2kr.parquet import ParquetReader
from m2kr.schema import GRADES, LOST_GRADES, LOST_IDS

from .problems import Problem, SubmissionRefused
from .system_card import SubmittedRun

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger("m2kr_leaderboard")

FORMAT = "m2kr-known-data-1"
PARTS = ("queries", "judgements", "pool")
_DEPTH = 3  # of folders below the data root in which judge files are looked for
_NO_JUDGE_FILES = {"cache", "downloads", "images"}


@dataclass(frozen=True, slots=True)
class DataBuild:
    """That somebody built a split.

    Attributes:
        who: Person or group, by a name that stays.
        date: As ``2026-12-01``.
        m2kr: Version that built it.
        route: ``sources``, ``release`` or ``aligned``.
        eval: Fingerprint that came of it.
    """

    who: str
    date: str
    m2kr: str
    route: str
    eval: str


@dataclass(frozen=True)
class KnownData:
    """A split in one edition, as the leaderboard knows it.

    Attributes:
        source: Source name.
        split: Split name.
        edition: Edition name.
        eval: The ``eval`` fingerprint.
        parts: Those of ``queries``, ``judgements`` and ``pool``, of which it is made.
        counts: ``queries`` and ``passages``.
        embedded: Whether m2kr brings the data along; a test builds them.
        judge: Of its judge file the ``contents`` (see `judge_contents`); with ``file`` and ``sha256`` where
            the package has it. Empty where none is known.
        ceilings: By metric the most that a retriever can have, as the audit of the data (`m2kr audit`) found;
            those below 1.
        builds: Who built it.
    """

    source: str
    split: str
    edition: str
    eval: str
    parts: Mapping[str, str]
    counts: Mapping[str, int]
    embedded: bool = False
    judge: Mapping[str, str] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)
    builds: tuple[DataBuild, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.source}/{self.split} ({self.edition})"

    @cached_property
    def verified(self) -> bool:
        """Whether systems on it are ranked."""
        agree = {build.who for build in self.builds if build.eval == self.eval}
        differ = any(build.eval != self.eval for build in self.builds)
        return self.embedded or (len(agree) >= 2 and not differ)

    @property
    def why(self) -> str:
        """Why, or why not, in one sentence."""
        if self.embedded:
            return "m2kr brings these data along"
        agree = sorted({build.who for build in self.builds if build.eval == self.eval})
        differ = sorted({build.who for build in self.builds if build.eval != self.eval})
        if differ:
            return f"unverified data: {', '.join(differ)} built others"
        if len(agree) >= 2:
            return f"{' and '.join(agree)} built the same data"
        one = f"{agree[0]} alone" if agree else "nobody"
        return f"unverified data: {one} has reported a build; two that agree are needed"


@dataclass(frozen=True, slots=True)
class KnownSplit:
    """Data to score a run on.

    Attributes:
        split: The split, or its judge file.
        verified: Whether systems on it are ranked.
        why: Why, or why not, in one sentence.
    """

    split: Split
    verified: bool
    why: str


@cache
def load_known_data() -> tuple[KnownData, ...]:
    """All data that are known, as in ``data/fingerprints.json``."""
    text = _packaged("fingerprints.json").read_text(encoding="utf-8")
    sources = json.loads(text)["data"]
    return tuple(
        KnownData(
            source=source,
            split=split,
            edition=facts["edition"],
            eval=facts["eval"],
            parts={part: facts[part] for part in PARTS},
            counts=facts["counts"],
            embedded=facts.get("embedded", False),
            judge=facts.get("judge", {}),
            ceilings=facts.get("ceilings", {}),
            builds=tuple(DataBuild(**build) for build in facts.get("builds", ())),
        )
        for source, splits in sources.items()
        for split, editions in splits.items()
        for facts in editions
    )


def known_data_of(run: SubmittedRun) -> KnownData | None:
    """What is known of the data that a run was made on; None if nothing is."""
    key = (run.source, run.split, run.edition, run.fingerprint)
    known = ((d.source, d.split, d.edition, d.eval) for d in load_known_data())
    return next((d for d, k in zip(load_known_data(), known, strict=True) if k == key), None)


def known_split(
    run: SubmittedRun,
    data: Path | None = None,
    *,
    recorded: Mapping[str, Any] | None = None,
) -> KnownSplit:
    """The data that a run was made on.

    They are the judge file in the package; else one below the data root (three folders deep) with that
    fingerprint; else the source that is built there.

    Args:
        run: Says the source, split, edition and fingerprint.
        data: Data root; else ``M2KR_DATA``, else the user data folder.
        recorded: Fingerprints of all parts that the run's file holds, if any; they tell what differs.

    Raises:
        SubmissionRefused: no such data are here; says what to do.
    """
    known = known_data_of(run)
    if known and "file" in known.judge:
        return KnownSplit(_packaged_judge(known.judge["file"]), known.verified, known.why)
    root = paths.data_root(data)
    reasons: list[str] = []
    for judge in _judge_files(root, run, reasons):
        contents = known.judge.get("contents") if known else None
        if known and contents and judge_contents(judge) != contents:
            reasons.append(f"{judge.folder} does not hold what is known of {known.label}")
            continue
        if known and contents:
            return KnownSplit(judge, known.verified, known.why)
        why = "unverified data: the judge file is not one whose contents are known"
        return KnownSplit(judge, False, why)
    built = _built_split(root, run, reasons)
    if built is not None:
        if known is not None:
            return KnownSplit(built, known.verified, known.why)
        return KnownSplit(built, False, _unlike_known(run, recorded) or _UNKNOWN)
    raise SubmissionRefused([_unknown_data(run, known, root, reasons, recorded)])


_UNKNOWN = "unverified data: nobody has reported a build of them"


def judge_contents(judge: JudgeFile) -> str:
    """Hash (hex) of what a judge file holds, however Parquet packs it."""
    assert judge.table is not None
    facts = {
        "source": judge.source,
        "split": judge.split,
        "edition": judge.edition,
        "parts": {part: judge.fingerprints[part] for part in PARTS},
        "manifest": judge.manifest,
        "sizes": judge.sizes,
        "rows": content_of(judge.table, judge.table.column_names),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _packaged(*names: str) -> Path:
    return Path(str(resources.files(__package__))).joinpath("data", *names)


@cache
def _packaged_judge(name: str) -> JudgeFile:
    path = _packaged("judges", name)
    known = {d.judge["file"]: d for d in load_known_data() if "file" in d.judge}[name]
    with plainly(path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != known.judge["sha256"]:
        raise M2KRError(
            "a judge file of the package was changed", where=str(path), fix="install m2kr again"
        )
    return JudgeFile.load(path)


def _judge_files(root: Path, run: SubmittedRun, reasons: list[str]) -> Iterator[JudgeFile]:
    """The judge files below a data root that say that they are of a run's data, and may be."""
    for path in _paths_of_judge_files(root):
        if _claimed(path) != (run.source, run.split, run.edition, run.fingerprint):
            continue
        stat = path.stat()
        try:
            judge = _loaded_judge(path, stat.st_mtime_ns, stat.st_size)
        except M2KRError as error:
            reasons.append(f"{path}: {error.what}")
        else:
            yield judge


def _paths_of_judge_files(root: Path) -> list[Path]:
    paths_of_files: list[Path] = []
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        kept = sorted(f for f in folders if not f.startswith(".") and f not in _NO_JUDGE_FILES)
        folders[:] = kept if depth < _DEPTH else []
        paths_of_files += [Path(folder, name) for name in files if name.endswith(SUFFIX)]
    return sorted(paths_of_files)


def _claimed(path: Path) -> tuple[Any, ...]:
    """Source, split, edition and fingerprint that a judge file says it is of; empty if it can't be read."""
    try:
        with ParquetReader(path) as reader:
            facts = json.loads(reader.metadata[KEY])
        return (
            facts["source"],
            facts["split"],
            facts["edition"],
            facts["fingerprints"]["eval"],
        )
    except (M2KRError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        logger.debug("%s is left out: %s", path, error)
        return ()


@lru_cache(maxsize=2)  # of a few hundred megabytes, where the pool is large
def _loaded_judge(path: Path, modified: int, size: int) -> JudgeFile:  # noqa: ARG001
    judge = JudgeFile.load(path)
    parts = [judge.fingerprints.get(part, "") for part in PARTS]
    if combine(*parts) != judge.fingerprints.get("eval"):
        raise M2KRError("its eval fingerprint is not that of its parts", where=str(path))
    if (made := _judgements_part(judge)) and judge.fingerprints["judgements"] not in made:
        raise M2KRError("its judgements don't have the fingerprint that it claims", where=str(path))
    return judge


def _judgements_part(judge: JudgeFile) -> set[str]:
    """What the ``judgements`` fingerprint can be; empty where answers, which aren't in it, enter."""
    import pyarrow as pa

    table = judge.queries_view.table
    if any(map(len, judge.queries_view.column("answers"))):
        return set()
    names = ("question_id", "pos_item_ids", GRADES.name, LOST_IDS.name, LOST_GRADES.name)
    columns = {name: table.column(name) for name in names if name in table.column_names}
    blank = pa.array([""] * len(table), pa.string())
    columns |= {"instruction": blank, "question": blank}
    made = set()
    nothing: tuple[list[str] | None, ...] = ([], None)
    for none in nothing:
        columns["answers"] = pa.array([none] * len(table), pa.list_(pa.string()))
        made.add(query_parts(pa.table(columns), judge.relevance_threshold)[1])
    return made


def _built_split(root: Path, run: SubmittedRun, reasons: list[str]) -> Split | None:
    """The split that is built below a data root, if it has a run's fingerprint, computed anew."""
    sources = BuiltSources.below(root)
    built = sources.editions.get(run.source, {}).get(run.edition)
    if built is None or run.split not in built.manifest["splits"]:
        return None
    claimed = built.manifest["fingerprints"][run.split]["eval"]
    if claimed != run.fingerprint:
        reasons.append(f"{built.folder} holds {run.source}/{run.split} with fingerprint {claimed}")
        return None
    try:
        split = load(run.source, run.split, edition=run.edition, data=root)
        computed = _computed(split.folder, split.split, split)
    except M2KRError as error:
        reasons.append(f"{built.folder}: {error.what}")
        return None
    if computed != run.fingerprint:
        reasons.append(f"the rows in {built.folder} have another fingerprint than its manifest")
        return None
    return split


_COMPUTED: dict[tuple[Any, ...], str] = {}


def _computed(folder: Path, name: str, split: Split) -> str:
    """The ``eval`` fingerprint of a built split's tables; once for as long as the manifest stays."""
    digest = hashlib.sha256(json.dumps(split.manifest, sort_keys=True).encode()).hexdigest()
    key = (folder, name, digest)
    if key not in _COMPUTED:
        queries, judgements = query_parts(
            _batches(split.queries_view.table), split.relevance_threshold
        )
        _COMPUTED[key] = combine(
            queries, judgements, pool_part(_batches(split.passages_view.table))
        )
    return _COMPUTED[key]


def _batches(table: "pa.Table") -> "Iterator[pa.RecordBatch]":
    for batch in table.to_batches():
        for start in range(0, len(batch), 1 << 16):
            yield batch.slice(start, 1 << 16)


def _nearest(run: SubmittedRun) -> KnownData | None:
    """Of the same source what is known that is most like a run's data."""
    of_source = [d for d in load_known_data() if d.source == run.source]
    alike = sorted(of_source, key=lambda d: (d.split != run.split, d.edition != run.edition))
    return alike[0] if alike else None


def _unlike_known(run: SubmittedRun, recorded: Mapping[str, Any] | None) -> str:
    """In what a run's data differ from those that are known of the same split; empty if none are."""
    near = _nearest(run)
    if near is None or near.split != run.split:
        return ""
    return f"unverified data: not {near.label} as it is known; " + _differing_parts(near, recorded)


def _differing_parts(near: KnownData, recorded: Mapping[str, Any] | None) -> str:
    told = {part: (recorded or {}).get(part) for part in PARTS}
    if not all(isinstance(value, str) for value in told.values()):
        return "the run's file doesn't tell which part differs"
    differ = [part for part in PARTS if told[part] != near.parts[part]]
    return (
        f"{', '.join(differ)} differ" if differ else "no part differs, so the fingerprint is wrong"
    )


def _unknown_data(
    run: SubmittedRun,
    known: KnownData | None,
    root: Path,
    reasons: list[str],
    recorded: Mapping[str, Any] | None,
) -> Problem:
    """Why there is nothing to score a run on, and what to do."""
    label = f"{run.source}/{run.split} ({run.edition})"
    name = f"{run.source}.{run.split}{SUFFIX}"
    export = ["m2kr", "export", run.source, "--split", run.split, "--edition", run.edition]
    put = (
        shlex.join([*export, "--format", "judge", "--out", name])
        + "; then check with --data and the folder that holds it"
    )
    beside = "; ".join(reasons)
    if known is not None:
        return Problem(
            "data-at-hand",
            run.file,
            f"the data of {label} are known, but not here" + (f": {beside}" if beside else ""),
            expected=f"a judge file {name}, or the built source, below {root}",
            fix=put,
        )
    elsewhere = next((d for d in load_known_data() if d.eval == run.fingerprint), None)
    if elsewhere is not None:
        return Problem(
            "known-fingerprint",
            run.file,
            f"the card says {label}, and the fingerprint is that of {elsewhere.label}",
            expected="source, split and edition of the fingerprint",
            fix="m2kr submit init makes the card of the results",
        )
    near = _nearest(run)
    if near is None:
        nearest = f"no data of {run.source} are known"
    elif near.split == run.split:
        nearest = f"known is {near.label} with {near.eval}; {_differing_parts(near, recorded)}"
    else:
        nearest = f"of {run.source} only other splits are known, such as {near.label}"
    return Problem(
        "known-fingerprint",
        run.file,
        f"the fingerprint {run.fingerprint} of {label} is unknown"
        + (f", and {beside}" if beside else ""),
        expected=nearest,
        fix="build the source as it is known and evaluate on that; to have these data scored as "
        f"unverified ones: {put}",
    )
