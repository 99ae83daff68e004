"""Names, aliases, discovery and instructions."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr import instructions, sources
from m2kr.building import registry
from m2kr.errors import UsageError


@pytest.mark.parametrize("typed", ["mini", "MINI", "m-i.n i", "Mini"])
def test_names_ignore_case_and_punctuation(typed: str) -> None:
    assert registry.resolve_source(typed) == "mini"


def test_a_typo_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'mini'"):
        registry.resolve_source("minni")
    with pytest.raises(UsageError, match="m2kr list"):
        registry.resolve_source("zzzzzz")


@pytest.mark.parametrize("alias", ["val", "validation", "VALID", "dev"])
def test_split_aliases(alias: str) -> None:
    assert sources.resolve_split(alias, ("train", "valid")) == "valid"


def test_every_source_is_complete() -> None:
    for name, source in registry.sources().items():
        assert source.name == name
        assert source.pools
        assert source.licence
        assert source.headline
        assert all(c.doc for c in (*source.query_columns, *source.passage_columns))


def test_template_lists_are_the_published_ones() -> None:
    lists = instructions.TEMPLATES
    assert {n: len(t.templates) for n, t in lists.items()} == {
        "iq2t": 8,
        "wit": 9,
        "llava": 2,
        "caption": 11,
        "kvqa": 1,
        "msmarco": 3,
    }
    # E-VQA's instruction column is 82.375 bytes a row on average, trailing blank included.
    assert sum(map(len, lists["iq2t"].templates)) / 8 == 82.375
    assert len(set(lists["iq2t"].templates)) == 7


@given(st.text(), st.integers(0, 2**32))
def test_a_choice_depends_on_seed_and_id_alone(row_id: str, seed: int) -> None:
    first = instructions.TEMPLATES["wit"].choose(row_id, seed)
    assert first == instructions.TEMPLATES["wit"].choose(row_id, seed)
    assert first in instructions.TEMPLATES["wit"].templates


def test_choices_are_even() -> None:
    draws = Counter(instructions.keyed_choice(4, f"q{i}") for i in range(8_000))
    assert set(draws) == {0, 1, 2, 3}
    assert max(draws.values()) < 1.1 * min(draws.values())


@pytest.mark.parametrize(
    ("instruction", "question", "joined"),
    [
        ("Find it: ", "what?", "Find it: what?"),
        ("Find it", " what?", "Find it:  what?"),
        ("Find it.:", "", "Find it.:"),
        ("", " what? ", "what?"),
        ("  ", "", ""),
    ],
)
def test_instruction_and_question_are_joined_the_official_way(
    instruction: str, question: str, joined: str
) -> None:
    assert instructions.join_question(instruction, question) == joined
