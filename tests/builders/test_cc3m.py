"""CC3M: where it comes from, its instructions, and files that are others or damaged.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.faulty_server import FaultyServer
from support.upstream_fixture import Served, text

from m2kr.building.build import Built, build
from m2kr.building.content import rows_in
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildContext
from m2kr.data.rows import open_shards
from m2kr.errors import InputError, M2KRError
from m2kr.instructions import TEMPLATES, templates_of
from m2kr_builders import cc3m

PATH = f"/{cc3m.CHAT}"


def item(number: int, **changes: Any) -> dict[str, Any]:
    """An item as upstream has it."""
    own = f"GCC_train_{number:09d}"
    turns = [
        {"from": "human", "value": "Describe the image concisely.\n<image>"},
        {"from": "gpt", "value": f"a picture of number {number}"},
    ]
    return {"id": own, "image": f"{own}.jpg", "conversations": turns} | changes


def built(root: Path, content: bytes, **choices: Any) -> Built:
    with FaultyServer({PATH: content}) as server:
        return build(Served("cc3m", server.url("")), root, **choices)


def instructions(edition: Built) -> dict[str, str]:
    table = open_shards(edition.folder / "CC_data" / "train").to_pylist()
    return {row["question_id"]: row["instruction"] for row in table}


def test_instructions_are_drawn_or_the_prompts_beside_the_captions(tmp_path: Path) -> None:
    content = text("cc3m/chat.json")
    drawn = instructions(built(tmp_path / "drawn", content))
    assert set(drawn.values()) <= set(TEMPLATES["caption"].templates)
    seeded = instructions(built(tmp_path / "seeded", content, seed=3))
    assert seeded.keys() == drawn.keys() and seeded != drawn
    chat = instructions(built(tmp_path / "chat", content, options={"instruction": "chat"}))
    assert chat == {
        "GCC_train_000000123": "Describe the image concisely.:",
        "GCC_train_000000456": "Provide a brief description of the given image.:",
        "GCC_train_000000457": "Write a terse but informative summary of the picture.:",
        "GCC_train_000000500": "Present a compact description of the photo's key features.:",
        "GCC_train_000000512": "Give a short and clear explanation of the subsequent image.:",
    }


def test_the_file_is_that_of_a_pinned_commit_on_the_hub_or_its_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = (
        "datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K/resolve/"
        "814894e93db9e12a1dee78b9669e20e8606fd590/chat.json"
    )
    for endpoint, base in (("", "https://huggingface.co"), ("http://mirror/", "http://mirror")):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        (asset,) = cc3m.BUILDER().assets({})
        assert asset.urls == (f"{base}/{name}",)


def test_the_same_file_twice_gives_one_row_an_id(tmp_path: Path) -> None:
    items = [item(n) for n in range(50)]
    edition = built(tmp_path, json.dumps(items + items).encode())
    facts = edition.manifest["tables"]["CC_data/train"]
    assert facts["rows"] == 50
    assert facts["ledger"]["dropped"] == {"an id used twice": 50}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", ("not one item is as it should be", '"conversations"')),
        (json.dumps([item(1, image=7)]).encode(), ("not one item is as it should be",)),
        (json.dumps({"1": item(1)}).encode(), ("this is a JSON object",)),
        (b"version https://git-lfs.github.com/spec/v1\n", ("no JSON object or list",)),
        (json.dumps([item(n) for n in range(99)]).encode()[:9000], ("cut short",)),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        built(tmp_path, content)
    message = str(caught.value)
    assert all(word in message for word in ("chat.json", "expected", *words)), message
    assert not list(tmp_path.glob("*/*_manifest.json"))


def test_a_look_at_the_first_bytes() -> None:
    (asset,) = cc3m.BUILDER().assets({})
    whole = json.dumps([item(n) for n in range(1000)]).encode()
    for size in (len(whole), 100_000, 70_000):
        found = rows_in(whole[:size], asset.name, asset.shape, whole=size == len(whole))
        assert found is not None and found > 200, size


Value = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
Turn = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt"]) | Value, "value": Value},
    optional={"weight": Value},
)
Changes = st.fixed_dictionaries(
    {}, optional={"id": Value, "image": Value, "conversations": st.lists(Turn) | Value}
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("cc3m") / "chat.json"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), Changes), max_size=6), Value)
def test_items_of_any_kind_are_accounted_for(
    path: Path, items: list[tuple[int, dict[str, Any]]], value: Any
) -> None:
    document = [value, *(item(number, **changes) for number, changes in items)]
    path.write_text(json.dumps(document))
    options, templates = resolve_options(cc3m.SOURCE, {}), templates_of("cc3m")
    found = []
    for make, table in (
        (cc3m.BUILDER().passages, "train_passages"),
        (cc3m.BUILDER().queries, "train"),
    ):
        ledger = Ledger(table)
        context = BuildContext(cc3m.SOURCE, {cc3m.CHAT: path}, ledger, options, templates=templates)
        try:
            found.append([dict(row) for row in make(context, table)])
        except M2KRError as error:
            assert "not one item" in str(error)
            return
        flow = ledger.close()["inputs"]["chat.json"]
        assert flow["read"] == len(document)
        assert flow["used"] == flow["rows"] == len(found[-1])
    passages, queries = found
    ids = [row["passage_id"] for row in passages]
    assert ids == [row["question_id"] for row in queries] and len(set(ids)) == len(ids)
    assert all(row["passage_content"].strip() and row["img_path"] for row in passages)
