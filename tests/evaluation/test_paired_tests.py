"""The paired statistics against scipy and against code that anybody can check by reading it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.evaluation.paired_tests import (
    RESAMPLES,
    holm,
    paired_tests,
    randomisation_p,
    significance_letters,
    student_p,
)
from m2kr.evaluation.significance import bootstrap_interval

stats = pytest.importorskip("scipy.stats", reason="scipy comes with the development tools")
FEW = settings(max_examples=30)
SCORE = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1 / 3]), st.floats(0, 1).map(lambda x: round(x, 6))
)


def tables(most_queries, most_systems=4, score=SCORE, least=1):
    """(queries x systems) scores."""
    return st.integers(2, most_systems).flatmap(
        lambda systems: st.lists(
            st.lists(score, min_size=systems, max_size=systems),
            min_size=least,
            max_size=most_queries,
        ).map(np.array)
    )


def every_assignment(differences, weights=None):
    """The randomisation test's p value, by trying every sign of every difference."""
    weighted = differences * (np.full(len(differences), 1.0) if weights is None else weights)
    n = len(weighted)
    signs = 1 - 2.0 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1)
    return float(np.mean(np.abs(signs @ weighted) >= abs(weighted.sum()) - 1e-9))


@FEW
@given(tables(8))
def test_few_queries_are_tested_over_every_assignment(scores):
    p, exact = randomisation_p([scores])
    assert exact.all()
    for value, (a, b) in zip(p, itertools.combinations(range(scores.shape[1]), 2), strict=True):
        assert value == pytest.approx(every_assignment(scores[:, a] - scores[:, b]), abs=1e-9)


@FEW
@given(tables(5, 3), tables(5, 3))
def test_flips_stay_within_their_source_and_sources_count_alike(one, other):
    systems = min(one.shape[1], other.shape[1])
    one, other = one[:, :systems], other[:, :systems]
    tests = paired_tests([one, other])
    weights = np.repeat([1 / len(one), 1 / len(other)], [len(one), len(other)])
    for i, (a, b) in enumerate(itertools.combinations(range(systems), 2)):
        both = np.concatenate([one[:, a] - one[:, b], other[:, a] - other[:, b]])
        assert tests.p[i] == pytest.approx(every_assignment(both, weights), abs=1e-9)
        mean = ((one[:, a] - one[:, b]).mean() + (other[:, a] - other[:, b]).mean()) / 2
        assert tests.differences[i] == pytest.approx(mean, abs=1e-9)


