"""The JSON Schema of cards: made by the code, it takes what the check takes, and refuses what it can."""

from pathlib import Path

import hostile_cards
import pytest
import yaml
from hostile_kit import CASES, Folder, Place, copy_of

from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.card_schema import SCHEMA_FILE, card_schema, card_schema_json
from m2kr_leaderboard.problems import SubmissionRefused
from m2kr_leaderboard.scoring import packaged_submissions

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

# What the check refuses in cards and no schema can, as docs/submission-format.md says.
BEYOND = {
    # characters, of which Unicode says more than a pattern
    "a noncharacter in title",
    "a combining letter that isn't composed in title",
    "a hundred accents in title",
    # fields that must agree
    "training data twice by another name",
    "a zero-shot flag of no run",
    "a zero-shot flag that lacks",
    "a_zero_shot_claim_beside_training_data_of_that_source",
    # words that YAML's own types take for numbers
    "a cost that is no number",
    "a claim that is no number",
    "parameters with a leading zero",
    "parameters in hexadecimal",
    "parameters in sixties",
    "parameters with underscores",
}


def test_the_file_is_what_the_code_makes() -> None:
    made = "from m2kr_leaderboard.card_schema import *; SCHEMA_FILE.write_text(card_schema_json())"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == card_schema_json(), f"python -c '{made}'"
    jsonschema.Draft202012Validator.check_schema(card_schema())


def test_it_takes_what_the_check_takes(place: Place) -> None:
    validator = jsonschema.Draft202012Validator(card_schema())
    folders = [*packaged_submissions(), place.valid]
    for card in (folder / "system.yaml" for folder in folders):
        facts = yaml.safe_load(card.read_text(encoding="utf-8"))
        assert [error.message for error in validator.iter_errors(facts)] == [], card


@pytest.mark.slow
def test_it_refuses_what_the_check_refuses_in_single_fields(place: Place, tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(card_schema())
    taken, refused = set(), 0
    for number, (name, case) in enumerate(CASES.items()):
        if "card" not in case.checks or case.spoil.__module__ != hostile_cards.__name__:
            continue
        folder = Folder(tmp_path / str(number))
        folder.path.mkdir()
        folder.card_path.write_bytes((place.valid / "system.yaml").read_bytes())
        case.spoil(folder)
        with pytest.raises(SubmissionRefused) as problems:
            read_card(folder.card_path)
        if any(problem.check != "card" for problem in problems.value.problems):
            continue  # it is no YAML of ours, or too long
        refused += 1
        if validator.is_valid(yaml.safe_load(folder.card_path.read_text(encoding="utf-8"))):
            taken.add(name)
    assert taken == BEYOND
    assert refused > 150


def test_it_is_not_stricter_than_the_check_about_what_is_open(place: Place, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path)
    folder.set("parameters", None)
    folder.set("training_data", [])
    folder.set("note", None)
    folder.set("links", {})
    folder.set("runs/0/cost", {"seconds_per_query": None, "device": None})
    folder.set("title", "日本 ünïcode, 0–9 (v2)")
    read_card(folder.card_path)
    jsonschema.Draft202012Validator(card_schema()).validate(folder.card)
