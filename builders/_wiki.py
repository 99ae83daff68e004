"""Wikipedia in passages of 100 words (DPR's psgs_w100), which OKVQA and Infoseek search in."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from m2kr import atomic
from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.fetch.folder import asset_sha256
from m2kr.building.formats.delimited import BadRecord, RecordBlock, read_csv
from m2kr.building.formats.gzip import open_gzip
from m2kr.building.formats.phrase_index import IndexedPassage, PhraseHit, PhraseIndex
from m2kr.building.spec import BuildContext, Row
from m2kr.errors import UsageError

from ._rows import passage_batch

NAME = "wikipedia/psgs_w100.tsv.gz"
HEADER = ("id", "text", "title")
ASSET = Asset(
    NAME,
    ("https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz",),
    size=4_694_541_059,
    md5="612fe66e0b6b41ee28f806140226c563",
    licence="CC BY-SA 3.0 (Wikipedia, December 2018)",
    shape=Shape("csv", HEADER, delimiter="\t"),
)
_FILE = Path(NAME).name
TITLE: tuple[Literal["title"]] = ("title",)
TEXT: tuple[Literal["text"]] = ("text",)
_MANY, _GROUP = 1_000, 32


def content(title: str, text: str) -> str:
    """The text of a passage, as the benchmark lays it out."""
    return f"title: {title} content: {text}"


def index(ctx: BuildContext) -> PhraseIndex:
    """The phrase index of the passages; made once for all sources and kept with the data."""
    if ctx.derived is None:
        raise UsageError("a phrase index needs a data root")
    path = ctx.files[NAME]
    sha256 = asset_sha256(ASSET, path.parents[len(Path(NAME).parts) - 1])
    ctx.derived.mkdir(parents=True, exist_ok=True)
    target = ctx.derived / f"psgs_w100-{sha256[:16]}.sqlite"
    faults: list[BadRecord] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for block in _blocks(path, faults):
            yield block.batch
        facts = [[f.row, f"{f.problem}: {f.text}"] for f in faults]
        atomic.write_json(_faults(target), facts)

    return PhraseIndex.build(target, batches(), key=sha256, progress=ctx.progress)


def _blocks(path: Path, faults: list[BadRecord]) -> Iterator[RecordBlock]:
    """The upstream rows in blocks; faulty ones go to ``faults``."""
    with open_gzip(path) as stream:
        yield from read_csv(stream, HEADER, where=str(path), on_fault=faults.append, delimiter="\t")


def found_passages(ctx: BuildContext, corpus: PhraseIndex, rows: Iterable[int]) -> Iterator[Row]:
    """Passages of the index by row, ascending, accounted for as rows of the upstream file."""
    chosen = sorted(set(rows))
    faults = _read_faults(corpus.path)
    for row, detail in faults:
        ctx.ledger.read(_FILE)
        ctx.ledger.drop("unreadable record", file=_FILE, row=row, detail=detail)
    ctx.ledger.read(_FILE, len(corpus))
    numbers = _numbers(chosen, [row for row, _ in faults])
    others = sorted({*numbers, *(row for row, _ in faults), len(corpus) + len(faults) + 1})
    for before, mark in pairwise([0, *others]):
        if mark > before + 1:
            ctx.ledger.filter("not in the pool", file=_FILE, row=range(before + 1, mark))
    for start in range(0, len(chosen), 1000):
        block = corpus.passages(chosen[start : start + 1000])
        ctx.ledger.use(_FILE, numbers[start : start + 1000])
        yield from map(_row, block)


def _numbers(rows: Sequence[int], faults: Sequence[int]) -> list[int]:
    """Record numbers of ascending rows of the index, which counts readable records alone, from 0."""
    numbers, passed = [], 0
    for row in rows:
        while passed < len(faults) and faults[passed] <= row + 1 + passed:
            passed += 1
        numbers.append(row + 1 + passed)
    return numbers


def _row(passage: IndexedPassage) -> Row:
    return {
        "passage_id": passage.id,
        "passage_content": content(passage.title, passage.text),
        "title": passage.title,
    }


def every_passage(ctx: BuildContext) -> Iterator[pa.RecordBatch]:
    """All passages as batches of our table, for a build that is told which to take."""
    faults: list[BadRecord] = []
    for block in _blocks(ctx.files[NAME], faults):
        ctx.ledger.read(_FILE, block.records)
        for fault in faults:
            detail = f"{fault.problem}: {fault.text}"
            ctx.ledger.drop("unreadable record", file=_FILE, row=fault.row, detail=detail)
        faults.clear()
        batch = block.batch
        title = batch.column("title")
        given = {
            "passage_id": batch.column("id"),
            "passage_content": pc.binary_join_element_wise(
                "title: ", title, " content: ", batch.column("text"), ""
            ),
            "title": title,
        }
        ctx.ledger.use(_FILE, block.rows())
        yield passage_batch(ctx, given)


def hits_of(
    ctx: BuildContext, corpus: PhraseIndex, phrases: Iterable[str], k: int
) -> dict[str, list[PhraseHit]]:
    """The ``k`` best hits of each distinct phrase in title or text, the better field deciding.

    As Elasticsearch's multi-match takes the best field: the best of both are among the best of each.
    """
    distinct = list(dict.fromkeys(phrases))
    _search_ahead(ctx, corpus, distinct, k)
    lists = [corpus.search_many(distinct, k=k, fields=field) for field in (TITLE, TEXT)]
    return {phrase: _better(hits, k) for phrase, *hits in zip(distinct, *lists, strict=True)}


def _better(lists: Iterable[list[PhraseHit]], k: int) -> list[PhraseHit]:
    best: dict[int, float] = {}
    for hit in chain.from_iterable(lists):
        best[hit.row] = max(hit.score, best.get(hit.row, hit.score))
    hits = [PhraseHit(row, score) for row, score in best.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.row))[:k]


def _search_ahead(ctx: BuildContext, corpus: PhraseIndex, phrases: Sequence[str], k: int) -> None:
    """Searches many phrases on all cores; the index remembers the hits.

    A frequent word has a million hits in Wikipedia and takes a second or two. SQLite searches without
    holding Python's lock, so threads will do.
    """
    cores = os.cpu_count() or 1
    if len(phrases) < _MANY or cores == 1:
        return
    name = f"{len(phrases):,} phrases in Wikipedia"
    ctx.progress.start(name, len(phrases), "phrases")
    groups = [phrases[i : i + _GROUP] for i in range(0, len(phrases), _GROUP)]
    with ThreadPoolExecutor(cores) as executor:
        for n in executor.map(_search_group, repeat(corpus), groups, repeat(k)):
            ctx.progress.advance(name, n)
    ctx.progress.done(name)


def _search_group(corpus: PhraseIndex, phrases: Sequence[str], k: int) -> int:
    own = PhraseIndex(corpus.path, corpus.key)
    for field in (TITLE, TEXT):
        for _ in own.search_many(phrases, k=k, fields=field):
            pass
    return len(phrases)


def _faults(target: Path) -> Path:
    return target.with_name(target.name + ".faults.json")


def _read_faults(target: Path) -> list[tuple[int, str]]:
    path = _faults(target)
    return (
        [(row, detail) for row, detail in json.loads(path.read_text(encoding="utf-8"))]
        if path.exists()
        else []
    )