@FEW
@given(tables(9, 2, least=2))
def test_scipys_permutation_test_gives_the_same_p(scores):
    expected = stats.permutation_test(
        (scores[:, 0], scores[:, 1]),
        lambda a, b, axis=-1: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    # scipy counts the halves apart and doubles the smaller one: the same, for a symmetric distribution.
    assert randomisation_p([scores])[0][0] == pytest.approx(expected, abs=1e-9)


@FEW
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_a_metric_of_0_and_1_has_mcnemars_exact_test(wins, losses):
    scores = np.array([[1.0, 0.0]] * wins + [[0.0, 1.0]] * losses + [[1.0, 1.0]] * 7)
    p, exact = randomisation_p([scores])
    assert exact.all()
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert p[0] == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_drawn_assignments_come_near_the_exact_p_and_are_never_0():
    rng = np.random.default_rng(3)
    scores = rng.random((17, 3))  # 2^17 assignments: too many for us, not for this test
    p, exact = randomisation_p([scores])
    assert not exact.any()
    for value, (a, b) in zip(p, itertools.combinations(range(3), 2), strict=True):
        assert value == pytest.approx(every_assignment(scores[:, a] - scores[:, b]), abs=0.015)
    certain = np.stack([rng.random(50) + 1, rng.random(50)], axis=1)
    assert randomisation_p([certain])[0].tolist() == [1 / 10_001]
    assert randomisation_p([certain])[0] == randomisation_p([certain])[0]
    assert (randomisation_p([scores], seed=1)[0] != p).any()


@pytest.mark.slow
def test_many_systems_get_draws_enough_for_holm():
    rng = np.random.default_rng(0)
    scores = rng.random((24, 33)) * 0.01 + np.arange(33) / 33
    p, exact = randomisation_p([scores])
    assert not exact.any()
    assert (holm(p) < 0.05).all()  # 528 pairs x 1/10,001 is above .05


@FEW
@given(tables(12, 3, st.floats(0, 1).map(lambda x: round(x, 3))))
def test_the_paired_t_test_is_scipys(scores):
    tests = paired_tests([scores])
    for i, (a, b) in enumerate(itertools.combinations(range(scores.shape[1]), 2)):
        difference = scores[:, a] - scores[:, b]
        if len(scores) < 2:
            assert np.isnan(tests.p_t[i])
            assert np.isnan(tests.smallest_difference[i])
        elif np.ptp(difference) < 1e-9:
            assert tests.p_t[i] == float(abs(difference[0]) < 1e-9)
            assert np.isnan(tests.smallest_difference[i])
        else:
            expected = stats.ttest_rel(scores[:, a], scores[:, b]).pvalue
            assert tests.p_t[i] == pytest.approx(expected, rel=1e-6, abs=1e-12)
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            assert tests.smallest_difference[i] == pytest.approx(
                (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error
            )


def test_several_sources_have_welchs_degrees_of_freedom():
    rng = np.random.default_rng(5)
    one, other = rng.random((9, 2)), rng.random((30, 2))
    x, y = one[:, 0] - one[:, 1], other[:, 1] - other[:, 0]
    expected = stats.ttest_ind(x, y, equal_var=False)  # of x - y, which is twice our mean
    swapped = np.stack([other[:, 0], other[:, 1]], axis=1)
    assert paired_tests([one, swapped]).p_t[0] == pytest.approx(expected.pvalue, rel=1e-9)


@given(st.floats(-60, 60), st.floats(1, 1e5))
def test_students_distribution_is_scipys(t, freedom):
    expected = 2 * stats.t.sf(abs(t), freedom)
    assert student_p(t, 1.0, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-200)


def test_intervals_are_those_of_the_paired_bootstrap():
    rng = np.random.default_rng(1)
    scores = np.round(rng.random((300, 3)) + np.array([0.2, 0.0, 0.1]), 1)
    tests = paired_tests([scores])
    for i, (a, b) in enumerate(itertools.combinations(range(3), 2)):
        expected = bootstrap_interval(scores[:, a] - scores[:, b], resamples=5_000)
        assert (tests.low[i], tests.high[i]) == pytest.approx(expected, abs=0.01)
    drawn = np.random.default_rng(0).integers(0, 300, (RESAMPLES, 300))
    naive = np.quantile(scores[drawn].mean(1), [0.025, 0.975], axis=0)
    assert np.allclose(tests.intervals, naive)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_what_its_definition_says(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    expected, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        expected[i] = highest
    assert holm(np.array(p)).tolist() == pytest.approx(expected)
    assert np.isnan(holm(np.array([0.01, np.nan]))).tolist() == [False, True]
    assert holm(np.array([0.01, np.nan]))[0] == 0.01


@FEW
@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.sets(
                st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(
                    lambda t: t[0] < t[1]
                )
            ),
        )
    )
)
def test_systems_share_a_letter_iff_they_do_not_differ(case):
    systems, pairs = case
    different = np.zeros((systems, systems), bool)
    for a, b in pairs:
        different[a, b] = different[b, a] = True
    letters = list(map(set, significance_letters(different)))
    assert all(letters)
    for a, b in itertools.combinations(range(systems), 2):
        assert bool(letters[a] & letters[b]) != different[a, b]
    members = [{s for s in range(systems) if g in letters[s]} for g in set().union(*letters)]
    assert not any(one < other for one in members for other in members)  # none is superfluous


def false_splits(repeats, systems, draw):
    """How many of some comparisons of equal systems call two of them different."""
    false = 0
    for seed in range(repeats):
        p, _ = randomisation_p([draw(np.random.default_rng(seed), systems)])
        false += bool((holm(p) < 0.05).any())
    return false


def hits(rng, systems):
    """Queries are hard or easy for all alike."""
    return (rng.random((100, systems)) < rng.random((100, 1))).astype(float)


def reciprocal_ranks(rng, systems):
    return 1 / (rng.integers(1, 12, (100, systems)) + rng.random((100, 1)))


def test_equal_systems_are_seldom_split():
    """In at most 5 % of comparisons, but for chance."""
    assert false_splits(50, 8, hits) <= stats.binom.ppf(0.999, 50, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeats", "systems", "draw"), [(400, 20, hits), (60, 8, reciprocal_ranks)]
)
def test_more_equal_systems_are_seldom_split(repeats, systems, draw):
    assert false_splits(repeats, systems, draw) <= stats.binom.ppf(0.999, repeats, 0.05)
