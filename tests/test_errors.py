"""Errors reach the user whole, from other processes too."""

import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr import errors
from m2kr_leaderboard.problems import Problem, SubmissionRefused

CLASSES = [each for each in vars(errors).values() if isinstance(each, type)]
KINDS = [each for each in CLASSES if issubclass(each, errors.M2KRError)]
TEXTS = st.none() | st.text()


@given(kind=st.sampled_from(KINDS), what=st.text(), where=TEXTS, expected=TEXTS, fix=TEXTS)
def test_an_error_is_the_same_after_pickling(
    kind: type[errors.M2KRError],
    what: str,
    where: str | None,
    expected: str | None,
    fix: str | None,
) -> None:
    error = kind(what, where=where, expected=expected, fix=fix)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert again.as_dict() == error.as_dict()
    assert str(again) == str(error)


def test_a_refused_submission_is_the_same_after_pickling() -> None:
    faults = [
        Problem("layout", "a", "it is no folder"),
        Problem("card", "b", "it is empty", "a text"),
    ]
    error = SubmissionRefused(faults)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SubmissionRefused
    assert (again.as_dict(), str(again)) == (error.as_dict(), str(error))


def fail() -> None:
    raise errors.MissingError("no passages", where="a/b", fix="m2kr build a")


def test_an_error_of_a_worker_process_is_told_whole() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(errors.MissingError) as caught:
        pool.submit(fail).result(timeout=60)
    assert str(caught.value) == "a/b: no passages\n  try:      m2kr build a"
