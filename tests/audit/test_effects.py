"""Counts and effects of findings, in folders so small that the right figures can be told by hand."""

from pathlib import Path

import pytest
from support.audit_folder import Folder

from m2kr.audit.audit import AuditReport, audit
from m2kr.audit.findings import Hit

Pairs = list[tuple[str, str, int]]


def audited(
    tmp_path: Path,
    passages: dict[str, str],
    queries: dict[str, str],
    test: Pairs,
    train: Pairs | None = None,
    answers: dict[str, list[str]] | None = None,
    **more: str,
) -> AuditReport:
    """The report on a folder; ``more`` goes into each query."""
    told = answers or {}
    folder = Folder(
        [{"_id": name, "text": text} for name, text in passages.items()],
        [{"_id": q, "text": t, "answers": told.get(q, []), **more} for q, t in queries.items()],
        {"test": test} | ({"train": train} if train else {}),
    )
    return audit(folder.write(tmp_path / "bench"))


def hit(report: AuditReport, code: str) -> Hit:
    [found] = [finding.hit for finding in report.findings if finding.code == code]
    return found


def count(found: Hit) -> tuple[int, int]:
    return found.count, found.total


TEXTS = {name: f"a text of its own about {name} and nothing else at all" for name in "abcdefgh"}
ASKED = {f"q{n}": f"what of {n}" for n in range(6)}


def test_copies_lower_the_mean_over_all_judged_queries(tmp_path):
    pairs = [("q0", "a", 1), ("q1", "c", 1), ("q2", "gone", 1), ("q3", "lost", 1)]
    report = audited(tmp_path, TEXTS | {"b": TEXTS["a"]}, ASKED, pairs)
    assert report.splits["test"].ceilings["hit_rate@1"] == 0.5
    copies = hit(report, "unjudged-copies")
    assert count(copies) == (1, 4)
    assert "hit_rate@1 is at most 0.375 in expectation, 0.500 without these copies" in copies.effect
    assert "at most 0.500 and set_recall" in hit(report, "positives-outside-corpus").effect


@pytest.mark.parametrize(("passages", "figure"), [(3, "1.000"), (8, "0.625")])
def test_a_random_order_draws_without_replacement(tmp_path, passages, figure):
    texts = dict(list(TEXTS.items())[:passages])
    report = audited(tmp_path, texts, {"q": "who"}, [("q", "a", 1)], answers={"q": ["about a"]})
    effect = hit(report, "random-pseudo-recall").effect
    assert f"PR@5 of a random order is {figure}" in effect
    assert f"{report.splits['test'].by_chance['hit_rate@5']:.3f}" == figure


def test_a_random_orders_pseudo_recall_is_of_all_queries_with_answers(tmp_path):
    answers = {"q0": ["text"], "q1": ["nowhere"], "q2": [" "], "q3": ["nowhere"]}
    pairs = [("q0", "a", 1), ("q1", "b", 0), ("q2", "b", 0), ("q3", "b", 0)]
    found = hit(audited(tmp_path, TEXTS, ASKED, pairs, answers=answers), "random-pseudo-recall")
    assert "is 0.500" in found.effect  # q1 has no judgement; a blank answer is in every text
    assert count(found) == (2, 4)


@pytest.mark.parametrize(
    ("right", "answers", "known"),
    [
        (("a", "b"), {}, 0),
        (("a", "a"), {}, 1),
        (("a", "b"), {"q0": ["Blue", ""], "q3": [" blue"]}, 1),
        (("a", "b"), {"q0": ["b", ""], "q3": [""]}, 0),
    ],
)
def test_a_query_of_train_was_seen_with_its_answer_or_without(tmp_path, right, answers, known):
    asked = ASKED | {"q3": ASKED["q0"].upper()}
    test = [("q0", right[0], 1), ("q1", "c", 1), ("q2", "d", 1)]
    train = [("q3", right[1], 1), ("q4", "f", 1)]
    found = hit(
        audited(tmp_path, TEXTS, asked, test, train, answers=answers), "queries-across-splits"
    )
    assert count(found) == (1, 3)
    assert f"{known} of them have a right passage or an answer in train" in found.effect
    assert ("too high" in found.effect) == bool(known)
    assert found.severity == ("error" if known else "warning")


