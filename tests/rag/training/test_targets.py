"""Which answer is learned from a passage: hand-worked cases."""

import pytest

from m2kr.rag.training.targets import target_answer

TEN = ["surf"] * 5 + ["surfing"] * 3 + ["wave"] * 2


@pytest.mark.parametrize(
    ("answers", "gold", "passage", "right"),
    [
        # the most frequent one occurs
        (["red", "red", "blue"], "red", "a red door", "red"),
        (["blue", "red", "red"], "blue", "a red and blue door", "red"),  # whatever the gold one is
        # it doesn't: the most frequent other one that does
        (["red", "red", "blue"], "red", "a blue door", "blue"),
        (["a1", "a1", "a1", "b2", "c3", "c3"], "a1", "b2 and c3", "c3"),
        (TEN, "surf", "the wave", "wave"),
        # none occurs: the gold one, even where it is not among the annotators'
        (["red", "red", "blue"], "red", "a green door", "red"),
        (["red", "blue", "blue"], "red", "a green door", "red"),
        (["red"], "crimson", "a green door", "crimson"),
        (["red"], "green", "a green door", "green"),
        # no gold one: the most frequent, the first of ties
        (["red", "blue", "blue"], None, "a green door", "blue"),
        (["red", "blue"], "  ", "a green door", "red"),
        # ties among those that occur: gold, else the first of the list
        (["red", "blue"], "blue", "red, blue", "blue"),
        (["red", "blue"], None, "blue, red", "red"),
        (["red", "blue"], "green", "blue, red", "red"),
        # case and blanks around don't matter, and the first spelling is what is learned
        (["Red", "RED ", "blue"], "red", "a rEd door", "Red"),
        (["\tred", "blue", "Blue"], "red", "a BLUE door", "blue"),
        ([" Paris "], None, "PARIS", "Paris"),
        # blank answers don't count, however many
        (["", " ", "\n", "red"], None, "a red door", "red"),
        (["", "", "red"], None, "nothing", "red"),
        (["", " "], "red", "a green door", "red"),
        # inside a longer word it occurs, as in pseudo recall
        (TEN, "surf", "surfing on waves", "surf"),
        (["1905"], None, "in 19050", "1905"),
        # several words, and what a pattern would read otherwise
        (["new york"], "x", "New York City", "new york"),
        (["new york"], "x", "New  York City", "x"),
        (["c++ (old)"], "x", "C++ (OLD)", "c++ (old)"),
        (["İzmir"], "x", "in İZMIR", "İzmir"),
        (["izmir"], "x", "in İZMIR", "x"),  # whose first letter, lower-cased, has a dot more
        (["straße"], "x", "STRASSE", "x"),
        # no passage, or an empty one
        (["red", "blue", "blue"], "red", None, "red"),
        (["red", "blue", "blue"], None, None, "blue"),
        (["red"], "gold", "", "gold"),
        # nothing at all
        ([], None, "a red door", None),
        (["", " "], "", "a red door", None),
        ([], "red", "a blue door", "red"),
        ([], " red ", None, "red"),
    ],
)
def test_the_target(
    answers: list[str], gold: str | None, passage: str | None, right: str | None
) -> None:
    assert target_answer(answers, gold, passage) == right
