"""OKVQA: image and question to Wikipedia passages, and the older Google-Search corpus as an edition.

Questions and answers are upstream's. Which passages count as right was found by the authors with a
search engine, image captions and detected objects that aren't public: ours is a phrase search.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.phrase_index import IndexedPassage, PhraseIndex
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.errors import InputError
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source, Variant
from m2kr.unicode_halves import loads

from . import _wiki
from ._images import COCO_NOTE, coco_archive, coco_path
from ._rows import csv_records, most_frequent, only_member, told

if TYPE_CHECKING:
    import pyarrow as pa

_LICENCE = "CC BY 4.0 (questions); COCO images keep their Flickr terms"
_WIKIPEDIA, _GOOGLE = {"corpus": "wikipedia"}, {"corpus": "google"}
_GS_LICENCE = "not stated upstream (web texts found by Google Search)"

SOURCE = Source(
    name="okvqa",
    config="OKVQA",
    title="OKVQA: image and question to Wikipedia passages",
    task="IQ2T",
    pools={"train": "train_passages", "valid": "valid_passages", "test": "test_passages"},
    headline="pseudo_recall@5",
    version=2,
    licence=f"{_LICENCE}; CC BY-SA 3.0 (passages)",
    homepage="https://okvqa.allenai.org",
    citation="""@inproceedings{marino2019okvqa,
  title={{OK-VQA}: A Visual Question Answering Benchmark Requiring External Knowledge},
  author={Marino, Kenneth and Rastegari, Mohammad and Farhadi, Ali and Mottaghi, Roozbeh},
  booktitle={CVPR}, year={2019}
}""",
    summary="Valid and test are the same 5,046 questions, as in the release.",
    expected={
        "train": 9_009,
        "valid": 5_046,
        "test": 5_046,
        "train_passages": 114_809,
        "valid_passages": 114_809,
        "test_passages": 114_809,
    },
    aliases=("ok-vqa",),
    query_columns=(
        Column("img_key", "int64", nullable=True, doc="COCO's number of the image."),
        Column("img_key_full", nullable=True, doc="That number in 12 digits."),
        Column("img_file_name", nullable=True, doc="File name of the image."),
        Column("img_caption", nullable=True, doc="JSON: the authors' caption {caption, conf}."),
        Column("objects", nullable=True, doc="JSON: objects the authors detected, a list."),
        Column("img_ocr", nullable=True, doc="JSON: text the authors read in the image, a list."),
        Column("related_item_ids", "list<string>", doc="Passages that hold one of the answers."),
    ),
    released=True,
    options=(
        Option(
            "corpus",
            "wikipedia",
            "Pool: Wikipedia as in M2KR, or the Google-Search corpus of FLMR.",
            ("wikipedia", "google"),
        ),
        Option("hits", "10", "Passages found for each distinct answer.", kind="count"),
    ),
    variants={
        "okvqa-gs": Variant(
            {"corpus": "google"},
            "the Google-Search corpus of the FLMR paper",
            {
                "train": 9_009,
                "valid": 5_046,
                "test": 5_046,
                "train_passages": 112_724,
                "valid_passages": 168_306,
                "test_passages": 168_306,
            },
            "the Google-Search corpus: compares with FLMR's numbers, not with M2KR's",
        )
    },
    rules=(
        Rule(
            "related",
            "related passages are the 10 best BM25 phrase matches of each distinct answer in title "
            "or text of DPR's psgs_w100, the better field deciding",
            "inferred",
            "hits",
            _WIKIPEDIA,
        ),
        Rule(
            "positives",
            "of these, the 10 most like the question with its most frequent answer twice count as "
            "right, without those tied with the last (unless all are); the authors added captions "
            "and objects",
            "ours",
            when=_WIKIPEDIA,
        ),
        Rule(
            "pool_rows",
            "the pool is the union of all related passages, equal for all splits",
            "inferred",
            when=_WIKIPEDIA,
        ),
        Rule(
            "judgements",
            "every passage that the first label of a question lists counts as right; valid and test "
            "take the labels of test",
            "inferred",
            when=_GOOGLE,
        ),
        Rule(
            "unjudged", "a question without a right passage counts as missed, as published", "read"
        ),
    ),
    image_notes=(COCO_NOTE.format("train2014"), COCO_NOTE.format("val2014")),
    image_store="coco",
    unjudged="miss",
)

_BASE = "https://okvqa.allenai.org/static/data/"
# Of version 1.1, unzipped.
ANNOTATIONS = {
    "train2014": "e1e089ae6b3934f19b13e6eb54a16373a9c2b9be",
    "val2014": "199b7b03eabcaf75b21a540a641d87f38e312c48",
}
SUBSETS = {"train": "train2014", "valid": "val2014", "test": "val2014"}
SHARED = ("train_passages", "valid_passages", "test_passages")
TRAIN_ROWS = 112_724  # the corpus of train is the first rows of the full one
_HOW = (
    "from the Google Drive folder linked at github.com/luomancs/retriever_reader_for_okvqa, or out "
    "of RAVQA_v2_data.tar.gz of the hub's BByrneLab/RAVQAV2Data"
)
_LABELS = ("question_id", "answers", "ctxs")
FULL = "okvqa/okvqa_full_corpus.csv"
LABELS = {"train": "okvqa/retriever_train.json", "test": "okvqa/retriever_test.json"}
GOOGLE = [
    Asset(
        FULL,
        manual=f"place okvqa_full_corpus.csv here, {_HOW}",
        licence=_GS_LICENCE,
        shape=Shape("csv", ("kid", "text")),
    ),
    *(
        Asset(
            name,
            manual=f"place {name.split('/')[1]} here, {_HOW}",
            licence=_GS_LICENCE,
            shape=Shape("json", _LABELS),
        )
        for name in LABELS.values()
    ),
]


@dataclass(frozen=True, slots=True)
class _Question:
    """One question with its image and its annotators' answers.

    Attributes:
        id: Upstream's number.
        text: The question.
        image_id: COCO's number.
        img_path: Path below the COCO folder.
        answers: Every annotator's answer, blank ones left out.
    """

    id: str
    text: str
    image_id: int
    img_path: str
    answers: tuple[str, ...]

    @property
    def gold(self) -> str | None:
        """The most frequent answer."""
        return most_frequent(self.answers)


class OKVQA(Builder):
    """Passages that hold answers, found by phrase search; or the Google-Search corpus."""

    source = SOURCE
    image_archives = (coco_archive("train2014"), coco_archive("val2014"))

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """Questions and annotations of both COCO subsets, and the corpus."""
        kinds = (
            ("OpenEnded_mscoco", "questions", "question"),
            ("mscoco", "annotations", "answers"),
        )
        questions = [
            Asset(
                f"okvqa/{name}",
                (_BASE + name,),
                git_blob=ANNOTATIONS[subset] if kind == "annotations" else None,
                licence=_LICENCE,
                shape=Shape("json", ("question_id", "image_id", key), path=kind),
            )
            for subset in ("train2014", "val2014")
            for stem, kind, key in kinds
            for name in [f"{stem}_{subset}_{kind}.json.zip"]
        ]
        return questions + (GOOGLE if options["corpus"] == "google" else [_wiki.ASSET])

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """One Wikipedia pool for all; in the Google-Search corpus train has one of its own."""
        return [SHARED[1:] if options["corpus"] == "google" else SHARED]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The pool of one split."""
        if ctx.options["corpus"] == "google":
            return google_passages(ctx, train=pool == "train_passages")
        index = _wiki.index(ctx)
        return _wiki.found_passages(ctx, index, self.pool_rows(ctx, index))

    def all_passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """Every passage of the corpus."""
        if ctx.options["corpus"] == "google":
            return self.passages(ctx, pool)
        return _wiki.every_passage(ctx)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split with what counts as right for them."""
        if ctx.options["corpus"] == "google":
            asked = list(_questions(ctx, SUBSETS[split]))
            judged = self.judgements(ctx, split, {question.id for question in asked})
            for question in asked:
                yield _row(ctx, question, judged.get(question.id, []))
            return
        index = _wiki.index(ctx)
        asked = list(_questions(ctx, SUBSETS[split]))
        rows = self.related(ctx, index, asked)
        for question in asked:
            hits = index.passages(rows[question.id])
            right = self.positives(question, hits)
            yield _row(ctx, question, right) | {"related_item_ids": [hit.id for hit in hits]}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split, without judgements."""
        for question in _questions(ctx, SUBSETS[split]):
            yield _row(ctx, question, [])

    @staticmethod
    def related(
        ctx: BuildContext, index: PhraseIndex, asked: Sequence[_Question]
    ) -> dict[str, list[int]]:
        """Rows of the corpus that hold an answer, by question: the best hits of each distinct answer."""
        answers = [answer for question in asked for answer in question.answers]
        hits = _wiki.hits_of(ctx, index, answers, ctx.count("hits"))
        return {
            question.id: list(
                dict.fromkeys(
                    hit.row for answer in dict.fromkeys(question.answers) for hit in hits[answer]
                )
            )
            for question in asked
        }

    @staticmethod
    def positives(question: _Question, hits: Sequence[IndexedPassage], keep: int = 10) -> list[str]:
        """Ids of the hits most like the question and its answer, best first.

        The authors' order: a fuzzy comparison of token sets; the 10 best stay, then those tied with the
        lowest score among them go. Where all are tied, all stay.
        """
        from rapidfuzz.fuzz import token_set_ratio

        sentence = f"{question.gold} {question.gold} {question.text}"
        scored = [(token_set_ratio(sentence, _wiki.content(h.title, h.text)), h.id) for h in hits]
        best = sorted(scored, key=lambda pair: -pair[0])[:keep]
        above = [row_id for score, row_id in best if score > best[-1][0]]
        return above or [row_id for _, row_id in best]

    @staticmethod
    def pool_rows(ctx: BuildContext, index: PhraseIndex) -> set[int]:
        """Rows that are related to any question of any split, whatever splits are built."""
        rows: set[int] = set()
        for subset in ("train2014", "val2014"):
            asked = list(_questions(ctx.quiet(), subset))
            rows.update(row for found in OKVQA.related(ctx, index, asked).values() for row in found)
        return rows

    @staticmethod
    def judgements(ctx: BuildContext, split: str, asked: Collection[str]) -> dict[str, list[str]]:
        """Passage ids by question asked: all that its first label lists. Valid and test are one."""
        train = split == "train"
        path = ctx.files[LABELS["train" if train else "test"]]
        file, positives = path.name, dict[str, list[str]]()
        expected = "a list of {question_id, answers, ctxs: [{id, …}, …]}"
        try:
            records = loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise InputError(f"no JSON: {error}", where=str(path), expected=expected) from error
        if not isinstance(records, list):
            raise InputError("no list", where=str(path), expected=expected)
        corpus = {row["passage_id"] for row in google_passages(ctx.quiet(), train=train)}
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
            if question in positives:  # the authors' loader takes the first, too
                ctx.ledger.drop("a question labelled before", file=file, row=row, detail=question)
                continue
            kept = [f"GS_{kid}" for kid in kids if f"GS_{kid}" in corpus]
            if len(kept) < len(kids):
                ctx.ledger.repair("passages that the split's corpus lacks", file=file, row=row)
            positives[question] = list(dict.fromkeys(kept))
            ctx.ledger.use(file, row, out=0)
        if records and not positives:
            raise InputError("no label is of a question asked", where=str(path), expected=expected)
        return positives


