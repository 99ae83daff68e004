"""Checks of shortcuts: what scores without doing what the benchmark asks for."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from m2kr.audit.facts import DEPTH, Facts, SplitFacts, some_of
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
            unit = f"passages, for {int(judged.sum()):,} queries"
            yield Hit(split.name, severity, len(split.corpus), 0, unit, effect)


def random_hit_rate(split: SplitFacts, k: int) -> "NDArray[np.float64]":
    """Per query the chance that K passages drawn at random hold a right one."""
    total = len(split.corpus)
    right, inverse = np.unique(split.reachable, return_inverse=True)
    miss = np.ones(len(right))
    for drawn in range(min(k, total)):
        miss *= np.clip((total - right - drawn) / (total - drawn), 0, 1)
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
        floor = float(random_hit_rate(split, DEPTH)[split.sample].mean())
        if hits.mean() > floor + 0.1:
            effect = (
                f"BM25 has hit_rate@{DEPTH} {hits.mean():.3f} without question and image"
                f"{_of(searched.pool, split)}; chance has {floor:.3f}"
            )
            severity = graded(float(hits.mean()), error=0.5)
            yield Hit(split.name, severity, *_sampled(split, hits), effect, _examples(split, hits))


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
        floor = float(random_hit_rate(split, DEPTH)[split.sample][asked].mean())
        if rate > max(0.3, floor + 0.1):
            effect = (
                f"BM25 has hit_rate@{DEPTH} {rate:.3f} without the image{_of(searched.pool, split)}: so much "
                "of a multimodal score is no proof of seeing"
            )
            severity = graded(rate, warning=0.5, error=0.95)
            count, total, unit = (
                int(hits[asked].sum()),
                int(asked.sum()),
                "sampled queries with an image",
            )
            yield Hit(
                split.name, severity, count, total, unit, effect, _examples(split, hits & asked)
            )


@audit_check("title-in-question", "ask without the name, so that the image has to be recognised")
def title_named(facts: Facts) -> Iterator[Hit]:
    """Queries with an image whose question names the title of the right passage."""
    for split in facts.splits:
        titles = split.corpus.table.column("title")
        asked, drawn = some_of(np.flatnonzero(split.with_image & (split.first_positive >= 0)))
        if titles.null_count == len(titles) or not len(asked):
            continue
        named = []
        for query in asked.tolist():
            title = (titles[int(split.first_positive[query])].as_py() or "").partition(" (")[0]
            if len(title) > 2 and _words(title) in _words(split.questions[query]):
                named.append(query)
        if len(named) >= 0.02 * len(asked):
            effect = f"{len(named) / len(asked):.1%} of the questions name what the image shows"
            severity = graded(len(named) / len(asked), warning=0.2)
            examples = tuple(map(split.example, named[:3]))
            yield Hit(
                split.name,
                severity,
                len(named),
                len(asked),
                f"{drawn}queries with an image",
                effect,
                examples,
            )


@audit_check("answer-in-question", "ask without the answer, or report these queries on their own")
def answer_named(facts: Facts) -> Iterator[Hit]:
    """Queries whose question holds an answer, as whole words."""
    for split in facts.splits:
        rows, drawn = some_of(np.flatnonzero([any(of) for of in split.answers]))
        answered = rows.tolist()
        named = []
        for query in answered:
            question = _words(split.questions[query])
            answers = [_words(answer) for answer in split.answers[query] if len(answer) > 2]
            if any(answer.strip() and answer in question for answer in answers):
                named.append(query)
        if named and len(named) >= 0.02 * len(answered):
            share = len(named) / len(answered)
            effect = f"passages that repeat the question answer {share:.1%} as pseudo recall counts"
            severity = graded(share, warning=0.1)
            examples = tuple(
                f"{split.example(q)}: {shown(split.answers[q][0], 30)!r}" for q in named[:3]
            )
            unit = f"{drawn}queries with answers"
            yield Hit(split.name, severity, len(named), len(answered), unit, effect, examples)


@audit_check(
    "answers-in-any-text",
    "leave such answers out, and report pseudo_recall_words beside pseudo recall",
)
def empty_talk(facts: Facts) -> Iterator[Hit]:
    """Queries that a sentence about nothing answers, as pseudo recall counts."""
    for split in facts.splits:
        answered = [i for i, of in enumerate(split.answers) if of]
        fooled = [i for i in answered if any(a and a in _NOTHING for a in split.answers[i])]
        if fooled:
            share = len(fooled) / len(answered)
            effect = (
                f"a passage that says nothing has PR@1 {share:.3f}: so much of pseudo recall is for free "
                f'(the sentence: "{NOTHING[:46]}…")'
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
                "queries with answers",
                effect,
                examples,
            )


@audit_check("random-pseudo-recall", "report pseudo recall beside that of a random order")
def random_answers(facts: Facts) -> Iterator[Hit]:
    """Splits whose answers are in passages drawn at random."""
    for split in facts.splits:
        asked = [i for i in split.sample.tolist() if any(split.answers[i])]
        if not asked or not len(split.corpus):
            continue
        drawn = np.arange(len(split.corpus))
        if len(drawn) > _RANDOM_TEXTS:
            drawn = np.random.default_rng(0).choice(drawn, _RANDOM_TEXTS, replace=False)
        texts = [text.lower() for text in split.corpus.text_at(drawn)]
        shares = np.array(
            [
                np.mean([any(a and a in text for a in split.answers[i]) for text in texts])
                for i in asked
            ]
        )
        floor = float((1 - (1 - shares) ** DEPTH).mean())
        if floor >= 0.1:
            effect = f"PR@{DEPTH} of a random order is {floor:.3f} (by {len(drawn)} passages)"
            high = np.argsort(-shares, kind="stable")[:3]
            examples = tuple(
                f"{split.example(asked[i])}: {shares[i]:.0%} of passages" for i in high.tolist()
            )
            severity = graded(floor, warning=0.2, error=0.7)
            count = int((shares > 0.1).sum())
            unit = "sampled queries whose answers are in every tenth text"
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
                f"sampled queries are answered as the official script counts, "
                f"{words.sum():,} if words count whole"
            )
            examples = tuple(
                f"{split.example(q)}: {shown(split.answers[q][0], 30)!r}" for q in wrong[:3]
            )
            severity = graded(len(wrong) / len(asked), warning=0.01, error=0.3)
            yield Hit(
                split.name, severity, len(wrong), len(asked), "sampled queries", effect, examples
            )


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
                f"{1 - len(without) / len(asked):.3f} on the sample"
            )
            examples = tuple(
                f"{split.example(q)}: {shown(split.answers[q][0], 30)!r}" for q in without[:3]
            )
            severity = graded(len(without) / len(asked), warning=0.5)
            yield Hit(
                split.name, severity, len(without), len(asked), "sampled queries", effect, examples
            )


def _words(text: str) -> str:
    """The words of a text between blanks, so that ``in`` finds whole ones."""
    words = " ".join(re.findall(r"[^\W_]+", text.lower()))
    return f" {words} "


def _texts_of(split: SplitFacts, run: Run) -> "Callable[[NDArray[np.int64]], list[str]]":
    rows = [int(name) for name in run.vocabulary.to_pylist()]
    return lambda places: split.corpus.text_at([rows[place] for place in places])


def _some(split: SplitFacts, column: str) -> bool:
    return any((value or "").strip() for value in split.table.column(column).unique().to_pylist())


def _of(pool: int, split: SplitFacts) -> str:
    total = len(split.corpus)
    return f" (among {pool:,} of {total:,} passages: less in all)" if pool < total else ""


def _sampled(split: SplitFacts, hits: "NDArray[np.bool_]") -> tuple[int, int, str]:
    return int(hits.sum()), len(hits), "sampled queries" if len(hits) < len(split) else "queries"


def _examples(split: SplitFacts, hits: "NDArray[np.bool_]") -> tuple[str, ...]:
    return tuple(map(split.example, split.sample[hits][:3].tolist()))
