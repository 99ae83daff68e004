"""``m2kr build SOURCE --plan`` against a committed table of every upstream file, and the specs of all ten."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from m2kr.building import registry
from m2kr.building.release.routes import builder_for
from m2kr.cli.build import command
from m2kr.cli.plans import planned
from m2kr.errors import UsageError

EXPECTED = Path(__file__).parent.parent / "fixtures" / "expected"
ASSETS = json.loads((EXPECTED / "assets.json").read_text())
RELEASE = json.loads((EXPECTED / "release_files.json").read_text())
# Rows of the release, from its card.
ROWS = {
    "wit": (2_810_679, 19_994, 5_120, 4_120_010, 39_478, 39_478),
    "iglue": (685, 1_000),
    "kvqa": (64_396, 13_365, 5_120, 16_215, 4_648, 4_648),
    "cc3m": (595_375, 595_375),
    "msmarco": (400_782, 6_980, 5_120, 8_841_823, 400_000, 400_000),
    "oven": (339_137, 119_136, 5_120, 7_943, 3_192, 3_192),
    "llava": (350_747, 5_120, 350_747, 6_006),
    "okvqa": (9_009, 5_046, 5_046, 114_809, 114_809, 114_809),
    "infoseek": (676_441, 4_708, 98_276, 98_276),
    "evqa": (167_369, 9_852, 3_750, 50_205, 50_753, 51_472),
}


def plan_of(name: str, root: Path, **choices: Any) -> dict[str, Any]:
    """What ``--plan --json`` prints of one source."""
    route = choices.pop("route", "sources")
    given = {"edition": None, "splits": None} | choices
    return planned(builder_for(name, route=route), root, {}, given["edition"], given["splits"])


def test_the_command_prints_the_same_plan(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "okvqa", "evqa", "--plan", "--json", "--data", tmp_path)
    plans = json.loads(done.stdout)["sources"]
    assert plans == [plan_of(name, tmp_path) for name in ("okvqa", "evqa")]
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


@pytest.mark.parametrize("name", ASSETS)
def test_the_plan_lists_every_upstream_file(tmp_path: Path, name: str) -> None:
    source = "okvqa" if name == "okvqa-gs" else name
    edition = name if source != name else None
    plan = plan_of(source, tmp_path, edition=edition)
    expected = ASSETS[name]
    found = [[f["name"], f["url"], f["size"], f["checksum"]] for f in plan["files"]]
    assert found == expected["files"]
    for file in plan["files"]:
        assert file["licence"]
        assert file["state"] == ("missing" if file["url"] else "manual")
        assert file["url"] or file["manual"]
        assert file["path"] == str(tmp_path / "downloads" / file["name"])
    assert plan["edition"] == (name if edition else "rebuilt")
    for word in expected["images"]:
        assert any(word in note for note in plan["images"])
    assert plan["comparable"]
    assert plan["rules"]


def test_the_plan_for_people_shows_urls_whole(cli: Cli, tmp_path: Path) -> None:
    text = cli("build", "okvqa", "--edition", "okvqa-gs", "--plan", "--data", tmp_path).stdout
    joined = text.replace("\n", "").replace(" ", "").replace("│", "")
    assert "OpenEnded_mscoco_val2014_questions.json.zip" in joined
    assert "…" not in text.split("place by hand")[0]
    assert f"place by hand: {tmp_path}/downloads/okvqa/okvqa_full_corpus.csv" in text
    assert "CC BY 4.0" in text
    assert "rule judgements (inferred)" in text
    assert "rule related" not in text, "rules of the other corpus don't apply"
    assert "m2kr build okvqa --route release" in text


@pytest.mark.parametrize("name", RELEASE)
def test_the_release_plan_and_counts_of_all_ten(tmp_path: Path, name: str) -> None:
    plan = plan_of(name, tmp_path, route="release")
    files = [f["files"] for f in plan["from_release"]["files"]]
    assert files == [f"{table}-*.parquet" for table in RELEASE[name]]
    assert plan["from_release"]["from"].endswith("5d8cf441601d964ef1e7eb2c191d81f20323f6b0")
    assert (plan["edition"], plan["comparable"]) == ("m2kr", "")
    assert tuple(registry.sources()[name].expected.values()) == ROWS[name]
    assert list(registry.sources()[name].expected) == [
        table.split("/")[1] for table in RELEASE[name]
    ]


def test_a_split_of_the_release(tmp_path: Path) -> None:
    plan = plan_of("evqa", tmp_path, route="release", splits=["test"])
    files = [f["files"] for f in plan["from_release"]["files"]]
    assert files == ["EVQA_data/test-*.parquet", "EVQA_passages/test_passages-*.parquet"]


@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        ("okvqa", {"set_": ["corpu=google"]}, "did you mean 'corpus'"),
        ("okvqa", {"set_": ["corpus=yahoo"]}, "wikipedia or google"),
        ("okvqa", {"set_": ["hits=many"]}, "a whole number"),
        (
            "okvqa",
            {"set_": ["corpus=wikipedia"], "edition": "okvqa-gs"},
            "stands for corpus=google",
        ),
        ("okvqa", {"set_": ["pool=full"]}, "no option 'pool'"),
        ("msmarco", {"set_": ["pool=half"]}, "sample or full"),
        ("mini", {"set_": ["a=b"]}, "no option at all"),
        ("mini", {"route": "release"}, "the authors' release does not hold mini"),
        ("evqa", {"no_repair": True}, "add --route release"),
        ("evqa", {"route": "release", "align": "release"}, "leave --route out"),
        ("infoseek", {"split": ["valid"]}, "one of train, test"),
    ],
)
def test_wrong_choices_are_usage_errors(
    tmp_path: Path, source: str, given: dict[str, Any], message: str
) -> None:
    for plan in (True, False):
        with pytest.raises(UsageError) as caught:
            command([source], data=tmp_path, plan=plan, **given)
        assert message in str(caught.value)
    assert not list(tmp_path.glob("downloads"))


def test_names_forgive_and_suggest() -> None:
    for typed, name in (
        ("E-VQA", "evqa"),
        ("OK-VQA", "okvqa"),
        ("CC", "cc3m"),
        ("Infoseek", "infoseek"),
        ("ms marco", "msmarco"),
        ("LLaVA", "llava"),
    ):
        assert registry.resolve_source(typed) == name
    with pytest.raises(UsageError, match="did you mean 'infoseek'"):
        registry.resolve_source("infosek")


def test_all_means_what_the_route_can_build() -> None:
    specs = registry.sources()
    assert list(specs) == [
        "cc3m",
        "evqa",
        "iglue",
        "infoseek",
        "kvqa",
        "llava",
        "mini",
        "msmarco",
        "okvqa",
        "oven",
        "wit",
    ]
    assert [name for name, spec in specs.items() if spec.released] == sorted(RELEASE)


def test_every_rule_is_a_documented_method_or_function() -> None:
    """A decision that the public record leaves open can be read in the code under its name."""
    special = {"unjudged", "answers"}  # an attribute of the spec and a property of its rows
    for name in ROWS:
        kind = type(registry.builder(name))
        source, module = kind.source, sys.modules[kind.__module__]
        spaces = [kind, module, *(v for k, v in vars(module).items() if k.startswith("_"))]
        for rule in source.rules:
            found = [getattr(s, rule.name) for s in spaces if hasattr(s, rule.name)]
            assert rule.name in special or (found and found[0].__doc__), (name, rule.name)
            options = {o.name for o in source.options}
            assert not rule.option or rule.option in options, (name, rule.option)