BUILDER = OKVQA


def _row(ctx: BuildContext, question: _Question, right: Sequence[str]) -> dict[str, Any]:
    return {
        "question_id": question.id,
        "question": question.text,
        "instruction": ctx.instruction(question.id),
        "img_path": question.img_path,
        "pos_item_ids": list(right),
        "answers": list(question.answers),
        "gold_answer": question.gold,
        "img_key": question.image_id,
        "img_key_full": f"{question.image_id:012d}",
        "img_file_name": question.img_path.rpartition("/")[2],
    }


def google_passages(ctx: BuildContext, *, train: bool) -> Iterator[Row]:
    """The corpus, or its part for train: ids ``GS_<kid>``."""
    path, seen = ctx.files[FULL], set[int]()
    file = path.name
    for row, record in csv_records(path, ctx.ledger, ("kid", "text")):
        kid = record["kid"]
        if not kid.isdecimal():
            ctx.ledger.drop("the kid is no number", file=file, row=row, detail=kid[:80])
        elif int(kid) in seen:
            ctx.ledger.drop("a kid used twice", file=file, row=row, detail=kid)
        elif train and int(kid) >= TRAIN_ROWS:
            ctx.ledger.filter("not in the corpus of train", file=file, row=row)
        else:
            seen.add(int(kid))
            ctx.ledger.use(file, row)
            yield {"passage_id": f"GS_{kid}", "passage_content": record["text"]}


