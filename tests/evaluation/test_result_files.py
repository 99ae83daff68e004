"""Saved results, found by file, folder and pattern."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toys import Dense, toy_split

import m2kr
from m2kr.errors import InputError, M2KRError, MissingError
from m2kr.evaluation.harness import evaluate_split


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for k in (5, 10):
        evaluate_split(toy_split(), Dense(), k=k).save(folder)
    (folder / "run.json").write_text('{"q1": {"p/dog": 1.0}}')
    (folder / "list.json").write_text("[]")
    return folder


def test_a_folder_its_files_and_patterns_give_the_same_results(saved):
    found = m2kr.Results.load(saved)
    assert sorted(result.k for result in found) == [5, 10]
    files = sorted(f for f in saved.iterdir() if f.name.startswith("toy."))
    assert len(files) == 6
    for paths in ([*files], [saved, *files], [saved / "toy.*.json"], [saved / "toy.test.*"]):
        again = m2kr.Results.load(*paths)
        assert sorted(again, key=lambda r: r.k) == sorted(found, key=lambda r: r.k), paths
    assert "R@5" in str(found)


def test_query_groups_come_back_with_the_scores(saved):
    for result in m2kr.Results.load(saved):
        assert result.query_groups == {"kind": ["fruit", "animal", "fruit", "(none)"]}
        assert set(result.scores) == set(result.metrics)
        assert "query_groups" not in result.as_dict()


def test_what_is_no_result_is_one_clear_error(saved, tmp_path):
    for path in (tmp_path, saved / "nothing.json", saved / "none.*"):
        with pytest.raises(MissingError):
            m2kr.Results.load(path)
    with pytest.raises(InputError, match="not a result of this version"):
        m2kr.Results.load(saved / "run.json")
    (tmp_path / "half.json").write_text('{"format": "m2kr-result-1", "sou')
    with pytest.raises(InputError, match=r"half\.json: not JSON"):
        m2kr.Results.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.integers(0, 99), inner=st.booleans(), value=JSON)
def test_whatever_a_result_holds_it_loads_and_compares_or_is_refused(
    saved, tmp_path, key, inner, value
):
    files = sorted(saved.glob("toy.*.json"))
    facts = json.loads(files[0].read_text())
    names = sorted(facts)
    name = names[key % len(names)]
    if inner and isinstance(facts[name], dict) and facts[name]:
        facts[name][sorted(facts[name])[key % len(facts[name])]] = value
    else:
        facts[name] = value
    for file in saved.glob(f"{files[0].stem}.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / files[0].name).write_text(json.dumps(facts))
    try:
        results = m2kr.Results.load(tmp_path / files[0].name, files[1])
        for text in (str(results), str(results.compare())):
            assert text
    except M2KRError as error:
        assert len(str(error).splitlines()) <= 3


def test_a_damaged_table_of_scores_is_an_error(saved, tmp_path):
    for file in saved.glob("toy.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = next(tmp_path.glob("*.queries.parquet"))
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a table of per-query scores"):
        m2kr.Results.load(tmp_path)
