"""Checks of shortcuts: what scores without doing what the benchmark asks for."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from m2kr.audit.facts import DEPTH, SAMPLE, Facts, SplitFacts, drawn, some_of
from m2kr.audit.findings import Hit, audit_check, graded, shown
from m2kr.evaluation.judgements import JudgedRun
from m2kr.retrieval.run import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A sentence about nothing. An answer within it is in nearly every longer text.
NOTHING = (
    "It is said that on one or two of the days in a year, at no time after 1 or 2, he or she and I saw "
    "it was not as they had all been told; yes, the man had his own. a b c d e f g h i j k l m n o p q "
    "r s t u v w x y z 0 1 2 3 4 5 6 7 8 9"
)
_NOTHING = NOTHING.lower()
_RANDOM_TEXTS = 200
_UNJUDGED = pa.table(
    {
        "question_id": pa.array([], pa.string()),
        "passage_id": pa.array([], pa.string()),
        "relevance": pa.array([], pa.float64()),
    }
)


@audit_check("random-ranker", "search in more passages, or report a smaller K")
def random_ranker(facts: Facts) -> Iterator[Hit]:
    """Splits in which a random order of the corpus scores high: it is too small, or too much is right."""
    for split in facts.splits:
        judged = split.positives > 0
        if not judged.any() or not len(split.corpus):
            continue
        floor = {k: float(random_hit_rate(split, k)[judged].mean()) for k in (1, 5, 10)}
        if floor[5] >= 0.1:
            effect = "in expectation, by chance: " + ", ".join(
                f"hit_rate@{k} {value:.3f}" for k, value in floor.items()
            )
            severity = graded(floor[5], error=0.5)
            unit = f"passages, for {int(judged.sum()):,} judged queries"
            yield Hit(split.name, severity, len(split.corpus), 0, unit, effect)


def random_hit_rate(split: SplitFacts, k: int, pool: int = 0) -> "NDArray[np.float64]":
    """Per query the chance that a random order has a right passage among the first K.

    Args:
        split: The split.
        k: How many are drawn, without replacement; all of a smaller corpus.
        pool: Passages that are drawn from, all right ones among them; 0 for the corpus.
    """
    return _chance(split.reachable, pool or len(split.corpus), k)


def _chance(right: "NDArray[np.int64]", total: int, k: int) -> "NDArray[np.float64]":
    """The chance that K of so many passages, drawn without replacement, hold one of the right ones."""
    numbers, inverse = np.unique(right, return_inverse=True)
    miss = np.ones(len(numbers))
    for place in range(min(k, total)):
        miss *= np.clip((total - numbers - place) / (total - place), 0, 1)
    chance: NDArray[np.float64] = (1 - miss)[inverse]
    return chance


@audit_check(
    "instruction-finds-it", "keep the answer, the entity and the passage's words out of it"
)
def instruction(facts: Facts) -> Iterator[Hit]:
    """Splits where BM25 finds right passages by the instruction, without question or image."""
    for split in facts.splits:
        if not len(split.sample) or not _some(split, "instruction"):
            continue
        searched = facts.bm25(split, "instruction")
        hits = searched.hits(split)
        floor = float(random_hit_rate(split, DEPTH, searched.pool)[split.sample].mean())
        if hits.mean() > floor + 0.1:
            effect = (
                f"BM25 has hit_rate@{DEPTH} {hits.mean():.3f} without question and image"
                f"{_of(searched.pool, split)}; chance has {floor:.3f}"
            )
            severity = graded(float(hits.mean()), error=0.5)
            count, unit = int(hits.sum()), f"{split.sampled}queries"
            yield Hit(split.name, severity, count, len(hits), unit, effect, _examples(split, hits))


@audit_check(
    "image-not-needed", "report these queries on their own, or ask so that the image is needed"
)
def without_image(facts: Facts) -> Iterator[Hit]:
    """Queries with an image whose right passage BM25 finds by the question alone."""
    for split in facts.splits:
        if not len(split.sample) or not (split.with_image[split.sample]).any():
            continue
        searched = facts.bm25(split, "question")
        hits = searched.hits(split)
        asked = split.with_image[split.sample] & np.array(
            [bool(split.questions[i].strip()) for i in split.sample], bool
        )
        if not asked.any():
            continue
        rate = float(hits[asked].mean())
        floor = float(random_hit_rate(split, DEPTH, searched.pool)[split.sample][asked].mean())
        if rate > max(0.3, floor + 0.1):
            effect = (
                f"BM25 has hit_rate@{DEPTH} {rate:.3f} without the image{_of(searched.pool, split)}: so much "
                "of a multimodal score is no proof of seeing"
            )
            severity = graded(rate, warning=0.5, error=0.95)
            count, total, unit = (
                int(hits[asked].sum()),
                int(asked.sum()),
                f"{split.sampled}queries with an image and a question",
            )
            yield Hit(
                split.name, severity, count, total, unit, effect, _examples(split, hits & asked)
            )


@audit_check("title-in-question", "ask without the name, so that the image has to be recognised")
def title_named(facts: Facts) -> Iterator[Hit]:
    """Queries with an image whose question names the title of the right passage."""
    for split in facts.splits:
        titles = split.corpus.table.column("title")
        asked, part = some_of(np.flatnonzero(split.with_image & (split.reachable > 0)))
        if titles.null_count == len(titles) or not len(asked):
            continue
        named = []
        for query in asked.tolist():
            question = _words(split.questions[query])
            of_right = [titles[int(row)].as_py() or "" for row in split.right_rows(query)[:20]]
            if any(_named(title.partition(" (")[0], question) for title in of_right):
                named.append(query)
        if len(named) >= 0.02 * len(asked):
            effect = f"{len(named) / len(asked):.1%} of their questions name what the image shows"
            severity = graded(len(named) / len(asked), warning=0.2)
            examples = tuple(map(split.example, named[:3]))
            yield Hit(
                split.name,
                severity,
                len(named),
                len(asked),
                f"{part}queries with an image and a right passage in the corpus",
                effect,
                examples,
            )


@audit_check("answer-in-question", "ask without the answer, or report these queries on their own")
def answer_named(facts: Facts) -> Iterator[Hit]:
    """Queries whose question holds an answer, as whole words."""
    for split in facts.splits:
        rows, part = some_of(split.answered)
        named = {}
        for query in rows.tolist():
            question = _words(split.questions[query])
            if answers := [a for a in split.answers[query] if _named(a, question)]:
                named[query] = answers[0]
        if named and len(named) >= 0.02 * len(rows):
            share = len(named) / len(rows)
            effect = f"passages that repeat the question answer at least {share:.1%} as pseudo recall counts"
            severity = graded(share, warning=0.1)
            examples = tuple(
                f"{split.example(query)}: {shown(answer, 30)!r}"
                for query, answer in list(named.items())[:3]
            )
            unit = f"{part}queries with answers name one in the question"
            yield Hit(split.name, severity, len(named), len(rows), unit, effect, examples)


@audit_check(
    "answers-in-any-text",
    "leave such answers out, and report pseudo_recall_words beside pseudo recall",
)
def empty_talk(facts: Facts) -> Iterator[Hit]:
    """Queries that a sentence about nothing answers, as pseudo recall counts."""
    for split in facts.splits:
        answered = split.answered.tolist()
        fooled = [i for i in answered if any(a and a in _NOTHING for a in split.answers[i])]
        if fooled:
            free = sum(any(a in _NOTHING for a in split.answers[i]) for i in answered)
            share = len(fooled) / len(answered)
            effect = (
                f"a passage of it alone has PR@1 {free / len(answered):.3f}: so much of pseudo recall "
                f'is for free (the sentence: "{NOTHING[:46]}…")'
            )
            examples = tuple(
                f"{split.ids[i].as_py()}: {shown(next(a for a in split.answers[i] if a and a in _NOTHING))!r}"
                for i in fooled[:3]
            )
            severity = graded(share, warning=0.01, error=0.2)
            yield Hit(
                split.name,
                severity,
                len(fooled),
                len(answered),
                "queries with answers have one in a sentence about nothing",
                effect,
                examples,
            )


@audit_check("random-pseudo-recall", "report pseudo recall beside that of a random order")
def random_answers(facts: Facts) -> Iterator[Hit]:
    """Splits whose answers are in passages drawn at random."""
    for split in facts.splits:
        asked = drawn(split.answered, SAMPLE).tolist()
        if not asked or not len(split.corpus):
            continue
        rows = drawn(np.arange(len(split.corpus)), _RANDOM_TEXTS)
        texts = [text.lower() for text in split.corpus.text_at(rows)]
        holding = np.array(
            [sum(any(a in text for a in split.answers[i]) for text in texts) for i in asked]
        )
        shares = holding / len(texts)
        # Five of a random sample are five of the corpus: so the mean is right for a sample, too.
        floor = float(_chance(holding, len(texts), DEPTH).mean())
        if floor >= 0.1:
            effect = f"PR@{DEPTH} of a random order is {floor:.3f}" + (
                f" (by {len(rows)} passages)" if len(rows) < len(split.corpus) else ""
            )
            high = np.argsort(-shares, kind="stable")[:3]
            examples = tuple(
                f"{split.example(asked[i])}: {shares[i]:.0%} of passages" for i in high.tolist()
            )
            severity = graded(floor, warning=0.2, error=0.7)
            count = int((shares > 0.1).sum())
            part = "sampled " if len(asked) < len(split.answered) else ""
            unit = f"{part}queries with answers have one in over a tenth of the passages"
            yield Hit(split.name, severity, count, len(asked), unit, effect, examples)


@audit_check("answers-inside-words", "report pseudo_recall_words beside pseudo recall")
def inside_words(facts: Facts) -> Iterator[Hit]:
    """What official pseudo recall counts although the answer is only a part of other words."""
    for split in facts.splits:
        asked = [i for i in split.sample.tolist() if any(split.answers[i])]
        if not asked or not len(split.corpus):
            continue
        searched = facts.bm25(split, "question")
        top = dict(zip(searched.queries.tolist(), searched.top, strict=True))
        ranked = []
        for query in asked:
            rows = {int(row) for row in top[query] if row >= 0}
            ranked.append([str(row) for row in rows | set(split.right_rows(query)[:3].tolist())])
        names = [str(query) for query in asked]
        run = Run.from_lists(names, ranked, [np.zeros(len(rows)) for rows in ranked])
        judged = JudgedRun(
            run, _UNJUDGED, [split.answers[query] for query in asked], _texts_of(split, run)
        )
        official, words = (np.isfinite(r) for r in (judged.first_answer, judged.first_answer_word))
        wrong = [asked[i] for i in np.flatnonzero(official & ~words)]
        if wrong:
            effect = (
                f"on right passages and BM25's top {DEPTH}, {official.sum():,} of {len(asked):,} "
                f"are answered as the official script counts, "
                f"{words.sum():,} if words count whole"
            )
            examples = tuple(
                f"{split.example(q)}: {shown(split.answers[q][0], 30)!r}" for q in wrong[:3]
            )
            severity = graded(len(wrong) / len(asked), warning=0.01, error=0.3)
            unit = f"{split.sampled}queries with answers"
            yield Hit(split.name, severity, len(wrong), len(asked), unit, effect, examples)


@audit_check("answers-not-in-positives", "say which of the two judgements counts, and report both")
def answers_elsewhere(facts: Facts) -> Iterator[Hit]:
    """Queries none of whose right passages holds an answer: the two ways of judging disagree."""
    for split in facts.splits:
        asked = [i for i in split.sample.tolist() if any(split.answers[i]) and split.reachable[i]]
        if not asked:
            continue
        without = []
        for query in asked:
            texts = [text.lower() for text in split.corpus.text_at(split.right_rows(query)[:50])]
            if not any(a in text for a in split.answers[query] for text in texts):
                without.append(query)
        if len(without) >= 0.05 * len(asked):
            effect = (
                "retrieving exactly the right passages has pseudo recall "
                f"{1 - len(without) / len(asked):.3f} on these"
            )
            examples = tuple(
                f"{split.example(q)}: {shown(split.answers[q][0], 30)!r}" for q in without[:3]
            )
            severity = graded(len(without) / len(asked), warning=0.5)
            unit = f"{split.sampled}queries with answers and a right passage in the corpus"
            yield Hit(split.name, severity, len(without), len(asked), unit, effect, examples)


def _words(text: str) -> str:
    """The words of a text between blanks, so that ``in`` finds whole ones."""
    words = " ".join(re.findall(r"[^\W_]+", text.lower()))
    return f" {words} "


def _named(name: str, question: str) -> bool:
    """Whether a name of three letters and more is in a question, by `_words`."""
    return len(name) > 2 and bool(_words(name).strip()) and _words(name) in question


def _texts_of(split: SplitFacts, run: Run) -> "Callable[[NDArray[np.int64]], list[str]]":
    rows = [int(name) for name in run.vocabulary.to_pylist()]
    return lambda places: split.corpus.text_at([rows[place] for place in places])


def _some(split: SplitFacts, column: str) -> bool:
    return any((value or "").strip() for value in split.table.column(column).unique().to_pylist())


def _of(pool: int, split: SplitFacts) -> str:
    total = len(split.corpus)
    return f" (among {pool:,} of {total:,} passages: less in all)" if pool < total else ""


def _examples(split: SplitFacts, hits: "NDArray[np.bool_]") -> tuple[str, ...]:
    return tuple(map(split.example, split.sample[hits][:3].tolist()))