def _kids(record: Any) -> list[str] | None:
    """Numbers of a label's passages; None if it is no label."""
    try:
        kids = [str(ctx["id"]).removeprefix("GS_") for ctx in record["ctxs"]]
        record["question_id"]
    except (TypeError, KeyError):
        return None
    return kids if all(kid.isdecimal() for kid in kids) else None


def _questions(ctx: BuildContext, subset: str) -> Iterator[_Question]:
    """The questions of a COCO subset that have annotations, in upstream's order."""
    ledger = ctx.ledger
    asked_path = ctx.files[f"okvqa/OpenEnded_mscoco_{subset}_questions.json.zip"]
    answers_path = ctx.files[f"okvqa/mscoco_{subset}_annotations.json.zip"]
    asked, answered = asked_path.name, answers_path.name
    annotations: dict[int, tuple[int, tuple[str, ...]]] = {}
    for row, record in _records(answers_path, "annotations"):
        ledger.read(answered)
        annotation = _annotation(record)
        if annotation is None:
            ledger.drop("no annotation", file=answered, row=row, detail=told(record))
        elif annotation[0] in annotations:
            ledger.drop("a question annotated twice", file=answered, row=row, detail=told(record))
        else:
            annotations[annotation[0]] = (row, annotation[1])
    seen: set[int] = set()
    for row, record in _records(asked_path, "questions"):
        ledger.read(asked)
        question = _question(record, subset, annotations, seen)
        if isinstance(question, str):
            ledger.drop(question, file=asked, row=row, detail=told(record))
            continue
        number = int(question.id)
        seen.add(number)
        ledger.use(asked, row)
        ledger.use(answered, annotations[number][0], out=0)
        yield question
    for number, (row, _) in annotations.items():
        if number not in seen:
            ledger.drop("annotates no question", file=answered, row=row, detail=str(number))


