"""OKVQA: image and question to Wikipedia passages, and the older Google-Search corpus as an edition.

Questions and answers are upstream's. Which passages count as right was found by the authors with a
search engine, image captions and detected objects that aren't public: ours is a phrase search.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m2kr.building.fetch.assets import Asset, Shape
from m2kr.building.formats.phrase_index import IndexedPassage, PhraseIndex
from m2kr.building.spec import BuildContext, Builder, Row
from m2kr.schema import Column
from m2kr.sources import Option, Rule, Source, Variant

from . import _okvqa_gs, _wiki
from ._images import COCO_NOTE, coco_archive
from ._vqa import Question, questions

if TYPE_CHECKING:
    import pyarrow as pa

_LICENCE = "CC BY 4.0 (questions); COCO images keep their Flickr terms"

_WIKIPEDIA, _GOOGLE = {"corpus": "wikipedia"}, {"corpus": "google"}

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


class OKVQA(Builder):
    """Passages that hold answers, found by phrase search; or the Google-Search corpus."""

    source = SOURCE
    image_archives = (coco_archive("train2014"), coco_archive("val2014"))

    def assets(self, options: Mapping[str, str]) -> Sequence[Asset]:
        """Questions and annotations of both COCO subsets, and the corpus."""
        found = []
        for subset in ("train2014", "val2014"):
            for stem, path, keys in (
                (
                    "OpenEnded_mscoco_{}_questions",
                    "questions",
                    ("question_id", "image_id", "question"),
                ),
                ("mscoco_{}_annotations", "annotations", ("question_id", "image_id", "answers")),
            ):
                name = f"{stem.format(subset)}.json.zip"
                found.append(
                    Asset(
                        f"okvqa/{name}",
                        (_BASE + name,),
                        git_blob=ANNOTATIONS[subset] if path == "annotations" else None,
                        licence=_LICENCE,
                        shape=Shape("json", keys, path=path),
                    )
                )
        return found + (_okvqa_gs.ASSETS if options["corpus"] == "google" else [_wiki.ASSET])

    def same_pools(self, options: Mapping[str, str]) -> Sequence[Sequence[str]]:
        """One Wikipedia pool for all; in the Google-Search corpus train has one of its own."""
        return [SHARED[1:] if options["corpus"] == "google" else SHARED]

    def passages(self, ctx: BuildContext, pool: str) -> Iterator[Row]:
        """The pool of one split."""
        if ctx.options["corpus"] == "google":
            return _okvqa_gs.passages(ctx, train=pool == "train_passages")
        index = _wiki.index(ctx)
        return _wiki.found_passages(ctx, index, pool_rows(ctx, index))

    def all_passages(self, ctx: BuildContext, pool: str) -> "Iterator[Row | pa.RecordBatch]":
        """Every passage of the corpus."""
        if ctx.options["corpus"] == "google":
            return self.passages(ctx, pool)
        return _wiki.every_passage(ctx)

    def queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split with what counts as right for them."""
        if ctx.options["corpus"] == "google":
            asked = list(questions(ctx, SUBSETS[split]))
            judged = _okvqa_gs.judgements(ctx, split, {question.id for question in asked})
            for question in asked:
                yield _row(ctx, question, judged.get(question.id, []))
            return
        index = _wiki.index(ctx)
        asked = list(questions(ctx, SUBSETS[split]))
        found = related(ctx, index, asked)
        for question in asked:
            hits = index.passages(found[question.id])
            right = positives(question, hits)
            yield _row(ctx, question, right) | {"related_item_ids": [hit.id for hit in hits]}

    def all_queries(self, ctx: BuildContext, split: str) -> Iterator[Row]:
        """The questions of one split, without judgements."""
        for question in questions(ctx, SUBSETS[split]):
            yield _row(ctx, question, [])


BUILDER = OKVQA


def related(
    ctx: BuildContext, index: PhraseIndex, asked: Sequence[Question]
) -> dict[str, list[int]]:
    """Rows of the corpus that hold an answer, by question: the best hits of each distinct answer."""
    wanted = [answer for question in asked for answer in question.answers]
    hits = _wiki.hits_of(ctx, index, wanted, ctx.count("hits"))
    return {
        question.id: list(
            dict.fromkeys(
                hit.row for answer in dict.fromkeys(question.answers) for hit in hits[answer]
            )
        )
        for question in asked
    }


def positives(question: Question, hits: Sequence[IndexedPassage], keep: int = 10) -> list[str]:
    """Ids of the hits most like the question and its answer, best first.

    The authors' order: a fuzzy comparison of token sets; the 10 best stay, then those tied with the
    lowest score among them go. Where all are tied, all stay.
    """
    from rapidfuzz.fuzz import token_set_ratio

    wanted = f"{question.gold} {question.gold} {question.text}"
    scored = [(token_set_ratio(wanted, _wiki.content(h.title, h.text)), h.id) for h in hits]
    best = sorted(scored, key=lambda pair: -pair[0])[:keep]
    above = [row_id for score, row_id in best if score > best[-1][0]]
    return above or [row_id for _, row_id in best]


def pool_rows(ctx: BuildContext, index: PhraseIndex) -> set[int]:
    """Rows that are related to any question of any split, whatever splits are built."""
    rows: set[int] = set()
    for subset in ("train2014", "val2014"):
        asked = list(questions(ctx, subset, quiet=True))
        rows.update(row for found in related(ctx, index, asked).values() for row in found)
    return rows


def _row(ctx: BuildContext, question: Question, right: Sequence[str]) -> dict[str, Any]:
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
