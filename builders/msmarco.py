"""MSMARCO: questions to the web passages that answer them, without images.

One tarball holds the collection, queries and judgements; which 400,782 training queries M2KR takes
is told by the training set that Tevatron publishes.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.archives import members
from m2kr.building.formats.delimited import RecordBlock, read_tsv
from m2kr.building.sampling import draw_places, keyed_numbers
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.errors import CheckError
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source, Variant

from ._rows import dropper, json_records, passage_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LICENCE = "MS MARCO terms: non-commercial research"

SOURCE = Source(
    name="msmarco",
    config="MSMARCO",
    title="MSMARCO: questions to web passages",
    task="Q2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="hit_rate@5",
    version=1,
    licence=_LICENCE,
    homepage="https://microsoft.github.io/msmarco/",
    citation="""@article{nguyen2016msmarco,
  title={{MS MARCO}: A Human Generated MAchine Reading COmprehension Dataset},
  author={Nguyen, Tri and others},
  journal={arXiv:1611.09268}, year={2016}
}""",
    summary="Text-only questions; in M2KR they keep the text side of a retriever honest.",
    expected={
        "train": 400_782,
        "valid": 6_980,
        "test": 5_120,
        "train_passages": 8_841_823,
        "valid_passages": 400_000,
        "test_passages": 400_000,
    },
    aliases=("ms-marco", "msmarco-passage"),
    query_columns=(
        Column("original_data_id", "list<string>", doc="The query's number in MS MARCO."),
    ),
    passage_columns=(
        Column("original_data_id", nullable=True, doc="The passage's number in MS MARCO."),
    ),
    released=True,
    options=(
        Option(
            "pool",
            "sample",
            "Pool of valid and test: a sample of the collection, or the full one.",
            ("sample", "full"),
        ),
        Option(
            "test_pool_size",
            "400000",
            "Passages in the sampled pool; 200000 in the paper's table.",
            kind="count",
        ),
        Option("test_queries", "5120", "Queries of the test split.", kind="count"),
        Option(
            "train",
            "tevatron",
            "Training queries: those of Tevatron's training set, or all that are judged.",
            ("tevatron", "judged"),
        ),
    ),
    variants={
        "msmarco-full": Variant(
            {"pool": "full"},
            "the whole collection as pool, and dev.small as test: the usual MS MARCO setting",
            {
                "train": 400_782,
                "valid": 6_980,
                "test": 6_980,
                "train_passages": 8_841_823,
                "valid_passages": 8_841_823,
                "test_passages": 8_841_823,
            },
            "the full MS MARCO collection: compares with MS MARCO's dev results, not with M2KR's",
        )
    },
    rules=(
        Rule(
            "test_queries",
            "test is the 5,120 queries of dev.small with the smallest keyed hash of their number",
            "ours",
            "test_queries",
            {"pool": "sample"},
        ),
        Rule(
            "pooled",
            "the pool of valid and test is every passage that dev.small judges relevant, filled up "
            "to 400,000 with a keyed sample of the collection, by number",
            "ours",
            "test_pool_size",
            {"pool": "sample"},
        ),
        Rule(
            "train_queries",
            "training queries and their positives are those of Tevatron's training set, whose "
            "number is the release's exactly",
            "inferred",
            "train",
        ),
    ),
)

TRAIN = "msmarco/tevatron-train.jsonl.gz"
DEV = "dev.small"
_PART = 1 << 20
TAR = "msmarco/collectionandqueries.tar.gz"
SMALL = ("queries.train.tsv", "queries.dev.small.tsv", "qrels.train.tsv", "qrels.dev.small.tsv")


class MSMARCO(Builder):
    """The collection or a sample of it, and its judged questions."""

    source = SOURCE
    release_keys = {"passages": ("original_data_id",), "queries": ("original_data_id",)}
    # The collection judges every training query, so an aligned build has no need of Tevatron's file.
    align_options = {"train": "judged"}

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """The tarball, and Tevatron's training set if it decides the training queries."""
        tar = Asset(
            TAR,
            (
                "https://msmarco.z22.web.core.windows.net/msmarcoranking/collectionandqueries.tar.gz",
            ),
            size=1_057_717_952,
            md5="31644046b18952c1386cd4564ba2ae69",
            licence=_LICENCE,
            shape=Shape("tsv", ("pid", "text"), member="collection.tsv"),
        )
        train = Asset(
            TRAIN,
            (
                "https://huggingface.co/datasets/Tevatron/msmarco-passage/resolve/main/train.jsonl.gz",
            ),
            licence=_LICENCE,
            shape=Shape("jsonl", ("query_id", "query", "positive_passages")),
        )
        return [tar, train] if options["train"] == "tevatron" else [tar]

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """Valid and test share a pool; with the full one all splits do."""
        shared = ("valid_passages", "test_passages")
        return [("train_passages", *shared)] if options["pool"] == "full" else [shared]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The collection, or what of it is in the pool of valid and test."""
        whole = pool == "train_passages" or ctx.options["pool"] == "full"
        return _collection(ctx, None if whole else self.pooled(ctx))

    def all_passages(self, ctx: BuildContext, pool: str) -> Iterator[pa.RecordBatch]:
        """The collection."""
        return _collection(ctx, None)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The queries of one split."""
        if split == "train":
            return self.train_queries(ctx)
        sampled = split == "test" and ctx.options["pool"] == "sample"
        return _judged(ctx, DEV, self.test_queries if sampled else None)

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """Every judged query that a split could have."""
        return _judged(ctx, "train" if split == "train" else DEV)

    @staticmethod
    def test_queries(ctx: BuildContext, qids: Sequence[str]) -> set[str]:
        """The queries of the test split among the judged ones of dev.small."""
        return ctx.sample(qids, ctx.count("test_queries"), "msmarco test")

    @staticmethod
    def pooled(ctx: BuildContext) -> "NDArray[np.int64]":
        """The numbers in the pool of valid and test, ascending: dev.small's positives and a sample."""
        every = np.load(_unpacked(ctx) / "pids.npy", mmap_mode="r")
        positives = {int(pid) for taken in _qrels(ctx.quiet(), DEV).values() for pid in taken}
        judged, size = np.array(sorted(positives), np.int64), ctx.count("test_pool_size")
        taken, others = np.empty(0, np.int64), np.empty(0, np.int64)
        for start in range(0, len(every), _PART):
            part = np.array(every[start : start + _PART])
            right = _among(part, judged)
            taken = np.concatenate([taken, part[right]])
            others = np.concatenate([others, part[~right]])
            # The sample of all is among the samples of its parts: more is never held.
            others = others[draw_places(keyed_numbers(others, "msmarco pool", ctx.seed), size)]
        room = size - len(taken)
        sample = others[draw_places(keyed_numbers(others, "msmarco pool", ctx.seed), room)]
        return np.sort(np.concatenate([taken, sample]))

    @staticmethod
    def train_queries(ctx: BuildContext) -> Iterator[Row]:
        """Queries of Tevatron's training set with its positives, or all that are judged."""
        if ctx.options["train"] == "judged":
            yield from _judged(ctx, "train")
            return
        path, has, seen = ctx.files[TRAIN], _has_passage(ctx), set[str]()
        keys = ("query_id", "query", "positive_passages")
        for number, record in json_records(path, ctx.ledger, keys):
            try:
                listed = [str(p["docid"]) for p in record["positive_passages"]]
            except (TypeError, KeyError):
                ctx.ledger.drop("no list of passages", file=path.name, row=number)
                continue
            qid, known = str(record["query_id"]), [pid for pid in listed if has(pid)]
            if qid in seen:
                ctx.ledger.drop("a query number used twice", file=path.name, row=number, detail=qid)
            elif not listed:
                ctx.ledger.filter("no positive", file=path.name, row=number)
            elif not known:
                ctx.ledger.drop(
                    "unknown passages", file=path.name, row=number, detail=listed[0][:80]
                )
            else:
                if len(known) < len(listed):
                    ctx.ledger.repair("an unknown passage left out", file=path.name, row=number)
                seen.add(qid)
                ctx.ledger.use(path.name, number)
                yield _query(ctx, qid, str(record["query"]), known)