def _question(
    record: Any,
    subset: str,
    annotations: Mapping[int, tuple[int, tuple[str, ...]]],
    seen: Collection[int],
) -> _Question | str:
    """A question, or what is wrong with it."""
    try:
        number, image, text = record["question_id"], record["image_id"], record["question"]
    except (TypeError, KeyError):
        return "no question"
    if not (_whole(number) and _whole(image) and isinstance(text, str)):
        return "no question"
    if number in seen:
        return "a question number used twice"
    if number not in annotations:
        return "a question without annotation"
    path = coco_path("train2014" if subset == "train2014" else "val2014", image)
    return _Question(str(number), text, image, path, annotations[number][1])


def _annotation(record: Any) -> tuple[int, tuple[str, ...]] | None:
    try:
        number, answers = record["question_id"], [a["answer"] for a in record["answers"]]
    except (TypeError, KeyError):
        return None
    if not _whole(number) or not all(isinstance(answer, str) for answer in answers):
        return None
    return number, tuple(answer for answer in answers if answer.strip())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _records(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The records under a key of the file's one object, numbered from 1."""
    expected = f'{{…, "{key}": [{{…}}, …]}}, as of OK-VQA v1.1'
    try:
        document = loads(only_member(path))
        records = document[key]
    except orjson.JSONDecodeError as error:
        raise InputError(f"no JSON: {error}", where=str(path), expected=expected) from error
    except (TypeError, KeyError) as error:
        raise InputError(f"no list {key!r}", where=str(path), expected=expected) from error
    if not isinstance(records, list):
        raise InputError(f"{key!r} is no list", where=str(path), expected=expected)
    yield from enumerate(records, 1)
