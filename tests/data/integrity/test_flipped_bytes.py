"""Not one flipped byte of a built source is missed by verify, or read."""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.tiny import files_of, problems, rows
from support.toy_builder import ToyBuilder

from m2kr.building.build import build
from m2kr.building.verify import verify_root
from m2kr.data.images.store import ImageStore
from m2kr.errors import M2KRError


def flips(paths: list[Path], each: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Flips a bit in turn at drawn places, and mends it; the ends of files are among the places."""
    draw = random.Random(seed)
    for path in paths:
        data = path.read_bytes()
        places = {0, len(data) - 1, *(draw.randrange(len(data)) for _ in range(each - 2))}
        for at in sorted(places):
            path.write_bytes(
                data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            )
            yield path, at
        path.write_bytes(data)


def every_flip_is_found(root: Path, each: int, seed: int) -> int:
    paths = files_of(root / "tiny", root / "images")
    assert {".arrow", ".npy", ".json", ".parquet", ".md", ".tar"} <= {p.suffix for p in paths}
    assert not problems(root)
    count = 0
    writers = {p: pq.read_metadata(p).created_by for p in paths if p.suffix == ".parquet"}
    for path, at in flips(paths, each, seed):
        said = problems(root)
        if not said and path.name.endswith(".index.parquet"):
            # The name of the pyarrow that wrote an index is no data, and another's is as good.
            assert pq.read_metadata(path).created_by != writers[path]
            continue
        assert said, f"verify missed the flip at {at} of {path}"
        name = path.name if path.is_relative_to(root / "tiny") else "images"
        assert any(name in line for line in said), said
        count += 1
    assert not problems(root)
    return count


def no_flip_is_read(root: Path, each: int, seed: int) -> int:
    right, count, refused = rows(root), 0, 0
    for path, at in flips(files_of(root / "tiny"), each, seed):
        try:
            assert rows(root) == right, f"the flip at {at} of {path} was read"
        except M2KRError as error:
            refused += 1
            assert str(path) in str(error), error
            assert error.fix, error
        count += 1
    assert refused > count / 2
    return count


def test_verify_finds_every_flipped_byte(root: Path) -> None:
    assert every_flip_is_found(root, 11, seed=1) >= 200


def test_no_flipped_byte_is_ever_read(root: Path) -> None:
    assert no_flip_is_read(root, 12, seed=2) >= 200


@pytest.mark.slow
def test_thousands_of_flips(root: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    assert every_flip_is_found(root, 40, seed) + no_flip_is_read(root, 100, seed) > 2_000


@pytest.mark.slow
def test_flips_of_a_built_source_with_many_splits(tmp_path: Path) -> None:
    build(ToyBuilder(rows=30), tmp_path)
    folder = tmp_path / "rebuilt"
    for path, at in flips(files_of(folder), 5, seed=3):
        assert [f for _, f in verify_root(tmp_path) if f.problem], (path, at)
    assert not [f for _, f in verify_root(tmp_path) if f.problem]


def test_a_flipped_image_is_not_given(root: Path) -> None:
    paths = sorted((root / "images" / "tiny").glob("images-*"))
    assert [path.suffix for path in paths] == [".tar", ".parquet"]
    whole = {f"b/{i}.jpg": random.Random(i).randbytes(300) for i in range(10)}
    refused = 0
    for _ in flips(paths, 100, seed=4):
        store = ImageStore([root / "images" / "tiny"])
        for name, data in whole.items():
            try:
                assert store.read(name) == data
            except M2KRError:
                refused += 1
    assert refused > 20
