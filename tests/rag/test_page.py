"""The page of answers as files: its data, its policy, and texts that mean harm."""

import json
import re

import pytest
from support.answered import QUESTIONS, hostile_answers, hostile_split, score_of
from support.reports import HOSTILE, data_of

from m2kr.display import fit_for_html as fit
from m2kr.errors import InputError
from m2kr.rag.page import write_answers_page


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("answered")
    split = hostile_split(home)
    result = hostile_answers(home / "results", split)
    page = write_answers_page([result], home / "page", data=home / "data")
    return home, split, result, page


def facts_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_the_list_has_each_arms_verdicts(home):
    _, _, _, page = home
    column = facts_of(page)["columns"][0]
    assert [arm["label"] for arm in column["arms"]] == [
        "no retrieval",
        "retrieved@1",
        "retrieved@3",
        "oracle",
    ]
    _, listed = data_of(page.parent / "0" / "list-0.js")
    numbers = [int(one[1:]) for one in listed["id"]]
    for place, arm in enumerate(column["arms"]):
        scores = listed["scores"][column["scorers"].index("exact_match")][place]
        assert scores == [score_of(arm["kind"], arm["k"], i) for i in numbers]
        which = listed["which"][place]
        answers = [said[n] for said, n in zip(listed["said"], which, strict=True)]
        assert len(answers) == QUESTIONS and all("colour" in answer for answer in answers)


def test_passages_are_those_of_the_records(home):
    _, split, result, page = home
    records = result.records().to_pylist()
    _, meta = data_of(page.parent / "0" / "meta.js")
    _, hits = data_of(page.parent / "0" / "hits-0.js")
    _, listed = data_of(page.parent / "0" / "list-0.js")
    ids = []
    for number in range(len(meta["texts"])):
        _, texts = data_of(page.parent / "0" / f"texts-{number}.js")
        ids += texts["id"]
        assert texts["text"] == [
            fit(split.passages[int(one[1:])]["passage_content"]) for one in texts["id"]
        ]
    arms = facts_of(page)["columns"][0]["arms"]
    for record in records:
        place = next(
            i for i, a in enumerate(arms) if (a["kind"], a["k"]) == (record["arm"], record["k"])
        )
        question = listed["id"].index(record["question_id"])
        assert [ids[n] for n in hits["passages"][place][question]] == record["passage_ids"]
        read = hits["read"][place][question]
        given = record["passage_ids"]
        assert (given[read] if read >= 0 else None) == (
            record["answer_passage_id"] if record["answer_passage_id"] in given else None
        )
    right = {listed["id"][q]: [ids[n] for n in of] for q, of in enumerate(hits["right"])}
    assert right == {f"q{i}": [f"p{i}"] for i in range(QUESTIONS)}
    holding = {listed["id"][q]: [ids[n] for n in of] for q, of in enumerate(hits["holding"])}
    assert all(f"p{one[1:]}" in of for one, of in holding.items())


def test_nothing_from_outside_is_markup(home):
    _, _, _, page = home
    for file in page.parent.rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert HOSTILE not in text and "<img src=x" not in text, file
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 2 and "default-src 'none'" in text
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg|http-equiv", "", text)


def test_it_replaces_its_own_folder_alone(home, tmp_path):
    folder, _, result, page = home
    again = write_answers_page([result], page.parent, data=folder / "data")
    assert again == page and page.is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(InputError):
        write_answers_page([result], tmp_path / "mine", data=folder / "data")


def test_without_the_split_the_scores_are_there(home, tmp_path):
    _, split, _, _ = home
    result = hostile_answers(tmp_path / "results", split)
    page = write_answers_page([result], tmp_path / "page", data=tmp_path / "nowhere")
    column = facts_of(page)["columns"][0]
    assert "not in this report" in column["browser"]["fault"]
    assert column["tables"][0]["parts"][0]["questions"] == QUESTIONS


def test_several_results_have_a_grid_and_each_readers_other_answers_once(home, tmp_path):
    folder, split, _, _ = home
    results = [
        hostile_answers(tmp_path / "results", split, retriever=name, reader="parrot")
        for name in ("bm25", "fusion")
    ]
    page = write_answers_page(results, tmp_path / "page", data=folder / "data")
    column = facts_of(page)["columns"][0]
    assert [arm["label"] for arm in column["arms"]] == [
        "parrot, no retrieval",
        "parrot + bm25 @1",
        "parrot + bm25 @3",
        "parrot + fusion @1",
        "parrot + fusion @3",
        "parrot, oracle",
    ]
    # Some answers were not judged, so no metric compares them; the page says why.
    assert column["grid"] is None
    assert any("no table of readers by retrievers" in note for note in facts_of(page)["notes"])
