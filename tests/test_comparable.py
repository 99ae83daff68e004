"""Whether scores compare with published ones is claimed where it is shown, and nowhere else."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import release_fixture as fixture
from support.toy_builder import ToyBuilder
from support.upstream_stubs import stub

import m2kr
from m2kr import sources
from m2kr.building import registry
from m2kr.building.build import build
from m2kr.building.manifest import describe_source
from m2kr.building.release.aligned import AlignedBuilder
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.request import BuildRequest
from m2kr.cli import build as build_command
from m2kr.cli import eval_, info, list_, plans
from m2kr.data.built_sources import edition_in_words
from m2kr.errors import MissingError, UsageError
from m2kr.sources import UNKNOWN, Source, comparable_notes, verdict

_DEFAULT = next(f.default for f in dataclasses.fields(Source) if f.name == "comparable")
CLAIM = "its scores compare with the published numbers"


class Plain(ToyBuilder):
    """A source whose author says nothing of published numbers."""

    source = dataclasses.replace(ToyBuilder.source, comparable=_DEFAULT)


def every_text(folder: Path) -> str:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return card + (folder / "croissant.json").read_text(encoding="utf-8")


def test_a_plain_source_claims_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = build(Plain(40), tmp_path)
    assert built.manifest["comparable"] == UNKNOWN
    assert next(iter(plans.before(Plain(40), tmp_path, {}, None, None))) == verdict(UNKNOWN)
    assert CLAIM.lower() not in every_text(built.folder).lower()
    assert "nothing shows whether its scores compare" in every_text(built.folder).lower()
    results = m2kr.evaluate("toy", "oracle", data=tmp_path)
    assert [r.comparable for r in results] == [UNKNOWN]
    eval_.show(results)
    info.command("toy", data=tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(verdict(UNKNOWN)) == 2
    assert CLAIM not in said


def test_a_limited_build_of_it_is_not_comparable(tmp_path: Path) -> None:
    built = build(Plain(40), tmp_path, limit=5)
    assert built.manifest["comparable"] == "a partial build (--limit)"


def test_a_manifest_that_says_nothing_claims_nothing(tmp_path: Path) -> None:
    build(Plain(40), tmp_path)
    split = m2kr.load("toy", data=tmp_path)
    del split.manifest["comparable"]
    (result,) = m2kr.evaluate(split, "oracle")
    assert result.comparable == UNKNOWN


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A release in miniature whose counts are the published ones."""
    builder = type(registry.builder("okvqa"))
    spec = dataclasses.replace(builder.source, expected=fixture.counts("okvqa"))
    monkeypatch.setattr(builder, "source", spec)
    yield fixture.write_release(tmp_path / "files", sources=["okvqa"])


def test_the_release_and_what_equals_it_compare(released: Path, tmp_path: Path) -> None:
    release = build(ReleaseBuilder("okvqa", released), tmp_path / "root")
    assert release.manifest["comparable"] == ""
    assert CLAIM in every_text(release.folder).lower()

    def aligned(**how: Any) -> AlignedBuilder:
        return AlignedBuilder("okvqa", ReleaseBuilder("okvqa", released), stub("okvqa", **how))

    said = list(plans.before(aligned(), tmp_path / "root", {}, None, None))
    assert said[0] == f"{CLAIM} if the build is equal to the release"
    same = build(aligned(), tmp_path / "root")
    assert same.manifest["comparable"] == ""
    lose = {"OKVQA_passages/train_passages": {"71"}}
    other = build(aligned(lose=lose), tmp_path / "root", edition="less")
    assert "not equal to the release" in other.manifest["comparable"]
    words = "rebuilt from upstream files, with the rows of the release"
    assert edition_in_words(same.manifest) == words
    assert edition_in_words(other.manifest) == f"{words}; not equal to it"


def test_what_is_printed_before_a_build(tmp_path: Path) -> None:
    """Whether it compares, each open rule, the size, the other way: in this order."""
    module = registry.builder("okvqa")
    first, *rules, size, last = plans.before(module, tmp_path, {}, None, None)
    assert first.startswith("not comparable with published numbers: a rebuild from upstream files")
    assert rules and all(line.startswith("rule ") for line in rules)
    assert re.match(r"to fetch: [\d.]+ GB", size)
    assert last == "the authors' own tables: m2kr build okvqa --route release"
    first, size = plans.before(ReleaseBuilder("okvqa"), tmp_path, {}, None, None)
    assert first == CLAIM
    assert "under 140 MB" in size


def test_the_names_of_what_is_released() -> None:
    specs = registry.sources().items()
    assert {name: spec.config for name, spec in specs if spec.released} == sources.RELEASED


@pytest.mark.parametrize("name", [*sorted(sources.RELEASED), "mini"])
def test_what_is_not_built_names_the_authors_tables_first(name: str, tmp_path: Path) -> None:
    for edition in (None, "m2kr"):
        with pytest.raises(MissingError) as caught:
            m2kr.load(name, edition=edition, data=tmp_path)
        route = "" if name == "mini" else " --route release"
        assert str(caught.value.fix).startswith(f"m2kr build {name}{route} --data {tmp_path}")
    with pytest.raises(MissingError) as caught:
        m2kr.load(name, edition="mine", data=tmp_path)
    assert str(caught.value.fix) == f"m2kr build {name} --data {tmp_path} --edition mine" or (
        name == "mini"
    )


def test_editions_are_told_in_words(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    build(ReleaseBuilder("okvqa", released), root)
    record = build(ReleaseBuilder("okvqa", released), root, limit=2).manifest
    assert edition_in_words(record) == "the authors' release, cut by --limit 2"
    record = record | {"route": "sources", "partial": False}
    assert "rebuilt from upstream files" in edition_in_words(record)
    spec = describe_source(registry.builder("okvqa").source)
    variant = {"source": spec, "options": spec["variants"]["okvqa-gs"]["options"]}
    assert edition_in_words(record | variant) == spec["variants"]["okvqa-gs"]["title"]
    with pytest.raises(UsageError, match=r"m2kr \(the authors' release\); m2kr-limit2 \(the auth"):
        m2kr.load("okvqa", data=root)
    list_.command(data=root)
    assert "m2kr: the" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@given(st.lists(st.sampled_from(["", UNKNOWN, "a", "b"])))
def test_reasons_are_kept_and_unknown_is_never_lost(notes: list[str]) -> None:
    joined = comparable_notes(notes)
    assert (joined == "") == (not any(notes))
    assert [n for n in ("a", "b") if n in notes] == sorted(set(joined.split("; ")) - {"", UNKNOWN})
    assert (joined == UNKNOWN) == (set(notes) - {""} == {UNKNOWN})


def test_a_share_of_a_build_says_the_same_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"folder": None}
    build_command.build_share(
        [Plain(40)], tmp_path, "1/1", BuildRequest(), asked, offline=True, jobs=1, json=False
    )
    assert f"toy: {verdict(UNKNOWN)}" in " ".join(capsys.readouterr().out.split())
