"""docs/submission-format.md says of every field what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest

from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.card_schema import card_schema
from m2kr_leaderboard.card_yaml import MOST_BYTES
from m2kr_leaderboard.packed_form import MOST_README, MOST_RUN, MOST_TOGETHER

PAGE = (Path(__file__).parents[2] / "docs" / "submission-format.md").read_text(encoding="utf-8")
FIELDS = card_schema()["properties"]
TABLES: dict[str, dict[str, Any]] = {
    "## The card": card_schema(),
    "### An entry of `training_data`": FIELDS["training_data"]["items"],
    "### `links`": FIELDS["links"],
    "### A run": FIELDS["runs"]["items"],
    "### `cost` of a run": FIELDS["runs"]["items"]["properties"]["cost"],
}
LIMITS = ("maxLength", "maxItems")


def _rows(heading: str) -> dict[str, tuple[str, str]]:
    """By field whether it is needed, and its rule."""
    section = PAGE.partition(f"\n{heading}\n")[2]
    section = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| .+ \|$", section, re.MULTILINE)
    return {name: (needed, rule) for name, needed, rule in rows}


@pytest.mark.parametrize("heading", TABLES)
def test_the_tables_have_the_fields_of_the_code(heading: str) -> None:
    rule, rows = TABLES[heading], _rows(heading)
    assert rows.keys() == rule["properties"].keys()
    assert {name for name, (needed, _) in rows.items() if needed == "yes"} == {*rule["required"]}


@pytest.mark.parametrize("heading", TABLES)
def test_the_rules_name_limits_and_choices(heading: str) -> None:
    for name, (_, said) in _rows(heading).items():
        rule = TABLES[heading]["properties"][name]
        for one in (rule, *rule.get("anyOf", ())):
            numbers = [one[key] for key in LIMITS if key in one]
            numbers += (
                [one["maximum"]] if one.get("type") in ("integer", ["integer", "null"]) else []
            )
            for number in numbers:
                assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", said), (name, number)
            for choice in one.get("enum", ()) if "anyOf" not in rule else ():
                assert f"`{choice}`" in said, (name, choice)


def test_it_names_the_limits_of_files() -> None:
    for size in (MOST_BYTES >> 10, MOST_README >> 10):
        assert f"at most {size} KiB" in PAGE
    assert f"at most {MOST_RUN >> 20} MiB each, {MOST_TOGETHER >> 30} GiB together" in PAGE


def test_the_example_is_a_card(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "system.yaml").write_text(example, encoding="utf-8")
    card = read_card(tmp_path / "system.yaml")
    assert card.name == "letters"
    named = set(re.findall(r"^(\w+):", example, re.MULTILINE))
    assert named == FIELDS.keys()
