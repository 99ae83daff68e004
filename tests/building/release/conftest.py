"""The miniature release, and all that is built from it once."""

import dataclasses
import json
from pathlib import Path

import pytest
from support import release_fixture as fixture
from support.commands import call
from support.release_fixture import ALL

from m2kr.building import registry


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's files. Not to be written to."""
    return fixture.write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def root(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten sources, built by one command."""
    root = tmp_path_factory.mktemp("built")
    options = ("--route", "release", "--any-counts", "--from", files, "--data", root)
    done = call("build", *ALL, *options, "--json")
    built = json.loads(done.stdout)["built"]
    assert [each["source"] for each in built] == list(ALL)
    assert {each["route"] for each in built} == {"release"}
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the fixture's counts the published ones."""
    for name in ALL:
        builder = type(registry.builder(name))
        spec = dataclasses.replace(builder.source, expected=fixture.counts(name))
        monkeypatch.setattr(builder, "source", spec)
