"""One bad manifest, or a moved image folder, harms nothing else."""

import json
from pathlib import Path

import pytest
from conftest import Cli
from support.tiny import CONFIG, problems, rows, tiny
from support.toy_builder import ToyBuilder

import m2kr
from m2kr.building.build import build
from m2kr.building.publish import remove
from m2kr.building.verify import verify_root
from m2kr.data.images.source_roots import add_roots
from m2kr.errors import InputError, MissingError, UsageError


def good_and_bad(root: Path) -> Path:
    """Two sources in one edition; the manifest of one, to be damaged."""
    query = [{"id": "q", "question": "?", "positives": ["p"]}]
    for name in ("good", "bad"):
        m2kr.from_records({"p": "text"}, query, name=name, edition="both", data=root)
    return root / "both" / "BAD_manifest.json"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"format": "m2kr-manifest-99"}', None])
def test_one_bad_manifest_harms_nothing_else(tmp_path: Path, content: bytes | None) -> None:
    path = good_and_bad(tmp_path)
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert len(m2kr.load("good", data=tmp_path).queries) == 1
    with pytest.raises(InputError, match=r"BAD_manifest\.json"):
        m2kr.load("bad", data=tmp_path)
    assert not [f for _, f in verify_root(tmp_path, "good") if f.problem]
    (bad,) = [f for _, f in verify_root(tmp_path, "bad") if f.problem]
    assert (bad.table, bad.check) == ("BAD_manifest.json", "manifest")
    with pytest.raises(InputError, match="m2kr remove bad"):
        good_and_bad(tmp_path)
    remove("bad", tmp_path)
    good_and_bad(tmp_path)
    assert len(m2kr.load("bad", data=tmp_path).queries) == 1
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


@pytest.mark.parametrize("content", [b"{", b"", None])
def test_a_build_over_a_damaged_manifest_is_made_anew(
    tmp_path: Path, content: bytes | None
) -> None:
    path = build(ToyBuilder(rows=20), tmp_path).folder / "TOY_manifest.json"
    whole = path.read_bytes()
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert build(ToyBuilder(rows=20), tmp_path).fresh
    assert path.read_bytes() == whole
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


def test_one_bad_manifest_harms_no_command(tmp_path: Path, cli: Cli) -> None:
    path = good_and_bad(tmp_path)
    path.write_text("{", encoding="utf-8")
    listed = json.loads(cli("list", "--data", tmp_path, "--json").stdout)
    assert [s["editions"] for s in listed["sources"] if s["source"] == "good"] == [["both"]]
    assert [Path(d["where"]).name for d in listed["damaged"]] == ["BAD_manifest.json"]
    said = cli("eval", "all", "-r", "oracle", "--data", tmp_path, "--out", tmp_path / "out")
    assert "good" in said.stdout
    assert "BAD_manifest.json" in said.stderr
    said = cli("verify", "--data", tmp_path, code=1)
    assert "both/BAD_manifest.json" in said.stdout
    assert "m2kr build bad" in said.stdout


def test_another_edition_does_not_stand_in_for_a_damaged_one(root: Path) -> None:
    (root / "tiny" / f"{CONFIG}_manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="damaged"):
        m2kr.load("tiny", data=root)
    assert rows(root, "other")


def test_a_benchmark_source_with_a_damaged_manifest_is_known_by_all_its_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "m2kr").mkdir()
    (tmp_path / "m2kr" / "CC_manifest.json").write_text("{", encoding="utf-8")
    for name in ("cc3m", "CC"):
        with pytest.raises(InputError, match="--route release") as error:
            m2kr.load(name, data=tmp_path)
        assert "CC_manifest.json" in str(error.value)


def test_a_moved_image_folder_harms_only_what_reads_images(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert m2kr.evaluate("tiny", "bm25", data=tmp_path, k=5)[0].images is None
    split = m2kr.load("tiny", data=tmp_path)
    assert len(split.queries_view) == 6
    with pytest.raises(MissingError, match=r"photos.*not there") as error:
        split.images.read("a/1.jpg")
    assert "--images" in str(error.value)
    assert [line for line in problems(tmp_path) if "photos" in line and line.startswith("images")]
    given = m2kr.load("tiny", data=tmp_path, images=[tmp_path / "moved"])
    assert given.images.read("a/1.jpg") == b"\x01"
    with pytest.raises(MissingError, match="nowhere"):
        _ = m2kr.load("tiny", data=tmp_path, images=[tmp_path / "nowhere"]).images
    add_roots(tmp_path / "images" / "tiny", [tmp_path / "moved"])  # as m2kr images --images does
    assert m2kr.load("tiny", data=tmp_path).images.read("a/2.jpg") == b"\x02"
    assert not problems(tmp_path)


def test_a_damaged_list_of_image_roots_harms_only_what_reads_images(tmp_path: Path) -> None:
    tiny(tmp_path)
    listed = tmp_path / "images" / "tiny" / "roots.json"
    listed.parent.mkdir(parents=True)
    listed.write_text("[1", encoding="utf-8")
    split = m2kr.load("tiny", data=tmp_path)
    assert len(split.queries_view) == 6
    with pytest.raises(InputError, match="roots"):
        split.images.read("a/1.jpg")
    assert problems(tmp_path)