BUILDER = MSMARCO


def _collection(ctx: BuildContext, chosen: "NDArray[np.int64] | None") -> Iterator[pa.RecordBatch]:
    """Passages of the collection as batches of our table, in its order."""
    file = "collection.tsv"
    for block in _blocks_of(ctx, file, ("pid", "text")):
        ctx.ledger.read(file, block.records)
        numbers, batch = _pids(block.batch), block.batch
        for place in map(int, np.flatnonzero(numbers < 0)):
            detail = batch.column("pid")[place].as_py()[:80]
            row = block.row(place)
            ctx.ledger.drop("the pid is no number", file=file, row=row, detail=detail)
        keep = numbers >= 0
        taken = keep if chosen is None else keep & _among(numbers, chosen)
        rows = block.rows()
        if not taken.all():
            unwanted = keep & ~taken
            if unwanted.any():
                ctx.ledger.filter("not in the pool", file=file, row=rows[unwanted])
            batch = batch.filter(pa.array(taken))
        ctx.ledger.use(file, rows[taken])
        pid, text = batch.columns
        yield passage_batch(
            ctx, {"passage_id": pid, "passage_content": text, "original_data_id": pid}
        )


def _qrels(
    ctx: BuildContext, part: str, known: Container[str] | None = None
) -> dict[str, list[str]]:
    """Positives by query number; of the queries known, if they are given."""
    file, positives, has = f"qrels.{part}.tsv", dict[str, list[str]](), _has_passage(ctx)
    for number, (qid, _, pid, grade) in _rows_of(ctx, file, ("qid", "iteration", "pid", "grade")):
        rule, there = None, has(pid)
        if grade != "1":
            rule = "judged not relevant"
        elif known is not None and qid not in known:
            rule = "judges another query"
        elif pid in positives.get(qid, ()):
            rule = "judged twice"
        if there and rule is None:
            positives.setdefault(qid, []).append(pid)
        if not there:
            ctx.ledger.drop("judges an unknown passage", file=file, row=number, detail=pid)
        elif rule:
            ctx.ledger.filter(rule, file=file, row=number)
        else:
            ctx.ledger.use(file, number, out=0)
    return positives


