"""Checks of judgements: what a perfect retriever could reach."""

import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from m2kr.audit.facts import KS
from m2kr.audit.findings import Hit, Severity, audit_check, graded, shown

if TYPE_CHECKING:
    from m2kr.audit.facts import Facts


@audit_check("unreadable-records", "mend the records at these places; an import stops at the first")
def unreadable(facts: "Facts") -> Iterator[Hit]:
    """Records, lines or files that can't be read, or hold something else than they should."""
    faults = facts.benchmark.faults
    for what, count in faults.counts.most_common():
        effect = f"{what}: left out, or read as well as can be ({faults.read:,} records were read)"
        yield Hit("", "error", count, 0, "records", effect, tuple(faults.places[what]))


@audit_check("no-passages", "check the file of passages")
def no_passages(facts: "Facts") -> Iterator[Hit]:
    """A corpus without a passage."""
    for name, corpus in facts.corpora.items():
        if not len(corpus):
            yield Hit(name, "error", 0, 0, "passages", "every score is 0 or undefined")


@audit_check("no-queries", "check the file of queries, and whether the judgements name its ids")
def no_queries(facts: "Facts") -> Iterator[Hit]:
    """A split without a query."""
    for split in facts.splits:
        if not len(split):
            yield Hit(split.name, "error", 0, 0, "queries", "there is nothing to score")


@audit_check("no-judgements", "add judgements: qrels, or positives in the queries")
def no_judgements(facts: "Facts") -> Iterator[Hit]:
    """A split in which no query has a right passage."""
    for split in facts.splits:
        if len(split) and not len(split.positive):
            answered = sum(map(bool, split.answers))
            effect = "hit_rate and all other metrics of judgements are undefined"
            effect += f"; pseudo recall is left, on {answered:,} queries" if answered else ""
            yield Hit(
                split.name,
                "warning" if answered else "error",
                len(split),
                len(split),
                "queries have no right passage",
                effect,
            )


@audit_check(
    "positives-outside-corpus",
    "put the missing passages into the corpus, or judge anew against the corpus that there is",
)
def outside(facts: "Facts") -> Iterator[Hit]:
    """Right passages that the corpus lacks: nobody can retrieve them."""
    for split in facts.splits:
        lost = split.positive[split.rows[split.positive] < 0]
        if not len(lost) or not len(split.corpus):
            continue
        ids = split.qrels.column("passage_id")
        judged = split.positives > 0
        unreachable = int((judged & (split.reachable == 0)).sum())
        ceiling = 1 - unreachable / int(judged.sum())
        absent = len(ids.take(lost).unique())
        named = len(ids.take(split.positive).unique())
        recall = float((split.reachable[judged] / split.positives[judged]).mean())
        effect = (
            f"{absent:,} of {named:,} judged ids are absent; {unreachable:,} of {int(judged.sum()):,} "
            f"judged queries have no right passage left: hit_rate is at most {ceiling:.3f} and set_recall "
            f"at most {recall:.3f} at every K"
        )
        examples = tuple(
            f"{split.qrels.column('question_id')[int(i)].as_py()} -> {shown(ids[int(i)].as_py())}"
            for i in lost[:3]
        )
        severity: Severity = (
            "error" if ceiling < 0.99 or len(lost) >= 0.01 * len(split.positive) else "warning"
        )
        yield Hit(
            split.name,
            severity,
            len(lost),
            len(split.positive),
            "positive judgements",
            effect,
            examples,
        )


@audit_check("misspelt-judged-ids", "write the ids as the corpus does")
def misspelt(facts: "Facts") -> Iterator[Hit]:
    """Judged ids that a passage has but for case, blanks, Unicode form or the format of a number."""
    for split in facts.splits:
        lost = split.positive[split.rows[split.positive] < 0]
        if not len(lost) or len(lost) > 1_000_000:
            continue
        names = split.qrels.column("passage_id").take(lost).unique().to_pylist()
        keys = {folded_id(name) for name in names}
        passages = {
            key: passage
            for chunk in split.corpus.ids.chunks
            for passage in chunk.to_pylist()
            if (key := folded_id(passage)) in keys
        }
        near = [name for name in names if folded_id(name) in passages]
        if near:
            effect = "their passages are there, and count as wrong or as missing all the same"
            examples = tuple(
                f"judged {name!r}, passage {passages[folded_id(name)]!r}" for name in near[:3]
            )
            yield Hit(
                split.name, "error", len(near), len(names), "absent judged ids", effect, examples
            )


