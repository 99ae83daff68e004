"""Numbers in answers: every form that is read, and those that are left alone."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.rag.scorers.answer_numbers import answer_numbers, answer_range

FORMS = {
    # plain
    "42": [42],
    "42.": [42],
    "3.25": [3.25],
    ".5": [0.5],
    "007": [7],
    "٣": [3],
    "１２": [12],
    # groups of digits
    "1,234": [1234],
    "1,234,567.8": [1234567.8],
    "12,34,567": [1234567],
    "1.234.567": [1234567],
    "1.234,5": [1234.5],
    "1.234": [1.234],
    "1'234'567": [1234567],
    "1’234": [1234],
    "1 234 567": [1234567],
    "1\u00a0234": [1234],
    "1\u202f234\u202f567": [1234567],
    "1 234": [1, 234],
    "2 000": [2000],
    "10 050 m": [10050],
    "5 007 and 3": [5007, 3],
    "2 0000": [2, 0],
    # decimal commas
    "1,5": [1.5],
    "12,75 m": [12.75],
    "0,125": [0.125],
    "1,5 to 2,5": [1.5, 2.5],
    # lists
    "5, 10": [5, 10],
    "1, 2 and 3": [1, 2, 3],
    # signs
    "-5": [-5],
    "+5": [5],
    "−5": [-5],
    "–5": [-5],
    "－5": [-5],
    "minus 5 degrees": [-5],
    "negative 5": [-5],
    "−40–−20 °C": [-40, -20],
    "-5--3": [-5, -3],
    "-5°C–-3°C": [-5, -3],
    "5 – -3": [5, -3],
    "**-5**": [-5],
    '"-5"': [-5],
    "“−5”": [-5],
    "`-5`": [-5],
    "#-5": [-5],
    "₹-5": [-5],
    "-₹5": [-5],
    "10€-20€": [10, 20],
    "10 €–20 €": [10, 20],
    "10$-20$": [10, 20],
    "10 % -20 %": [10, 20],
    "5°–7°": [5, 7],
    '5"-7"': [5, 7],
    "5 m²-7 m²": [5, 7],
    "10 km²–20 km²": [10, 20],
    "a temperature of -5 °C": [-5],
    "(-5)": [-5],
    "-$5": [-5],
    "$-5": [-5],
    "- 5": [5],
    "− 5": [-5],
    "10 − 5": [10, 5],
    # hyphens and dashes between numbers
    "1990-2005": [1990, 2005],
    "6.5-7.0": [6.5, 7],
    "10–20 cm": [10, 20],
    "10—20": [10, 20],
    "10 - 20": [10, 20],
    "5 -10": [5, 10],
    "10~20": [10, 20],
    "10～20": [10, 20],
    "-10 - -5": [-10, -5],
    "−5–3": [-5, 3],
    "between -10 and -5": [-10, -5],
    # powers and scales
    "1.5e6": [1.5e6],
    "1.5e6km": [1.5e6],
    "1.5E-3": [0.0015],
    "1.5 x 10^6": [1.5e6],
    "1.5×10⁶": [1.5e6],
    "2.5 × 10⁻³": [0.0025],
    "10^6": [1e6],
    "10⁶ years": [1e6],
    "1.5 million": [1.5e6],
    "5 hundred thousand": [5e5],
    "2-3 thousand million": [2e9, 3e9],
    "2-3 million": [2e6, 3e6],
    "$2 to $3 billion": [2e9, 3e9],
    "1,200 to 1.5 thousand": [1200, 1500],
    "3 hundred": [300],
    "5k": [5000],
    "5 kg": [5],
    "5km": [5],
    "5 m": [5],
    # fractions
    "½": [0.5],
    "2½": [2.5],
    "2 ¾ cups": [2.75],
    "3 1/2": [3.5],
    "3-1/2 inches": [3.5],
    "3/4": [0.75],
    "24/7": [24, 7],
    "12/20/1990": [12, 20, 1990],
    "1/0": [1, 0],
    # what stands around
    "about 5": [5],
    "~5": [5],
    "≈5": [5],
    "<5": [5],
    "$1,234.50": [1234.5],
    "€5": [5],
    "45%": [45],
    "19th": [19],
    "the 1990s": [1990],
    "c. 1850": [1850],
    "c.1850": [1850],
    "c1850": [1850],
    "100 km/h": [100],
    "5 km2": [5],
    "5 km²": [5],
    "12 m³": [12],
    "CO2": [2],
    "10 ± 2": [10],
    "±5": [5],
    "324 m (1,063 ft)": [324],
    "(300 m)": [300],
    "30 [12 in]": [30],
    "It is 42 years old.\nI am sure.": [42],
    # words
    "seven": [7],
    "Seven.": [7],
    "twenty-one": [21],
    "about twenty one years": [21],
    "a hundred": [100],
    "one hundred and five": [105],
    "two million": [2e6],
    "minus five degrees": [-5],
    "about negative twenty-one": [-21],
    "minus the old one and so on": [],
    "one thousand nine hundred and ninety": [1990],
    "two hundred thousand": [200000],
    "five and a half metres": [5.5],
    "twenty to thirty": [20, 30],
    "between two and three": [2, 3],
    "no one knows": [],
    "one of the largest lakes in the country": [],
    "seven 8": [8],
    # none
    "": [],
    "unknown": [],
    "the": [],
    "-": [],
    "1e999": [],
    "9" * 400: [],
    "NaN": [],
    "infinity": [],
}


@pytest.mark.parametrize(("text", "numbers"), FORMS.items(), ids=[repr(t[:24]) for t in FORMS])
def test_forms(text: str, numbers: list[float]) -> None:
    assert answer_numbers(text) == pytest.approx(numbers)


def test_the_first_two_numbers_are_a_range_if_they_ascend() -> None:
    assert answer_range("5 to 7, or 9") == (5, 7)
    assert answer_range("7 to 5") == (7, 7)
    assert answer_range("5-5") == (5, 5)
    assert answer_range("5") == (5, 5)
    assert answer_range("-3 to -7") == (-3, -3)
    assert answer_range("no idea") is None


@settings(max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_what_python_writes_is_read(number: float) -> None:
    assert answer_numbers(repr(number)) == (number,)
    assert answer_numbers(f"about {number!r} m") == (number,)


@settings(max_examples=40)
@given(st.integers(0, 10**15))
def test_groups_of_thousands_are_read(number: int) -> None:
    assert answer_numbers(f"{number:,}") == (number,)
    if number >= 10**6:
        assert answer_numbers(f"{number:,}".replace(",", ".")) == (number,)
        assert answer_numbers(f"{number:,}".replace(",", " ")) == (number,)


@settings(max_examples=40)
@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["-", "–", " - ", " to ", "~"])
)
def test_ranges_are_read(low: int, high: int, joined: str) -> None:
    assert answer_numbers(f"{low}{joined}{high}") == (low, high)


@given(st.text(st.sampled_from(string.digits + ",.-–^x×e ½/()kmt²⁻"), max_size=60))
def test_any_text_is_read_quickly_and_finitely(text: str) -> None:
    assert all(abs(number) < float("inf") for number in answer_numbers(text))