def _judged(
    ctx: BuildContext,
    part: str,
    choose: Callable[[BuildContext, Sequence[str]], set[str]] | None = None,
) -> Iterator[Row]:
    """Queries of a part with what its qrels judge relevant; those without are left out."""
    file, names = f"queries.{part}.tsv", ("qid", "text")
    # Numbers alone, and texts in a second way through: there are 800,000 in train.
    open_ = dict.fromkeys(qid for _, (qid, _) in _rows_of(ctx.quiet(), file, names))
    positives = _qrels(ctx, part, known=open_)
    chosen = choose(ctx, [qid for qid in open_ if qid in positives]) if choose else positives
    for number, (qid, text) in _rows_of(ctx, file, names):
        if qid not in open_:
            ctx.ledger.drop("a query number used twice", file=file, row=number, detail=qid)
            continue
        del open_[qid]
        if qid not in positives or qid not in chosen:
            rule = "not judged" if qid not in positives else "not in the test split"
            ctx.ledger.filter(rule, file=file, row=number)
            continue
        ctx.ledger.use(file, number)
        yield _query(ctx, qid, text, positives[qid])


def _query(ctx: BuildContext, qid: str, text: str, positives: Sequence[str]) -> Row:
    return {
        "question_id": qid,
        "question": text,
        "instruction": ctx.instruction(qid),
        "pos_item_ids": list(dict.fromkeys(positives)),
        "original_data_id": [qid],
    }


def _pids(batch: pa.RecordBatch) -> "NDArray[np.int64]":
    """Passage numbers, -1 where there is none."""
    pid = batch.column("pid")
    try:
        numbers = pc.cast(pid, pa.int64())
    except pa.ArrowInvalid:
        plain = pc.match_substring_regex(pid, "^[0-9]{1,18}$")
        numbers = pc.fill_null(pc.cast(pc.if_else(plain, pid, None), pa.int64()), -1)
    return cast("NDArray[np.int64]", numbers.to_numpy(zero_copy_only=False))


def _among(numbers: "NDArray[np.int64]", chosen: "NDArray[np.int64]") -> "NDArray[np.bool_]":
    places = np.minimum(np.searchsorted(chosen, numbers), max(0, len(chosen) - 1))
    return chosen[places] == numbers if len(chosen) else np.zeros(len(numbers), bool)


def _blocks_of(ctx: BuildContext, file: str, names: Sequence[str]) -> Iterator[RecordBlock]:
    for member in members(ctx.files[TAR]):
        if member.name == file:
            with member.open() as stream:
                where = f"{ctx.files[TAR]}, member {file!r}"
                yield from read_tsv(stream, names, where=where, on_fault=dropper(ctx.ledger, file))
            return
    raise CheckError(f"there is no member {file!r}", where=str(ctx.files[TAR]))


def _unpacked(ctx: BuildContext) -> Path:
    """The small members of the tarball and the numbers of all passages, from one way through it."""
    return ctx.once("msmarco", lambda folder: _unpack(ctx, folder))


def _unpack(ctx: BuildContext, folder: Path) -> None:
    folder.mkdir()
    where = str(ctx.files[TAR])
    numbers = [np.empty(0, np.int64)]
    for member in members(ctx.files[TAR]):
        if member.name == "collection.tsv":
            with member.open() as stream:
                blocks = read_tsv(stream, ("pid", "text"), where=where, on_fault=lambda _: None)
                numbers += [_pids(block.batch) for block in blocks]
        elif member.name in SMALL:
            (folder / member.name).write_bytes(member.read())
    every = np.concatenate(numbers)
    numbers.clear()
    every.sort()  # in place: np.unique would copy millions of them
    new = np.diff(every, prepend=-1) > 0
    np.save(folder / "pids.npy", every[new])
    lost = [name for name in SMALL if not (folder / name).exists()]
    if lost or not len(every):
        name = lost[0] if lost else "collection.tsv"
        raise CheckError(f"there is no member {name!r}, or nothing in it", where=where)


def _has_passage(ctx: BuildContext) -> Callable[[str], bool]:
    """Tells whether the collection has a passage of a number."""
    every: NDArray[np.int64] = np.load(_unpacked(ctx) / "pids.npy", mmap_mode="r")

    def has(pid: str) -> bool:
        number = int(pid) if pid.isdecimal() and len(pid) < 19 else -1
        place = int(np.searchsorted(every, number))
        return place < len(every) and int(every[place]) == number

    return has


def _rows_of(ctx: BuildContext, file: str, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    path = _unpacked(ctx) / file
    with path.open("rb") as stream:
        for block in read_tsv(stream, names, where=file, on_fault=dropper(ctx.ledger, file)):
            ctx.ledger.read(file, block.records)
            cells = [column.to_pylist() for column in block.batch.columns]
            for i, row in enumerate(zip(*cells, strict=True)):
                yield block.row(i), list(row)
