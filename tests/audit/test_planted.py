"""Each planted defect is found by its own check, and nothing else is called an error for it."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.audit_folder import Folder, clean_folder, picture

from m2kr.audit.audit import AuditReport, audit
from m2kr.audit.findings import CHECKS, Finding

Plant = Callable[[Folder], None]
PLANTS: dict[str, tuple[str, Plant, frozenset[str]]] = {}


def plant(code: str, also: str = "") -> Callable[[Plant], Plant]:
    """A defect that ``code`` must find; ``also`` names checks that rightly call it an error, too."""

    def register(mutate: Plant) -> Plant:
        PLANTS[mutate.__name__] = code, mutate, frozenset(also.split())
        return mutate

    return register


def of_test(folder: Folder) -> list[dict]:
    return folder.queries[:40]


@plant("positives-outside-corpus")
def judged_ids_are_absent(folder):
    folder.qrels["test"][:30] = [
        (q, f"gone{i}", 1) for i, (q, _, _) in enumerate(folder.qrels["test"][:30])
    ]


@plant("positives-outside-corpus")
def one_of_two_positives_is_absent(folder):
    folder.qrels["test"] += [(f"q{i}", "gone", 1) for i in range(10)]


@plant("misspelt-judged-ids", "positives-outside-corpus")
def judged_ids_in_capitals(folder):
    folder.qrels["test"] = [(q, p.upper(), g) for q, p, g in folder.qrels["test"]]


@plant("misspelt-judged-ids", "positives-outside-corpus")
def judged_ids_in_another_unicode_form(folder):
    for row in folder.corpus[:5]:
        row["_id"] += "\u00e9"
    folder.qrels["test"][:5] = [(q, p + "e\u0301", g) for q, p, g in folder.qrels["test"][:5]]


@plant("misspelt-judged-ids", "positives-outside-corpus")
def judged_ids_as_decimals(folder):
    for i, row in enumerate(folder.corpus):
        row["_id"] = i
    folder.qrels = {
        split: [(q, f"{p[1:]}.0" if split == "test" else p[1:], g) for q, p, g in rows]
        for split, rows in folder.qrels.items()
    }


@plant("judgements-of-unknown-queries")
def judged_queries_are_absent(folder):
    folder.qrels["test"] += [(f"who{i}", "p1", 1) for i in range(9)]


@plant("queries-without-positives")
def a_query_has_grade_zero_alone(folder):
    folder.qrels["test"][0] = ("q0", "p0", 0)


@plant("no-judgements")
def a_file_of_judgements_is_empty(folder):
    folder.qrels = {"test": [(q, p, 0) for q, p, _ in folder.qrels["test"]]}


@plant("more-positives-than-k")
def many_positives(folder):
    folder.qrels["test"] += [(f"q{i}", f"p{40 + j}", 1) for i in range(20) for j in range(9)]


@plant("uneven-positives")
def one_query_has_very_many(folder):
    folder.qrels["test"] += [("q0", f"p{j}", 1) for j in range(1, 60)]


@plant("conflicting-judgements")
def two_grades_for_one_pair(folder):
    folder.qrels["test"] += [("q3", "p3", 2)]


@plant("repeated-judgements")
def one_pair_twice(folder):
    folder.qrels["test"] += folder.qrels["test"][:2]


@plant("odd-grades")
def a_huge_grade(folder):
    folder.qrels["test"][0] = ("q0", "p0", 10**9)


@plant("odd-grades")
def negative_and_fractional_grades(folder):
    folder.qrels["test"] += [("q1", "p70", -1), ("q2", "p71", 1.5)]


@plant("odd-grades")
def grades_from_one_to_five(folder):
    folder.qrels["test"][0] = ("q0", "p0", 5)


@plant("query-ids-of-passages")
def a_query_has_its_passages_id(folder):
    folder.queries[6]["_id"] = "p6"
    folder.qrels["test"][6] = ("p6", "p6", 1)


@plant("blank-images")
def a_black_image(folder):
    folder.images["images/5.png"] = Image.new("RGB", (40, 40))


@plant("answer-in-question", "image-not-needed")
def the_answer_is_in_the_question(folder):
    for query in of_test(folder)[:5]:
        query["text"] += f", or {query['answers'][0]}"


@plant("long-queries")
def a_very_long_question(folder):
    folder.queries[8]["text"] += " and what else" * 40


@plant("grades-all-equal")
def all_grades_are_two(folder):
    folder.qrels = {s: [(q, p, 2) for q, p, _ in rows] for s, rows in folder.qrels.items()}


@plant("duplicate-passage-ids")
def a_passage_id_twice(folder):
    folder.corpus[100]["_id"] = "p101"


@plant("duplicate-query-ids")
def a_query_id_twice(folder):
    folder.queries.append(dict(folder.queries[0], text="what else is there by the river"))


@plant("ids-alike")
def ids_that_differ_in_case(folder):
    folder.corpus[100]["_id"] = "P101"


@plant("duplicate-texts")
def texts_twice(folder):
    for i in range(100, 110):
        folder.corpus[i] |= {
            "text": folder.corpus[i - 20]["text"],
            "title": folder.corpus[i - 20]["title"],
        }


@plant("near-duplicate-texts")
def a_text_with_one_word_changed(folder):
    words = folder.corpus[90]["text"].split()
    words[2] = "another"
    folder.corpus[100] |= {"text": " ".join(words), "title": folder.corpus[90]["title"]}


@plant("near-duplicate-texts")
def a_positive_nearly_repeated(folder):
    words = folder.corpus[2]["text"].split()
    words[3] = "another"
    folder.corpus[100] |= {"text": " ".join(words), "title": folder.corpus[2]["title"]}


@plant("unjudged-copies")
def a_copy_of_a_positive(folder):
    for i in range(12):
        folder.corpus[100 + i] |= {k: folder.corpus[i][k] for k in ("text", "title")}


@plant("duplicate-queries")
def a_query_asked_twice(folder):
    for i in range(0, 10, 2):
        folder.queries[i + 10]["text"] = folder.queries[i]["text"]


@plant("queries-across-splits")
def the_test_queries_in_train(folder):
    for i in range(0, 20, 2):
        folder.queries[40 + i]["text"] = folder.queries[i]["text"].upper()


@plant("queries-across-splits")
def the_test_queries_in_train_with_the_image_under_another_name(folder):
    for i in range(1, 12, 2):
        folder.queries[40 + i]["text"] = folder.queries[i]["text"]
        folder.images[folder.queries[40 + i]["image"]] = picture(i)


@plant("positives-across-splits")
def the_test_positives_in_train(folder):
    folder.qrels["train"] = [(q, f"p{i}", 1) for i, (q, _, _) in enumerate(folder.qrels["train"])]


@plant("duplicate-images")
def one_image_under_two_names(folder):
    folder.images["images/3.png"] = picture(1)


@plant("near-duplicate-images")
def one_image_stored_anew(folder):
    folder.images["images/3.png"] = picture(1).resize((96, 96))


@plant("images-across-splits")
def images_of_train_in_test(folder):
    folder.queries[41]["image"] = folder.queries[1]["image"]


@plant("images-across-splits")
def nearly_the_same_images_in_train_and_test(folder):
    data = io.BytesIO()
    picture(1).save(data, "JPEG", quality=90)
    folder.images["images/41.png"] = data.getvalue()


@plant("query-image-in-positive")
def the_query_image_is_the_answer(folder):
    for i in (1, 3, 5):
        folder.corpus[i]["image"] = f"images/{i}.png"


@plant("missing-images")
def an_image_is_not_there(folder):
    del folder.images["images/5.png"]


@plant("broken-images")
def an_image_is_cut_short(folder):
    data = io.BytesIO()
    picture(5).save(data, "PNG")
    folder.images["images/5.png"] = data.getvalue()[:60]


@plant("random-ranker")
def a_tiny_corpus(folder):
    folder.corpus = folder.corpus[:80:8]
    kept = {row["_id"] for row in folder.corpus}
    folder.qrels = {s: [r for r in rows if r[1] in kept] for s, rows in folder.qrels.items()}


@plant("instruction-finds-it")
def the_instruction_names_the_answer(folder):
    for query in of_test(folder):
        query["instruction"] += f" {query['answers'][0]}"


@plant("image-not-needed")
def the_question_finds_it_alone(folder):
    for query in folder.queries:
        query["text"] += f" {query['answers'][0]}"


@plant("title-in-question", "image-not-needed")
def the_title_is_in_the_question(folder):
    for query in of_test(folder):
        query["text"] += f", is it place {query['answers'][0].removeprefix('answer')}?"


@plant("answers-in-any-text", "answers-inside-words")
def answers_of_one_letter(folder):
    for query in of_test(folder)[:20]:
        query["answers"] = ["a"]


@plant("random-pseudo-recall")
def answers_that_every_text_holds(folder):
    for query in of_test(folder)[:20]:
        query["answers"] = ["stone"]


@plant("answers-inside-words")
def answers_inside_words(folder):
    for query in of_test(folder):
        query["answers"] = [query["answers"][0][1:-1]]


@plant("answers-not-in-positives")
def answers_elsewhere(folder):
    for query in of_test(folder):
        query["answers"] = ["quite another thing"]


@plant("empty-answers")
def blank_answers(folder):
    folder.queries[0]["answers"] = [" "]


@plant("placeholder-texts")
def the_text_nan(folder):
    folder.corpus[110] |= {"text": "nan", "title": None}


@plant("placeholder-texts")
def the_answer_null(folder):
    folder.queries[2]["answers"] = ["null", "answer" + "aabbcc"]


@plant("mojibake")
def text_decoded_wrongly(folder):
    folder.corpus[110]["text"] += " caf\u00e9 na\u00efve".encode().decode("latin-1")


@plant("mojibake")
def half_a_surrogate_pair(folder):
    folder.corpus[110]["text"] += " \ud83d"


@plant("markup")
def tags_and_entities(folder):
    folder.corpus[110]["text"] += " <br/> Smith &amp; Sons"


@plant("control-characters")
def a_nul_in_a_text(folder):
    folder.corpus[110]["text"] += " \x00 end"


@plant("outer-blanks")
def texts_with_blanks_around(folder):
    for query in of_test(folder):
        query["text"] += " "


@plant("empty-passages")
def a_text_is_empty(folder):
    folder.corpus[110] |= {"text": "", "title": ""}


@plant("empty-passages")
def the_text_of_a_positive_is_empty(folder):
    folder.corpus[5] |= {"text": "  ", "title": None}


@plant("empty-queries")
def nothing_is_asked(folder):
    folder.queries[4]["text"] = " "


@plant("untyped-columns")
def a_column_of_nulls(folder):
    for row in folder.corpus:
        row["url"] = None


@plant("long-texts")
def a_very_long_text(folder):
    folder.corpus[110]["text"] = " ".join(f"word{i}" for i in range(2000))


@plant("short-texts")
def a_text_of_one_word(folder):
    folder.corpus[110] |= {"text": "lost", "title": None}


@plant("wrong-language")
def greek_that_is_called_english(folder):
    for row in folder.corpus:
        row["language"] = "en"
    folder.corpus[110] |= {"text": "η πόλη είναι παλιά και έχει τείχη από πέτρα", "title": None}


@plant("missing-instructions")
def a_query_without_instruction(folder):
    del folder.queries[0]["instruction"]


@plant("dominant-instruction")
def one_instruction_dominates(folder):
    for query in (folder.queries[0], folder.queries[40]):
        query["instruction"] = "Another one"


@plant("instructions-differ")
def the_test_is_instructed_otherwise(folder):
    for query in of_test(folder):
        query["instruction"] = "Say what fits"


@plant("unreadable-records")
def a_line_is_no_json(folder):
    folder.raw["corpus.jsonl"] = b'{"_id": "x", \n'


@plant("unreadable-records")
def a_passage_without_id(folder):
    folder.corpus.append({"title": "t", "text": "lonely words"})


@plant("unreadable-records")
def a_text_is_a_number(folder):
    folder.corpus[110]["text"] = 12


@plant("unreadable-records")
def a_grade_is_a_word(folder):
    folder.qrels["test"] += [("q1", "p90", "good")]


@plant("unreadable-records")
def a_judgement_has_a_column_too_many(folder):
    folder.qrels["test"] += [("q1", "p90", "1\t1")]


def planted(tmp_path: Path, mutate: Plant, splits: list[str] | None) -> AuditReport:
    folder = copy.deepcopy(CLEAN)
    mutate(folder)
    kept = folder.raw.pop("corpus.jsonl", b"")
    path = folder.write(tmp_path / "bench")
    with (path / "corpus.jsonl").open("ab") as file:
        file.write(kept)
    return audit(path, splits)


CLEAN = clean_folder()


def codes(report: AuditReport, severity: str | None = None) -> set[str]:
    return {f.code for f in report.findings if severity in (None, f.hit.severity)}


def test_a_clean_folder_has_no_finding_but_notes(tmp_path):
    report = audit(CLEAN.write(tmp_path / "clean"))
    assert [(f.code, f.hit) for f in report.findings] == []
    assert report.splits["test"].ceilings["hit_rate@1"] == 1
    assert report.splits["test"].by_chance["hit_rate@5"] == pytest.approx(5 / 120)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_found(tmp_path, name):
    code, mutate, also = PLANTS[name]
    both = code.startswith(("queries-across", "positives-across", "images-across", "instructions"))
    report = planted(tmp_path, mutate, None if both else ["test"])
    assert code in codes(report)
    assert codes(report, "error") <= {code} | also
    finding: Finding = next(f for f in report.findings if f.code == code)
    assert finding.hit.effect
    assert len(finding.hit.examples) <= 3


def test_every_check_is_planted():
    others = {"no-passages", "no-queries", "unequal-corpora"}  # see test_folders
    assert set(CHECKS) - {code for code, _, _ in PLANTS.values()} == others