def folded_id(name: str) -> str:
    """An id without case, blanks, Unicode form and the format of numbers."""
    text = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    if match := re.fullmatch(r"0*(\d+)(\.0+)?", text):
        return match[1]
    return text


@audit_check("judgements-of-unknown-queries", "add the queries, or leave out their judgements")
def unknown_queries(facts: "Facts") -> Iterator[Hit]:
    """Judgements whose query the split lacks."""
    for split in facts.splits:
        lost = np.flatnonzero(split.owners < 0)
        if len(lost):
            names = split.qrels.column("question_id").take(lost).unique().to_pylist()
            effect = (
                f"{len(names):,} judged queries are asked nowhere: the score is of the others alone"
            )
            share = len(names) / (len(names) + len(split))
            severity = graded(share, error=0.01)
            examples = tuple(map(shown, names[:3]))
            yield Hit(
                split.name, severity, len(lost), len(split.qrels), "judgements", effect, examples
            )


@audit_check("queries-without-positives", "judge them, or leave them out and say so")
def without_positives(facts: "Facts") -> Iterator[Hit]:
    """Queries without a right passage, in a split that has some."""
    for split in facts.splits:
        asked = np.sort(split.first_rows)  # a second query of one id can have no judgements
        none = asked[split.positives[asked] == 0]
        if len(none) and len(split.positive):
            found = int((split.reachable > 0).sum())
            effect = (
                f"they are left out of hit_rate here and counted as missed elsewhere: "
                f"at most {found / len(asked):.3f} there"
            )
            examples = tuple(map(split.example, none[:3].tolist()))
            severity = graded(len(none) / len(asked), error=0.2)
            yield Hit(split.name, severity, len(none), len(asked), "queries", effect, examples)


@audit_check("more-positives-than-k", "report hit_rate@K, or set_recall at a K that holds them all")
def more_than_k(facts: "Facts") -> Iterator[Hit]:
    """Queries with more right passages than K places: set_recall@K can't be 1."""
    for split in facts.splits:
        rows = np.flatnonzero(split.positives)
        judged, reachable = split.positives[rows], split.reachable[rows]
        below = [
            f"set_recall@{k} at most {float((np.minimum(reachable, k) / judged).mean()):.3f}"
            for k in KS
            if k >= 5 and len(judged) and (judged > k).mean() >= 0.05
        ]
        if below:
            many = np.flatnonzero(split.positives > 5)
            examples = tuple(
                f"{split.ids[int(i)].as_py()}: {split.positives[i]:,} right passages"
                for i in many[:3]
            )
            effect = "; ".join(below)
            yield Hit(
                split.name,
                "note",
                len(many),
                len(judged),
                "judged queries have more than 5 right passages",
                effect,
                examples,
            )


@audit_check(
    "uneven-positives", "report a metric that is a mean over queries, and look at the largest"
)
def uneven(facts: "Facts") -> Iterator[Hit]:
    """Queries with far more right passages than most."""
    for split in facts.splits:
        judged = split.positives[split.positives > 0]
        if not len(judged):
            continue
        limit = 20 * max(1, int(np.median(judged)))
        many = np.flatnonzero(split.positives > limit)
        if len(many):
            effect = (
                f"from {judged.min():,} to {judged.max():,} right passages a query, half have up to "
                f"{int(np.median(judged)):,}: the many are hit by chance more often"
            )
            examples = tuple(
                f"{split.ids[int(i)].as_py()}: {split.positives[i]:,} right passages"
                for i in many[:3]
            )
            unit = f"judged queries have more than {limit:,} right passages"
            yield Hit(split.name, "note", len(many), len(judged), unit, effect, examples)


