"""Prompts: what a model is asked, and what is left of passages that are too long."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import InputError
from m2kr.rag.prompts import ChatPrompt, fit_passages, paper_prompt
from m2kr.rag.reader import RetrievedPassage


def test_the_papers_prompt() -> None:
    assert paper_prompt("Who?", "It was Ann.") == "Question: Who? Knowledge: It was Ann. Answer:"
    assert paper_prompt("Who?", None) == paper_prompt("Who?", " ") == "Question: Who? Answer:"
    assert paper_prompt("Who?", "Ann", caption="a woman", objects=["hat", "dog"]) == (
        "Question: Who? Caption: a woman Objects: hat, dog Knowledge: Ann Answer:"
    )


def test_passages_are_numbered_and_an_empty_question_is_asked() -> None:
    system, user = ChatPrompt().turns("", ["one", "two"])
    assert system
    assert user.index("Passage 1: one") < user.index("Passage 2: two") < user.index("image show")
    assert "Passage" not in ChatPrompt().turns("Who?", [])[1]


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_nothing_in_a_text_is_a_placeholder(question: str, texts: list[str]) -> None:
    prompt = ChatPrompt("", "{question}|{passages}", "{question}", "{text}", "?")
    expected = question.strip() or "?"
    if texts:
        expected += "|" + "\n\n".join(text.strip() for text in texts)
    assert prompt.turns(question, texts) == ("", expected)


def test_braces_and_placeholders_of_passages_stay() -> None:
    user = ChatPrompt().turns("what is {passages}?", ["a {question} {0} {{x}} %s", "b"])[1]
    assert "a {question} {0} {{x}} %s" in user
    assert "what is {passages}?" in user


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text(
        "system: ''\nwith_passages: 'As {{json}}: {passages} - {question}'\npassage: '[{text}]'\n",
        encoding="utf-8",
    )
    prompt = ChatPrompt.from_file(file)
    assert prompt.turns("Who?", ["a", "b"]) == ("", "As {json}: [a]\n\n[b] - Who?")
    assert prompt.fingerprint != ChatPrompt().fingerprint
    assert ChatPrompt.from_file(file).fingerprint == prompt.fingerprint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("with_passages: '{question}'", "{passages}"),
        ("with_passages: '{question} {passages} {answer}'", "{answer}"),
        ("passage: '{number}'", "{text}"),
        ("without_passages: '{passages} {question}'", "{passages}"),
        ("system: 'Answer as {json'", "'{'"),
        ("user: '{question}'", "user"),
        ("system: [a, b]", "system"),
        ("[a]", "mapping"),
    ],
)
def test_a_wrong_prompt_is_refused(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"prompt\.yaml") as error:
        ChatPrompt.from_file(file)
    assert named in str(error.value)


def passages(*texts: str) -> list[RetrievedPassage]:
    return [RetrievedPassage(f"p{n}", text, 1.0) for n, text in enumerate(texts)]


def test_the_last_passage_is_cut_first_and_between_words() -> None:
    def fits(texts: list[str]) -> bool:
        return sum(map(len, texts)) <= 25

    kept, cut = fit_passages(passages("one two three four", "five six seven", "eight"), fits)
    assert kept == ["one two three four", "five"]
    assert cut == [
        {"passage_id": "p1", "characters": 14, "kept_characters": 4},
        {"passage_id": "p2", "characters": 5, "kept_characters": 0},
    ]


@given(st.lists(st.text(max_size=30), max_size=4), st.integers(0, 60))
def test_what_is_kept_fits_and_begins_the_passages(texts: list[str], room: int) -> None:
    def fits(kept: list[str]) -> bool:
        return sum(map(len, kept)) <= room

    kept, cut = fit_passages(passages(*texts), fits)
    assert fits(kept)
    assert all(text.strip().startswith(part) for text, part in zip(texts, kept, strict=False))
    assert bool(cut) == (sum(len(text.strip()) for text in texts) > room)