def test_repeated_queries_are_counted_with_their_groups(tmp_path):
    asked = ASKED | dict.fromkeys(("q1", "q2", "q4"), "what of 0")
    pairs = [(f"q{n}", "a" if n != 4 else "gone", 1) for n in range(6)]
    found = hit(audited(tmp_path, TEXTS, asked, pairs), "duplicate-queries")
    assert (*count(found), found.unit) == (3, 6, "queries repeat an earlier one")
    assert "4 queries in 1 group that ask the same; in 1 of them the right" in found.effect


def test_queries_of_an_image_alone_are_shown_without_a_colon(tmp_path):
    report = audited(
        tmp_path,
        TEXTS,
        dict.fromkeys(ASKED, ""),
        [(f"q{n}", "a", 1) for n in range(6)],
        image="none.png",
    )
    assert hit(report, "duplicate-queries").examples == ("q0 and q1",)


def test_elsewhere_absent_passages_are_missed_too(tmp_path):
    pairs = [("q0", "a", 1), ("q1", "gone", 1), ("q2", "b", 0), ("q3", "c", 0)]
    found = hit(audited(tmp_path, TEXTS, ASKED, pairs), "queries-without-positives")
    assert count(found) == (2, 4)
    assert "at most 0.250 there" in found.effect


def test_set_recall_is_at_most_what_the_corpus_holds(tmp_path):
    pairs = [("q0", name, 1) for name in "abcd"] + [("q0", f"gone{n}", 1) for n in range(4)]
    report = audited(tmp_path, TEXTS, ASKED, pairs)
    assert "set_recall@5 at most 0.500" in hit(report, "more-positives-than-k").effect
    assert report.splits["test"].ceilings["set_recall@5"] == 0.5


def test_instructions_are_scored_on_all_judged_queries(tmp_path):
    pairs = [("q0", "a", 1), ("q1", "a", 1), ("q2", "gone", 1), ("q3", "gone", 1)]
    texts = TEXTS | {f"more{n}": f"words of another kind, number {n}" for n in range(40)}
    report = audited(tmp_path, texts, ASKED, pairs, instruction="it is about a, its own")
    found = hit(report, "instruction-finds-it")
    assert (*count(found), found.unit) == (2, 4, "judged queries")
    assert "hit_rate@5 0.500 without" in found.effect
    assert "chance has 0.052" in found.effect  # 5 of 48, for half of the queries


def test_a_judged_near_copy_is_not_called_unjudged(tmp_path):
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    texts = {"a": f"{long} fifteen", "b": f"{long} sixteen", "c": "another thing"}
    pairs = [("q0", "a", 1), ("q0", "b", 0), ("q1", "a", 1)]
    found = hit(audited(tmp_path, texts, ASKED, pairs), "near-duplicate-texts")
    assert count(found) == (1, 3)
    assert "for 1 queries one of two is right" in found.effect


def test_ids_that_several_share_are_all_counted(tmp_path):
    folder = Folder(
        [{"_id": "a" if n < 3 else str(n), "text": f"text {n}"} for n in range(6)],
        [{"_id": "q" if n < 2 else f"q{n}", "text": f"of {n}"} for n in range(4)],
        {"test": [("q", "3", 1), ("q2", "A", 1), ("q3", "a", 1)]},
    )
    report = audit(folder.write(tmp_path / "bench"))
    assert count(hit(report, "duplicate-passage-ids")) == (3, 6)
    assert count(hit(report, "duplicate-query-ids")) == (2, 4)
    assert count(hit(report, "misspelt-judged-ids")) == (1, 1)
    assert not [f for f in report.findings if f.code == "queries-without-positives"]


def test_a_sentence_about_nothing_and_blank_answers_are_one_rate(tmp_path):
    answers = {"q0": ["a"], "q1": [" "], "q2": ["x-ray"], "q3": ["quartz"]}
    pairs = [(f"q{n}", "a", 1) for n in range(4)]
    found = hit(audited(tmp_path, TEXTS, ASKED, pairs, answers=answers), "answers-in-any-text")
    assert count(found) == (1, 4)
    assert "PR@1 0.500" in found.effect
