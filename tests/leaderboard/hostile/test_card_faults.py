"""What is told of a card with several faults: each once, and nothing that follows from another."""

import os
from dataclasses import asdict
from pathlib import Path

import hostile_cards
import pytest
from hostile_kit import CASES, Folder, Place, copy_of

from m2kr_leaderboard.card_reader import read_card
from m2kr_leaderboard.card_update import is_filled, read_fields, update_card
from m2kr_leaderboard.problems import SubmissionRefused
from m2kr_leaderboard.submission import open_submission
from m2kr_leaderboard.system_card import FORMAT, fields_as_yaml


def _faults(folder: Folder) -> list[str]:
    with pytest.raises(SubmissionRefused) as refused:
        read_card(folder.card_path)
    return [str(problem) for problem in refused.value.problems]


def test_it_says_how_many_faults_are_not_shown(place: Place, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path)
    folder.set("authors", ["A" * 81 + str(i) for i in range(45)])
    faults = _faults(folder)
    assert len(faults) == 31
    assert "and 15 more faults" in faults[-1]
    folder.set("authors", ["A" * 81 + str(i) for i in range(30)])
    assert len(_faults(folder)) == 30


@pytest.mark.parametrize("before", [0, 45])
def test_a_faulty_run_is_that_fault_alone(before: int, place: Place, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path)
    if before:  # beyond what is shown
        folder.set("authors", ["A" * 81 + str(i) for i in range(before)])
    folder.set("runs/0/k", "deep")
    faults = _faults(folder)
    if before:
        assert f"and {before + 1 - 30} more faults" in faults[-1]
    else:
        assert len(faults) == 1
        assert "runs[0].k: it is 'deep'" in faults[0]


def test_a_run_whose_source_is_faulty_makes_no_flag_wrong(place: Place, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path)
    folder.set("runs/0/source", "../alpha")
    assert not [fault for fault in _faults(folder) if "zero_shot" in fault]


def test_an_unknown_field_is_named_without_a_point_behind(place: Place, tmp_path: Path) -> None:
    folder = copy_of(place.valid, tmp_path)
    folder.set("runs/0/depth", 3)
    (fault,) = _faults(folder)
    assert "runs[0]: there is no field 'depth'" in fault


@pytest.mark.slow
def test_bringing_any_card_up_to_date_loses_nothing_that_is_said_in_it(
    place: Place, tmp_path: Path
) -> None:
    fresh = {"format": FORMAT} | asdict(read_card(place.valid / "system.yaml"))
    fresh |= {"title": "fresh", "links": {}, "runs": fresh["runs"][:1]}
    updated = 0
    for number, case in enumerate(CASES.values()):
        if case.spoil.__module__ != hostile_cards.__name__:
            continue
        folder = Folder(tmp_path / str(number))
        folder.path.mkdir()
        folder.card_path.write_bytes((place.valid / "system.yaml").read_bytes())
        case.spoil(folder)
        old = folder.card_path.read_bytes()
        try:
            before = read_fields(old)
        except SubmissionRefused:
            with pytest.raises(SubmissionRefused):
                update_card(old, fresh, ())
            continue
        after = read_fields(update_card(old, fresh, ()).text.encode())
        updated += 1
        for key in before:
            if key not in ("runs", "zero_shot", "m2kr_version") and is_filled(before, key):
                assert after[key] == before[key], case.name
    assert updated > 150


def test_odd_keys_and_words_of_a_card_stay_what_they_are() -> None:
    old = 'title: 1.10\n"a: b #": {"\\u202e": "\\ufeffx", "": [null, "null"]}\nnote: >\n  folded\n  text\n'
    update = update_card(old.encode(), {"version": "1", "runs": [], "zero_shot": {}}, ())
    fields = read_fields(update.text.encode())
    assert fields["title"] == "1.10"
    assert fields["a: b #"] == {"\u202e": "\ufeffx", "": ["null", "null"]}
    assert fields["note"] == "folded text\n"
    assert fields["version"] == "1"
    assert read_fields(fields_as_yaml(fields).encode()) == fields


def test_runs_that_name_no_split_stay_for_the_check_to_tell(place: Place) -> None:
    card = Folder(place.valid).card_path.read_bytes()
    fresh = {"format": FORMAT} | asdict(read_card(place.valid / "system.yaml"))
    with_half = card.replace(b"runs:\n", b"runs:\n- source: gamma\n", 1)
    runs = read_fields(update_card(with_half, fresh, ()).text.encode())["runs"]
    assert [run["source"] for run in runs] == ["alpha", "beta", "gamma"]


def test_files_that_have_a_second_name_elsewhere_are_files(place: Place, tmp_path: Path) -> None:
    # Copies by ``cp -al`` and installers' caches make such; nothing of another's is reached by them.
    folder = copy_of(place.valid, tmp_path)
    os.link(folder.card_path, tmp_path / "same.yaml")
    assert open_submission(folder.path).sha256 == open_submission(place.valid).sha256
