"""KVQA: what its options change, how test is drawn, and files that are others or damaged.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import io
import json
import random
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FaultyServer
from support.upstream_fixture import Served, text

from m2kr import load
from m2kr.building.build import Built, build
from m2kr.building.content import rows_in
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildContext
from m2kr.data.rows import open_shards
from m2kr.errors import InputError, M2KRError, UpstreamError
from m2kr.instructions import templates_of
from m2kr_builders import kvqa

PATH = f"/{kvqa.DATASET}"
Rows = list[dict[str, Any]]


def record(number: int, questions: int, sets: list[int], **changes: Any) -> dict[str, Any]:
    """A record as upstream has it."""
    said = {
        "NamedEntities": [f"Person {number}"],
        "Qids": [f"Q{number}"],
        "imgPath": f"KVQAimgs/{number}.jpg",
        "wikiCap": f"Person {number} at home.",
        "Questions": [f"Question {i}?" for i in range(questions)],
        "ParaQuestions": [f"Other words {i}?" for i in range(questions)],
        "Answers": [f"Answer {i}" if i % 2 else i for i in range(questions)],
        "Type of Question": [["1-hop"]] * questions,
        "split": sets,
    }
    return said | changes


def upstream(images: int, *, seed: int = 0) -> dict[str, Any]:
    """Images of one to eleven questions, in sets of 70, 10 and 20 per cent."""
    draw = random.Random(seed)
    return {
        str(n): record(
            n, draw.randint(1, 11), [draw.choices((1, 2, 3), (70, 10, 20))[0] for _ in range(5)]
        )
        for n in range(images)
    }


def built(root: Path, data: Any, seed: int = 0, **options: str) -> Built:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    with FaultyServer({PATH: body}) as server:
        return build(Served("kvqa", server.url("")), root, options=options, seed=seed)


def rows(edition: Built, table: str) -> Rows:
    return open_shards(edition.folder / f"KVQA_{table}").to_pylist()  # type: ignore[no-any-return]


def asked(edition: Built, split: str) -> set[str]:
    return {row["question_id"] for row in rows(edition, f"data/{split}")}


def shown(edition: Built, pool: str) -> set[str]:
    return {row["img_id"] for row in rows(edition, f"passages/{pool}_passages")}


DATA = upstream(300)


@pytest.mark.parametrize(
    ("fold", "held", "numbers"),
    [(0, "val", {2}), (3, "val", {2}), (3, "test", {3}), (4, "both", {2, 3})],
)
def test_sets_are_those_of_the_fold(
    tmp_path: Path, fold: int, held: str, numbers: set[int]
) -> None:
    edition = built(tmp_path, DATA, fold=str(fold), held_out=held, test_queries="40")
    of = {key: each["split"][fold] for key, each in DATA.items()}
    assert shown(edition, "train") == {key for key, number in of.items() if number == 1}
    held_out = {key for key, number in of.items() if number in numbers}
    assert shown(edition, "valid") == shown(edition, "test") == held_out
    for split, wanted in (("train", {1}), ("valid", numbers), ("test", numbers)):
        assert {of[row["img_id"]] for row in rows(edition, f"data/{split}")} == wanted


def test_valid_and_test_are_all_held_out_queries(tmp_path: Path) -> None:
    edition = built(tmp_path, DATA, test_queries="40")
    valid, test = asked(edition, "valid"), asked(edition, "test")
    assert len(test) == 40
    assert not valid & test
    every = {
        f"KVQA_{key}_{i}"
        for key, each in DATA.items()
        if each["split"][0] == 2
        for i in range(min(4, len(each["Questions"])))
    }
    assert valid | test == every
    for split in ("train", "valid", "test"):
        for row in rows(edition, f"data/{split}"):
            assert row["pos_item_ids"] == [row["question_id"].rpartition("_")[0]]


def test_the_draw_of_test_depends_on_seed_and_id_alone(tmp_path: Path) -> None:
    def test_of(name: str, data: dict[str, Any], seed: int = 0) -> set[str]:
        return asked(built(tmp_path / name, data, seed, test_queries="40"), "test")

    plain = test_of("plain", DATA)
    assert test_of("turned", dict(reversed(DATA.items()))) == plain
    assert test_of("seeded", DATA, seed=1) != plain
    more = DATA | {str(n): record(n, 4, [2] * 5) for n in range(1000, 1050)}
    old = {own for own in test_of("more", more) if not own.startswith("KVQA_10")}
    assert old < plain | {own for own in plain if own.startswith("KVQA_10")}


def test_valid_keeps_at_least_half(tmp_path: Path) -> None:
    edition = built(tmp_path, DATA)  # 5,120 are more than there are
    counts = [len(asked(edition, split)) for split in ("valid", "test")]
    assert counts[1] == sum(counts) // 2


@pytest.mark.parametrize("most", [1, 2, 20])
def test_questions_are_queries_and_statements(tmp_path: Path, most: int) -> None:
    edition = built(tmp_path, DATA, questions=str(most))
    times = Counter(row["img_id"] for row in rows(edition, "data/train"))
    for row in rows(edition, "passages/train_passages"):
        each = DATA[row["img_id"]]
        said = min(most, len(each["Questions"]))
        assert times[row["img_id"]] == said
        assert row["passage_content"].startswith(each["wikiCap"])
        assert row["passage_content"].count("Question ") == said
        assert "Other words" not in row["passage_content"]


@pytest.mark.parametrize(
    ("caption", "statements", "expected"),
    [
        ("Ada.", [], "Ada."),
        ("Ada", [("Who?", "Ada")], "Ada. Who? Ada."),
        ("Ada!", [("Who?", "Ada B.")], "Ada! Who? Ada B."),
        ("Ada?", [("Who", "1"), ("A?", "b?")], "Ada? Who 1. A? b?"),
    ],
)
def test_layout(caption: str, statements: list[tuple[str, str]], expected: str) -> None:
    assert kvqa.KVQA.layout(caption, statements) == expected


def test_odd_values_cost_their_own_record_at_most(tmp_path: Path) -> None:
    data = {str(n): record(n, 3, [2] * 5) for n in range(8)}
    nan, far = float("nan"), float("inf")
    data["1"]["Answers"] = [nan, "x", -far]
    data["2"]["wikiCap"] = "NaN is said; so is -Infinity"
    data["3"]["wikiCap"] = nan
    data["4"]["Type of Question"] = [["1-hop"]]
    data["5"]["Answers"] = [1, "two", 3.5]
    data["6"]["NamedEntities"] = nan
    data["7"] = nan  # type: ignore[assignment]
    edition = built(tmp_path, data)
    pool = {row["img_id"]: row for row in rows(edition, "passages/test_passages")}
    assert sorted(pool) == ["0", "1", "2", "4", "5", "6"]
    assert pool["1"]["passage_content"] == "Person 1 at home. Question 1? x."
    assert pool["2"]["passage_content"].startswith("NaN is said; so is -Infinity. ")
    assert pool["5"]["passage_content"].endswith("Question 0? 1. Question 1? two. Question 2? 3.5.")
    ledger = edition.manifest["tables"]["KVQA_passages/valid_passages"]["ledger"]
    assert ledger["dropped"] == {"no caption": 1, "no record": 1}
    assert ledger["repaired"] == {"a question or an answer without text": 1}


@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".png", ".PNG", ".jpeg"])
def test_images_are_found_in_upstreams_archive(tmp_path: Path, ending: str) -> None:
    data = {str(n): record(n, 2, [2] * 5, imgPath=f"KVQAimgs/{n}{ending}") for n in range(4)}
    edition = built(tmp_path / "data", data)
    packed = tmp_path / "KVQAimgs.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for n in range(4):
            info = tarfile.TarInfo(f"KVQAimgs/{n}{ending}")
            info.size = len(IMAGE)
            archive.addfile(info, io.BytesIO(IMAGE))
    with pytest.raises(InputError) as caught:
        load("kvqa", "test", data=tmp_path / "data", images=[packed]).images.exists(f"0{ending}")
    # What the message says to do:
    assert f"gunzip -k '{packed}', then give the result" in str(caught.value)
    subprocess.run(["gunzip", "-k", str(packed)], check=True)
    with tarfile.open(packed.with_suffix("")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for root in (packed.with_suffix(""), tmp_path / "unpacked", tmp_path / "unpacked" / "KVQAimgs"):
        split = load("kvqa", "test", data=tmp_path / "data", images=[root])
        found = [split.images.exists(row["img_path"]) for row in rows(edition, "data/test")]
        assert found and all(found), root


IMAGE = b"any bytes"
OLDER = {"1": {k: v for k, v in record(1, 2, []).items() if k not in {"imgPath", "split"}}}
OLDER["1"]["sourcePath"] = "images/1.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (OLDER, ("KVQA's older release", '"split"', "replace it by http://dosa")),
        ({"1": record(1, 2, [1, 1])}, ("not one record is as it should be", '"imgPath"')),
        ({}, ("not one record is as it should be",)),
        ([record(1, 2, [1] * 5)], ("this is a JSON list",)),
        (b"busy, try again\n", ("no JSON object",)),
        (json.dumps(DATA).encode()[:5000], ("cut short", "byte offset 5,000")),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        built(tmp_path, content)
    message = str(caught.value)
    assert all(word in message for word in ("dataset.json", *words)), message
    assert "expected" in message
    assert not list(tmp_path.glob("*/*_manifest.json"))


def test_a_server_that_is_down_leads_to_the_file_by_hand(tmp_path: Path) -> None:
    with FaultyServer({}) as server, pytest.raises(UpstreamError) as caught:
        build(Served("kvqa", server.url("")), tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "downloads" / "kvqa" / "dataset.json") in message
    assert "slow university server" in message and "opendatalab.com" in message
    place = tmp_path / "downloads" / "kvqa" / "dataset.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text("kvqa/dataset.json"))
    assert build(Served("kvqa", "http://127.0.0.1:9"), tmp_path).manifest["splits"]


def test_a_look_at_the_first_bytes() -> None:
    (asset,) = kvqa.BUILDER().assets({})
    whole = json.dumps(DATA).encode()
    for size in (len(whole), 200_000, 70_000):
        found = rows_in(whole[:size], asset.name, asset.shape, whole=size == len(whole))
        assert found is not None and found > 100, size


Value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 4)
    | st.floats()  # json.dumps writes NaN and Infinity, too
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
Changes = st.dictionaries(st.sampled_from(kvqa.KEYS), Value, max_size=3)
Gone = st.sets(st.sampled_from(kvqa.KEYS), max_size=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("kvqa") / "dataset.json"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(Changes, Gone, st.integers(1, 3)), max_size=6), Value)
def test_records_of_any_kind_are_accounted_for(
    path: Path, records: list[tuple[dict[str, Any], set[str], int]], value: Any
) -> None:
    document: dict[str, Any] = {"none": value}
    for number, (changes, gone, part) in enumerate(records):
        each = record(number, 3, [part] * 5, **changes)
        document[str(number)] = {k: v for k, v in each.items() if k not in gone}
    path.write_text(json.dumps(document))
    tables = ("train_passages", "test_passages", "train", "valid", "test")
    found: dict[str, Rows] = {}
    for table in tables:
        context = BuildContext(
            kvqa.SOURCE,
            {kvqa.DATASET: path},
            ledger := Ledger(table),
            resolve_options(kvqa.SOURCE, {}),
            templates=templates_of("kvqa"),
        )
        make = kvqa.BUILDER().passages if "_" in table else kvqa.BUILDER().queries
        try:
            found[table] = [dict(row) for row in make(context, table)]
        except M2KRError as error:
            assert "not one record" in str(error)
            return
        flow = ledger.close()["inputs"]["dataset.json"]
        assert flow["read"] == len(document)
        assert flow.get("rows", 0) == len(found[table])
    held = {row["passage_id"] for row in found["test_passages"]}
    assert {i for s in ("valid", "test") for r in found[s] for i in r["pos_item_ids"]} <= held
    texts = [r["passage_content"] for t in ("train_passages", "test_passages") for r in found[t]]
    assert all(texts)
