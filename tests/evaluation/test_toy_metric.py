"""A metric is one decorated function in one file: nothing else is edited for it."""

import json
from pathlib import Path

import pytest
from support.commands import call

import m2kr
from m2kr.evaluation.metrics import METRICS

TOY = '''"""A metric of one's own."""

import numpy as np

from m2kr.evaluation.metrics import metric


@metric("first_rank", "First@{k}", ks=(3,), shown=(3,))
def first_rank(judged, k):
    """The rank of the first right passage, K + 1 if it is deeper."""
    return np.minimum(judged.first_hit, k + 1)
'''


@pytest.fixture
def toy(tmp_path: Path):
    """The metric's file; the registry is left as it was."""
    before = dict(METRICS)
    path = tmp_path / "toy_metric.py"
    path.write_text(TOY)
    yield path
    METRICS.clear()
    METRICS.update(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    passages = [{"id": word, "text": f"{word} is a metal"} for word in ("tin", "lead", "zinc")]
    queries = [{"id": "q", "question": "what is tin", "positives": ["tin"]}]
    m2kr.from_records(passages, queries, name="metals", data=folder)
    return folder


def test_it_is_chosen_by_name_and_shown_under_its_heading(root, toy):
    by_file = m2kr.evaluate("metals", "bm25", data=root, metrics=f"{toy}:first_rank@2")
    assert by_file[0].value("first_rank@2") == 1
    assert list(by_file[0].metrics) == ["first_rank@2"]
    assert "First@2" in str(by_file)
    by_name = m2kr.evaluate("metals", "bm25", data=root, metrics="first_rank@2")
    assert by_name[0].metrics == by_file[0].metrics
    by_default = m2kr.evaluate("metals", "bm25", data=root)
    assert by_default[0].value("first_rank@3") == 1
    assert "First@3" in str(by_default)
    assert "First@K: The rank of the first right passage, K + 1 if it is deeper." in str(by_default)


def test_the_command_line_takes_it_too(root, toy):
    options = ("--data", root, "--json", "--metrics", f"{toy}:first_rank@1")
    [result] = json.loads(call("eval", "metals", "-r", "oracle", *options).stdout)["results"]
    assert {name: score["value"] for name, score in result["metrics"].items()} == {
        "first_rank@1": 1
    }


def test_it_can_not_take_the_name_of_one_of_ours(root, toy):
    toy.write_text(TOY.replace('"first_rank"', '"hit_rate"'))
    with pytest.raises(m2kr.M2KRError, match="has a metric 'hit_rate' of its own"):
        m2kr.evaluate("metals", "bm25", data=root, metrics=f"{toy}:first_rank@2")
    assert m2kr.evaluate("metals", "bm25", data=root)[0].value("hit_rate@1") == 1
