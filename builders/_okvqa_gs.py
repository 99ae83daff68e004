"""OKVQA's Google-Search corpus and its judgements, as FLMR used them."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import orjson

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.delimited import read_csv
from m2kr.building.ledger import Ledger
from m2kr.building.spec import BuildContext, Row
from m2kr.errors import InputError
from m2kr.unicode_halves import loads

from ._rows import dropper, told

TRAIN_ROWS = 112_724  # the corpus of train is the first rows of the full one
_HOW = (
    "from the Google Drive folder linked at github.com/luomancs/retriever_reader_for_okvqa, or out "
    "of RAVQA_v2_data.tar.gz of the hub's BByrneLab/RAVQAV2Data"
)
_LICENCE = "not stated upstream (web texts found by Google Search)"
_LABELS = ("question_id", "answers", "ctxs")
FULL = "okvqa/okvqa_full_corpus.csv"
LABELS = {"train": "okvqa/retriever_train.json", "test": "okvqa/retriever_test.json"}
ASSETS = [
    Asset(
        FULL,
        manual=f"place okvqa_full_corpus.csv here, {_HOW}",
        licence=_LICENCE,
        shape=Shape("csv", ("kid", "text")),
    ),
    *(
        Asset(
            name,
            manual=f"place {name.split('/')[1]} here, {_HOW}",
            licence=_LICENCE,
            shape=Shape("json", _LABELS),
        )
        for name in LABELS.values()
    ),
]


def passages(ctx: BuildContext, *, train: bool) -> Iterator[Row]:
    """The corpus, or its part for train: ids ``GS_<kid>``."""
    path = ctx.files[FULL]
    file, seen = path.name, set[int]()
    with path.open("rb") as stream:
        drop = dropper(ctx.ledger, file)
        for block in read_csv(stream, ("kid", "text"), where=str(path), on_fault=drop):
            ctx.ledger.read(file, block.records)
            kids, texts = (column.to_pylist() for column in block.batch.columns)
            for i, (kid, text) in enumerate(zip(kids, texts, strict=True)):
                row = block.row(i)
                if not kid.isdecimal():
                    ctx.ledger.drop("the kid is no number", file=file, row=row, detail=kid[:80])
                elif int(kid) in seen:
                    ctx.ledger.drop("a kid used twice", file=file, row=row, detail=kid)
                elif train and int(kid) >= TRAIN_ROWS:
                    ctx.ledger.filter("not in the corpus of train", file=file, row=row)
                else:
                    seen.add(int(kid))
                    ctx.ledger.use(file, row)
                    yield {"passage_id": f"GS_{kid}", "passage_content": text}


def judgements(ctx: BuildContext, split: str, asked: Collection[str]) -> dict[str, list[str]]:
    """Passage ids by question asked: all that its first label lists. Valid and test are one."""
    train = split == "train"
    path = ctx.files[LABELS["train" if train else "test"]]
    file, found = path.name, dict[str, list[str]]()
    expected = "a list of {question_id, answers, ctxs: [{id, …}, …]}"
    try:
        records = loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"no JSON: {error}", where=str(path), expected=expected) from error
    if not isinstance(records, list):
        raise InputError("no list", where=str(path), expected=expected)
    quiet = replace(ctx, ledger=Ledger("quiet"))
    corpus = {row["passage_id"] for row in passages(quiet, train=train)}
    for row, record in enumerate(records, 1):
        ctx.ledger.read(file)
        kids = _kids(record)
        if kids is None:
            ctx.ledger.drop("no label", file=file, row=row, detail=told(record))
            continue
        question = str(record["question_id"])
        if question not in asked:
            ctx.ledger.drop("labels no question", file=file, row=row, detail=question)
            continue
        if question in found:  # the authors' loader takes the first, too
            ctx.ledger.drop("a question labelled before", file=file, row=row, detail=question)
            continue
        kept = [f"GS_{kid}" for kid in kids if f"GS_{kid}" in corpus]
        if len(kept) < len(kids):
            ctx.ledger.repair("passages that the split's corpus lacks", file=file, row=row)
        found[question] = list(dict.fromkeys(kept))
        ctx.ledger.use(file, row, out=0)
    if records and not found:
        raise InputError("no label is of a question asked", where=str(path), expected=expected)
    return found


def _kids(record: Any) -> list[str] | None:
    """Numbers of a label's passages; None if it is no label."""
    try:
        kids = [str(ctx["id"]).removeprefix("GS_") for ctx in record["ctxs"]]
        record["question_id"]
    except (TypeError, KeyError):
        return None
    return kids if all(kid.isdecimal() for kid in kids) else None