@audit_check("conflicting-judgements", "keep one grade for a passage of a query")
def conflicting(facts: "Facts") -> Iterator[Hit]:
    """A passage that is judged several times for one query, with different grades."""
    yield from _repeated(facts, same=False)


@audit_check("repeated-judgements", "leave the repeats out")
def repeated(facts: "Facts") -> Iterator[Hit]:
    """A passage that is judged several times for one query, with the same grade."""
    yield from _repeated(facts, same=True)


def _repeated(facts: "Facts", *, same: bool) -> Iterator[Hit]:
    for split in facts.splits:
        groups = split.qrels.group_by(["question_id", "passage_id"]).aggregate(
            [("grade", "count"), ("grade", "min"), ("grade", "max")]
        )
        differ = pc.not_equal(groups.column("grade_min"), groups.column("grade_max"))
        many = pc.greater(groups.column("grade_count"), 1)
        rows = groups.filter(pc.and_(many, pc.invert(differ)) if same else differ)
        if not len(rows):
            continue
        examples = tuple(
            f"{r['question_id']} -> {r['passage_id']}: grades {r['grade_min']:g} to {r['grade_max']:g}"
            for r in rows.slice(0, 3).to_pylist()
        )
        effect = (
            "tools that count rows count them twice; m2kr counts a passage once"
            if same
            else "which grade counts depends on the tool: trec_eval's last, m2kr's highest"
        )
        severity: Severity = "warning" if same else "error"
        yield Hit(split.name, severity, len(rows), len(groups), "judged pairs", effect, examples)


@audit_check("odd-grades", "use whole grades from 0 to 3, or say what others mean")
def odd_grades(facts: "Facts") -> Iterator[Hit]:
    """Grades that are negative, no whole numbers, or above 3."""
    for split in facts.splits:
        grades = split.grades
        odd = np.flatnonzero((grades < 0) | (grades > 3) | (grades != np.round(grades)))
        if len(odd):
            effect = (
                f"from {grades.min():g} to {grades.max():g}: nDCG's gains are the grades, so the largest "
                "decide it; fractions are cut by tools that read whole numbers; below 0 is not right"
            )
            examples = tuple(
                f"{split.qrels.column('question_id')[int(i)].as_py()}: {grades[i]:g}"
                for i in odd[:3]
            )
            large = bool(((grades[odd] > 3) & (grades[odd] <= 10) & (grades[odd] % 1 == 0)).all())
            severity: Severity = "note" if large else "warning"
            yield Hit(split.name, severity, len(odd), len(grades), "judgements", effect, examples)


@audit_check("grades-all-equal", "call them 1, so that nobody takes them for grades")
def all_equal(facts: "Facts") -> Iterator[Hit]:
    """Judgements that all have one grade other than 1."""
    for split in facts.splits:
        grades = np.unique(split.grades)
        if len(grades) == 1 and grades[0] > 0 and grades[0] != 1:
            effect = f"all are {grades[0]:g}: nDCG is that of judgements without grades"
            yield Hit(
                split.name, "note", len(split.grades), len(split.grades), "judgements", effect
            )


@audit_check(
    "unequal-corpora", "compare scores within a split alone, or search all splits in one corpus"
)
def unequal(facts: "Facts") -> Iterator[Hit]:
    """Splits that are searched in corpora of different size."""
    if len(facts.corpora) < 2:
        return
    sizes = {split.name: len(split.corpus) for split in facts.splits}
    low, high = min(sizes.values()), max(sizes.values())
    if high > 1.1 * low:
        effect = f"from {low:,} to {high:,} passages: the smaller is the easier, so splits do not compare"
        examples = tuple(f"{name}: {size:,} passages" for name, size in list(sizes.items())[:3])
        yield Hit("", "note", len(sizes), len(sizes), "splits", effect, examples)
