"""``--align release``: upstream's rows held to the release's, gaps told, nothing unaccounted for."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.release_fixture import ALL, CONFIGS
from support.upstream_stubs import stub

import m2kr
from m2kr.building.build import Built, build
from m2kr.building.release.aligned import AlignedBuilder
from m2kr.building.release.builder import ReleaseBuilder
from m2kr.building.verify import verify
from m2kr.data.rows import open_shards
from m2kr.errors import CheckError, UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which releases are built once; aligned builds go to editions of their own."""
    return tmp_path_factory.mktemp("aligned")


def aligned(
    name: str, files: Path, root: Path, *, release: dict[str, Any] | None = None, **how: Any
) -> Built:
    """An aligned build over a stub; what the stub doesn't take goes to the build."""
    words = ("keys", "lose", "rename", "batches")
    inner = stub(name, **{k: how.pop(k) for k in words if k in how})
    options = {"any_counts": True} | (release or {})
    return build(AlignedBuilder(name, ReleaseBuilder(name, files, **options), inner), root, **how)


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_shards(folder / name).to_pylist()
    return rows


def faults(folder: Path, config: str) -> set[tuple[Any, ...]]:
    rows = pq.read_table(folder / f"{config}_ledger.parquet").to_pylist()
    return {(r["table"], r["action"], r["rule"], r["file"], r["row"], r["detail"]) for r in rows}


@pytest.mark.parametrize("name", ALL)
def test_ids_and_fingerprints_are_the_releases(files: Path, root: Path, name: str) -> None:
    built = aligned(name, files, root)
    assert (built.folder.name, built.manifest["route"]) == ("aligned", "aligned")
    split = next(iter(built.manifest["splits"]))
    release = m2kr.load(name, split, edition="m2kr", data=root).manifest
    assert built.manifest["fingerprints"] == release["fingerprints"]
    assert built.manifest["aligned"] == {"release": release["fingerprints"], "differ": []}
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]
    for kind, column in (("data", "question_id"), ("passages", "passage_id")):
        for each in {t.split("/")[1] for t in release["tables"] if f"_{kind}/" in t}:
            where = f"{CONFIGS[name]}_{kind}/{each}"
            own, theirs = table(built.folder, where), table(root / "m2kr", where)
            assert sorted(r[column] for r in own) == sorted(r[column] for r in theirs)
            assert [r[column] for r in own] != [r[column] for r in theirs]  # upstream's order
            flows = built.manifest["tables"][where].get("inputs")
            if flows is None:  # a pool copied from an equal one
                assert kind == "passages"
                continue
            assert flows["release"] == {"read": len(theirs), "used": len(theirs), "rows": 0}
            assert flows["upstream.txt"]["read"] == flows["rows of the sources route"]["read"]
            kept = flows["rows of the sources route"]
            assert kept["used"] + kept["filtered"] == kept["read"]
            assert kept["used"] == len(own) < kept["read"]
    names = {entry["name"] for entry in built.manifest["inputs"]}
    assert names == {entry["name"] for entry in release["inputs"]}


def test_a_release_that_is_not_comparable_makes_no_comparable_build(
    files: Path, root: Path
) -> None:
    assert "row counts were not checked" in aligned("llava", files, root).manifest["comparable"]


@pytest.mark.parametrize("ending", [False, True])
def test_other_images_than_the_releases_do_not_compare(
    files: Path, root: Path, ending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = stub("okvqa")
    given = inner.all_queries

    def other(ctx: Any, split: str) -> Any:
        for row in given(ctx, split):
            path = row["img_path"]
            yield row | {"img_path": path.replace(".jpg", ".JPEG") if ending else f"x/{path}"}

    monkeypatch.setattr(inner, "all_queries", other)
    # Counts are taken for checked, so that nothing else makes the build incomparable.
    release = ReleaseBuilder("okvqa", files, any_counts=True)
    release.note = ""
    built = build(AlignedBuilder("okvqa", release, inner), root / str(ending))
    assert built.manifest["aligned"]["differ"] == []
    said = built.manifest["comparable"]
    assert (
        said == "" if ending else "other images than in the release in train, valid, test" in said
    )


def test_gaps_are_in_the_ledger_and_the_manifest(files: Path, root: Path) -> None:
    lose = {
        "OKVQA_passages/train_passages": {"71", "90001"},
        "OKVQA_data/train": {"5045"},
    }
    built = aligned("okvqa", files, root, lose=lose, edition="gaps")
    assert built.manifest["aligned"]["differ"] == ["train", "valid", "test"]
    assert "not equal to the release in train, valid, test" in built.manifest["comparable"]
    gap = "in the release, not upstream"
    pool = "OKVQA_passages/train_passages"
    assert faults(built.folder, "OKVQA") == {
        (pool, "dropped", gap, "release", 3, "71"),
        (pool, "dropped", gap, "release", 7, "90001"),
        ("OKVQA_data/train", "dropped", gap, "release", 5, "5045"),
        ("OKVQA_data/train", "repaired", "right passage not upstream", "release", 3, "71"),
        ("OKVQA_data/train", "repaired", "right passage not upstream", "release", 6, "90001"),
        ("OKVQA_data/valid", "repaired", "right passage not upstream", "release", 1, "71"),
        ("OKVQA_data/valid", "repaired", "right passage not upstream", "release", 5, "90001"),
        ("OKVQA_data/test", "repaired", "right passage not upstream", "release", 1, "71"),
        ("OKVQA_data/test", "repaired", "right passage not upstream", "release", 5, "90001"),
    }
    rows = {r["question_id"]: r for r in table(built.folder, "OKVQA_data/train")}
    assert "5045" not in rows
    assert rows["5025"]["pos_item_ids"] == ["70"]
    assert rows["5055"]["pos_item_ids"] == []
    assert built.manifest["tables"][pool]["inputs"]["release"] == {
        "read": 7,
        "used": 5,
        "rows": 0,
        "dropped": 2,
    }
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]


