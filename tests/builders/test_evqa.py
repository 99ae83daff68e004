"""E-VQA: pools over knowledge bases of any kind, and CSV files of any order of columns.

Its tables, ledger and counts are tested with those of all sources (``test_sources_one.py``).
"""

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.upstream_fixture import text, zipped

from m2kr.building.content import check_content
from m2kr.building.ledger import Ledger
from m2kr.building.options import resolve_options
from m2kr.building.spec import BuildContext
from m2kr.errors import InputError
from m2kr.instructions import templates_of
from m2kr_builders import evqa

SPLITS = ("train", "valid", "test")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("evqa")


def question(url: str, section: int, number: int) -> dict[str, str]:
    """A row of the CSV."""
    return {
        "wikipedia_title": "any",
        "wikipedia_url": url,
        "question_original": "?",
        "question": f"what is {number}?",
        "question_type": "automatic",
        "answer": "this|that",
        "evidence": "",
        "evidence_section_id": str(section),
        "evidence_section_title": "any",
        "dataset_name": "landmarks",
        "dataset_category_id": "1",
        "wikipedia_url_used_in_train": "True",
        "encyclopedic_vqa_split": "any",
        "dataset_image_ids": "0a1b2c3d4e5f6071|1a1b2c3d4e5f6071",
    }


COLUMNS = tuple(question("", 0, 0))


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, bom: bool = False) -> bytes:
    """A CSV file with these columns in this order."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, columns, restval="more", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return ("\ufeff" * bom + out.getvalue()).encode()


def context(folder: Path, files: Mapping[str, bytes], shared: int, scratch: Path) -> BuildContext:
    paths = {}
    for name, body in files.items():
        paths[name] = folder / Path(name).name
        paths[name].write_bytes(body)
    options = resolve_options(evqa.SOURCE, {"shared_passages": str(shared)})
    templates = templates_of("evqa")
    return BuildContext(evqa.SOURCE, paths, Ledger("x"), options, 0, scratch, templates=templates)


# Pages of few titles and texts, so that ids and passages repeat, and questions about their sections.
PAGES = st.lists(
    st.tuples(st.sampled_from("AB"), st.lists(st.sampled_from(["", "p", "q", "r"]), max_size=4)),
    max_size=7,
)
ASKED = st.tuples(*(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=4),) * 3)


@settings(max_examples=60, deadline=None)
@given(PAGES, ASKED, st.integers(0, 12))
def test_one_passage_id_is_one_page_over_all_pools(
    folder: Path, pages: list[tuple[str, list[str]]], asked: Any, base: int
) -> None:
    base_of_urls = {
        f"https://x/{n}": {"title": title, "section_titles": ["h"] * len(t), "section_texts": t}
        for n, (title, t) in enumerate(pages)
    }
    files = {evqa.KB: zipped("encyclopedic_kb_wiki.json", json.dumps(base_of_urls).encode())}
    for split, about in zip(SPLITS, asked, strict=True):
        rows = [
            question(f"https://x/{page}", section, n) for n, (page, section) in enumerate(about)
        ]
        files[f"evqa/{evqa.csv_name(split)}"] = table(rows, COLUMNS)
    ctx = context(folder, files, base, Path(tempfile.mkdtemp(dir=folder)))
    pools: dict[str, dict[str, tuple[str, str]]] = {}
    for split in SPLITS:
        rows = [dict(row) for row in evqa.BUILDER().passages(ctx, f"{split}_passages")]
        pools[split] = {row["passage_id"]: (row["url"], row["passage_content"]) for row in rows}
        assert len(pools[split]) == len(rows), "ids are unique"
    for split, about in zip(SPLITS, asked, strict=True):
        held = pools[split]
        assert all(
            pools[s][own] == said for s in SPLITS for own, said in held.items() if own in pools[s]
        )
        passages = {(own.partition("#")[0], said) for own, said in held.items()}
        assert len(passages) == len(held), "and so are passages"
        told = {}
        for row in evqa.BUILDER().queries(ctx, split):
            _, said = held[row["pos_item_ids"][0]]
            told[row["question"]] = said
        for n, (page, section) in enumerate(about):
            title, texts = pages[page] if page < len(pages) else ("", [])
            there = section < len(texts) and texts[section]
            expected = (
                f"title: {title} section title: h content: {texts[section]}" if there else None
            )
            assert told.get(f"what is {n}?") == expected
    distinct = {(title, n, said) for title, texts in pages for n, said in enumerate(texts) if said}
    evidence = {
        (pages[page][0], section, pages[page][1][section])
        for page, section in asked[0]
        if page < len(pages) and section < len(pages[page][1]) and pages[page][1][section]
    }
    # Train's evidence, filled up to the size that is asked for as far as there are passages.
    assert len(pools["train"]) == max(len(evidence), min(base, len(distinct)))


def read(folder: Path, body: bytes) -> tuple[list[Any], Ledger]:
    ledger = Ledger("x")
    ctx = replace(context(folder, {"evqa/test.csv": body}, 5, folder), ledger=ledger)
    return list(evqa.single_hop_questions(ctx, "test")), ledger


@settings(max_examples=40, deadline=None)
@given(st.permutations([*COLUMNS, "", "more"]), st.sets(st.integers(0, 15)), st.booleans())
def test_columns_are_taken_by_name(
    folder: Path, order: list[str], gone: set[int], bom: bool
) -> None:
    rows = [question(f"https://x/{n}", n, n) for n in range(3)]
    expected, _ = read(folder, table(rows, COLUMNS))
    assert [asked.section for asked in expected] == [(f"https://x/{n}", n) for n in range(3)]
    left = [name for n, name in enumerate(order) if n not in gone]
    lacking = set(evqa.COLUMNS) - set(left)
    asset = next(a for a in evqa.BUILDER().assets({}) if a.name == "evqa/test.csv")
    if lacking:
        with pytest.raises(InputError, match="has no column"):
            read(folder, table(rows, left, bom=bom))
        with pytest.raises(InputError, match="has no column"):
            check_content(asset, folder / "test.csv")
        return
    assert read(folder, table(rows, left, bom=bom))[0] == expected
    check_content(asset, folder / "test.csv")


def test_the_fixtures_have_the_files_true_order_of_columns() -> None:
    for split in ("train", "val", "test"):
        assert text(f"evqa/{split}.csv").split(b"\n")[0].decode().split(",") == list(COLUMNS)
