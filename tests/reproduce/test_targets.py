"""Figures as they are published, and files of them."""

import json

import pytest
import yaml
from support.commands import call

from m2kr.errors import InputError, MissingError, UsageError
from m2kr.reproduce.plan import plan_target
from m2kr.reproduce.targets import find_suite, find_target, published_names, read_target

FIGURES = [{"where": "Table 1", "values": {"okvqa": {"hit_rate@5": 31.4}}}]


def test_every_published_target_has_the_benchmark_s_nine_sources():
    names = published_names()["targets"]
    assert names == ["preflmr-vit-b", "preflmr-vit-l", "preflmr-vit-g"]
    for name in names:
        target = find_target(name)
        assert len(target.sources) == 9
        assert len(target.figures) == 12
        assert target.search == ("official", "exact")
        assert target.k == 500
    large = {(f.source, f.metric): f for f in find_target("PreFLMR_ViT-L").figures}
    assert large["okvqa", "pseudo_recall@5"].value == 69.0
    assert large["okvqa", "hit_rate@5"].value == 31.4
    assert list(large["okvqa", "pseudo_recall@5"].others.values()) == [68.5]


def test_a_suite_says_what_it_leaves_out():
    suite = find_suite("paper-baselines")
    assert [target.name for target in suite.targets] == published_names()["targets"]
    assert any("CLIP" in what for what in suite.not_run)


def test_the_plan_is_the_readme_s_arithmetic(tmp_path):
    plan = plan_target(find_target("preflmr-vit-l").only(["okvqa"]), tmp_path, {"checkpoint": "."})
    (okvqa,) = plan.sources
    assert okvqa.encode_flop == pytest.approx(3.5e15, rel=0.02)
    assert okvqa.search_flop == pytest.approx(6.6e15, rel=0.02)
    assert (okvqa.built, okvqa.images_here) == (False, None)
    assert plan.weights_here
    assert plan.totals()["fetch_bytes"] == okvqa.data_bytes + okvqa.image_bytes
    low, high = plan.totals()["hours"]["2 CPU cores"]["encode"]
    assert 4 <= low < high <= 14.1


def test_a_plan_is_told_without_network_for_every_target(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    done = call("reproduce", "--suite", "paper-baselines", "--plan", "--data", tmp_path, "--json")
    plans = json.loads(done.stdout)["plans"]
    assert [plan["target"] for plan in plans] == published_names()["targets"]
    assert all(len(plan["sources"]) == 9 and plan["totals"]["unknown"] == 0 for plan in plans)
    weights = [plan["weights_bytes"] for plan in plans]
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"figures": []}, "no figures"),
        ({"figures": [{"values": {}}]}, "not understood"),
        ({"figures": [{"where": "T", "values": {"okvqa": {"hit_rate@5": 0.69}}}]}, "69 or 0.69"),
        ({"figures": [{"where": "T", "values": {"okvqa": {"hit_rate@5": "x"}}}]}, "'x'"),
        ({"figures": [{"where": "T", "values": {"okvqa": {"hit_rate@5": True}}}]}, "True"),
        ({"figures": [{"where": "T", "values": {"okvqa": {"hit_rate@5": 101}}}]}, "101"),
        ({"figures": [{"where": "T", "values": {"okvqa": {"hit_rate@5": float("nan")}}}]}, "nan"),
        ({"figures": [{"where": "T", "values": {"okvqa": 3}}]}, "no metrics"),
        ({"figures": FIGURES * 2}, "twice"),
        ({"retriever": None}, "no retriever"),
        ({"search": "fast"}, "search is 'fast'"),
        ({"k": 3}, "at least 5"),
        ({"k": "many"}, "'many'"),
        ({"settings": "a=b"}, "settings"),
        ({"release": {"form": "."}}, "form"),
        ({"figure": FIGURES}, "unknown key 'figure'"),
    ],
)
def test_a_file_that_may_be_read_two_ways_or_none_is_refused(tmp_path, keys, message):
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump({"retriever": "bm25", "figures": FIGURES} | keys))
    with pytest.raises(InputError) as caught:
        read_target(path)
    assert message in str(caught.value)
    assert "paper.yaml" in str(caught.value)


def test_other_files_are_refused_too(tmp_path):
    path = tmp_path / "paper.yaml"
    with pytest.raises(MissingError):
        find_target(str(path))
    for text in ("a: [", "- 1", "retriever: a\nretriever: b\n", "[a]: {b: c}"):
        path.write_text(text)
        with pytest.raises(InputError):
            read_target(path)
    path.write_text(yaml.safe_dump({"retriever": "bm25", "figures": FIGURES}))
    assert read_target(path).search == ("exact",)
    values = {"okvqa": {"recall@5": 3}}
    text = {"retriever": "bm25", "figures": [{"where": "T", "values": values}]}
    path.write_text(yaml.safe_dump(text))
    with pytest.raises(UsageError, match="hit_rate"):
        read_target(path)