def test_instructions_and_judgements_are_the_releases(files: Path, root: Path) -> None:
    built = aligned("msmarco", files, root, edition="rows")
    row = next(
        r for r in table(built.folder, "MSMARCO_data/test") if r["question_id"][-3:] == "904"
    )
    assert row == {
        "question_id": "MSMARCO_904",
        "question": "pears?",
        "instruction": "Give a page for this query: ",
        "img_id": None,
        "img_path": None,
        "image_id": None,
        "pos_item_ids": ["MSMARCO_0", "MSMARCO_1"],
        "pos_item_contents": ["A pear is a fruit.", "Pears are picked in autumn."],
        "answers": [],
        "gold_answer": None,
        "question_type": None,
        "original_data_id": ["904"],
    }


@pytest.mark.parametrize("repair", [True, False])
def test_of_passages_with_one_id_each_takes_its_own_text(
    files: Path, tmp_path: Path, repair: bool
) -> None:
    built = aligned("evqa", files, tmp_path, release={"repair": repair}, batches=True)
    assert built.manifest["aligned"]["differ"] == []
    own = table(built.folder, "EVQA_passages/test_passages")
    assert len(own) == (9 if repair else 10)
    theirs = {
        r["passage_id"]: (r["passage_content"], r["scored_as"])
        for r in table(tmp_path / "m2kr", "EVQA_passages/test_passages")
    }
    assert {r["passage_id"]: (r["passage_content"], r["scored_as"]) for r in own} == theirs


def test_a_full_ledger_numbers_upstreams_rows(files: Path, root: Path) -> None:
    built = aligned("kvqa", files, root, edition="full", full_ledger=True)
    rows = {f for f in faults(built.folder, "KVQA") if f[0] == "KVQA_data/test"}
    source = "rows of the sources route"
    assert {f[4] for f in rows if f[1] == "used" and f[3] == source} == {1, 2, 3, 4, 5}
    assert {f[2:5] for f in rows if f[1] == "filtered"} == {("not in the release", source, 6)}


def test_nothing_in_common_is_a_defect_and_says_so(files: Path, root: Path) -> None:
    with pytest.raises(CheckError, match="has none of the release's 5 rows") as caught:
        aligned("kvqa", files, root, edition="none", rename=["passages"], keys={})
    text = str(caught.value)
    assert "KVQA_passages/train_passages" in text
    assert "rows alike in passage_id: the release has 'KVQA_100', upstream 'upstream-1'" in text
    assert "release_keys" in text


def test_again_it_does_nothing_and_other_splits_are_added(files: Path, root: Path) -> None:
    first = aligned("oven", files, root, edition="again", splits=["test"])
    assert list(first.manifest["splits"]) == ["test"]
    assert not aligned("oven", files, root, edition="again", splits=["test"]).fresh
    more = aligned("oven", files, root, edition="again", splits=["train"])
    assert list(more.manifest["splits"]) == ["train", "test"]
    assert more.manifest["aligned"]["differ"] == []


def test_limit(files: Path, root: Path) -> None:
    built = aligned("okvqa", files, root, limit=2)
    assert built.folder.name == "aligned-limit2"
    assert built.manifest["partial"]
    assert {facts["queries"] for facts in built.manifest["splits"].values()} == {2}
    assert all(r["pos_item_ids"] for r in table(built.folder, "OKVQA_data/train"))
    assert not [f for f in verify(built.folder, built.manifest) if f.problem]


def test_options_that_alignment_needs_are_set(files: Path, root: Path) -> None:
    inner = stub("msmarco", options={"train": "judged"})
    release = ReleaseBuilder("msmarco", files, any_counts=True)
    build(AlignedBuilder("msmarco", release, inner), root, edition="options")
    assert {options["train"] for _, options in inner.seen} == {"judged"}


def test_a_release_built_otherwise_is_not_replaced(files: Path, tmp_path: Path) -> None:
    build(ReleaseBuilder("evqa", files, any_counts=True, repair=False), tmp_path, splits=["test"])
    with pytest.raises(UsageError, match="repair=no") as caught:
        aligned("evqa", files, tmp_path)
    assert "m2kr build evqa --route release --force" in str(caught.value)
