"""Instructions of the release: stored for the builds of the same source."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.release_fixture import made, rows_of

from m2kr.building.build import build
from m2kr.building.templates import registered_templates
from m2kr.errors import InputError
from m2kr.instructions import templates_of


def test_instructions_go_to_the_registry_if_counts_are_checked(
    files: Path, root: Path, tmp_path: Path, counted: None
) -> None:
    assert not (root / "instructions.json").exists()
    for name in ("kvqa", "msmarco", "evqa"):
        made(name, files, tmp_path)
    stored = json.loads((tmp_path / "instructions.json").read_text())
    who, name = "Who is in this picture? Find the text about them: ", "Name the people shown: "
    assert stored["kvqa"]["templates"] == [[who, 9], [name, 6]]
    assert stored["kvqa"]["origin"] == "the release, local files"
    now = registered_templates("kvqa", tmp_path)
    assert now is not None
    assert now.templates == (who, name)
    assert now.confidence == "high"
    assert now.choose("a") in {who, name}
    assert registered_templates("kvqa", root) == templates_of("kvqa")
    assert registered_templates("oven", tmp_path) == templates_of("oven")


def test_a_sources_build_uses_the_releases_instructions(
    files: Path, tmp_path: Path, counted: None
) -> None:
    from support import toy_builder

    class Kvqa(toy_builder.ToyBuilder):
        source = dataclasses.replace(toy_builder.ToyBuilder.source, name="kvqa", config="TOYKVQA")

        def queries(self, ctx: Any, split: str) -> Any:
            for row in super().queries(ctx, split):
                yield row | {"instruction": ctx.instruction(row["question_id"])}

    def drawn() -> set[str]:
        built = build(Kvqa(rows=40), tmp_path)
        return {r["instruction"] for r in rows_of(tmp_path, "TOYKVQA_data/test", built.folder.name)}

    builtin = templates_of("kvqa")
    assert builtin is not None
    assert drawn() == set(builtin.templates)
    made("kvqa", files, tmp_path)
    assert drawn() == {
        "Who is in this picture? Find the text about them: ",
        "Name the people shown: ",
    }


def test_the_built_in_list_keeps_its_weights_if_the_release_has_the_same_texts(
    files: Path, tmp_path: Path, counted: None
) -> None:
    made("oven", files, tmp_path)
    assert len(json.loads((tmp_path / "instructions.json").read_text())["oven"]["templates"]) == 7
    own, builtin = registered_templates("oven", tmp_path), templates_of("oven")
    assert own is not None
    assert builtin is not None
    assert own.templates == builtin.templates
    assert own.origin == "the release, local files"


def test_a_damaged_registry_says_so(tmp_path: Path) -> None:
    (tmp_path / "instructions.json").write_text('{"kvqa": {"templates": [["x"]], "origin": "o"}}')
    with pytest.raises(InputError, match=r"instructions\.json"):
        registered_templates("kvqa", tmp_path)
