"""What the key of encoded rows is made of: another input is encoded anew."""

import os
import shutil
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from support.toys import (
    PASSAGES,
    QUERIES,
    Counted,
    Late,
    counted,
    image_folder,
    toy_split,
)

from m2kr.data.images.store import ImageStore
from m2kr.data.records import Passages
from m2kr.errors import InputError
from m2kr.evaluation.harness import evaluate_split
from m2kr.retrieval.cache import key_of
from m2kr.retrieval.protocol import Modalities
from m2kr.search.store.reader import TokenStore


def test_another_pool_or_other_queries_are_encoded(tmp_path):
    split = toy_split()
    assert counted(split, tmp_path) == {"query": 4, "document": 4}
    assert counted(split, tmp_path) == {"query": 0, "document": 0}
    pool = toy_split(passages={"p/apple": "The apple is green.", "p/bear": "A bear."})
    assert counted(pool, tmp_path) == {"query": 0, "document": 2}
    assert counted(split, tmp_path, key={"a": 2}) == {"query": 4, "document": 4}


def test_the_store_says_what_it_is_of(tmp_path):
    split = toy_split()
    counted(split, tmp_path)
    stores = [TokenStore.open(path.parent) for path in tmp_path.glob("*/store.json")]
    metas = {("pool" in store.meta): store for store in stores}
    assert metas[True].meta["pool"] == split.fingerprints["pool"]
    assert metas[False].meta["queries"] == split.fingerprints["queries"]
    assert {store.meta["eval"] for store in stores} == {split.fingerprints["eval"]}
    assert metas[True].ids().to_pylist() == split.passages_view.ids.to_pylist()


def test_query_images_count_by_content_and_only_where_they_are_read(tmp_path):
    split = toy_split(ImageStore(image_folder(tmp_path, "a.png", "b.png")))
    one = Counted()
    blind = key_of(one, split.queries_view, "query")
    one.modalities = Modalities(frozenset({"text", "image"}))
    seeing = key_of(one, split.queries_view, "query")
    assert blind["images"] is None
    assert key_of(one, split.passages_view, "document")["images"] is None
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(tmp_path / name, moved)
    there = toy_split(ImageStore(moved))
    assert key_of(one, there.queries_view, "query") == seeing
    shutil.copy(moved / "a.png", moved / "b.png")
    assert key_of(one, there.queries_view, "query") != seeing


def pool_with_images(*roots, paths=("a.png", "deep/b.png", None, "gone.png"), missing="black"):
    rows = [
        {"passage_id": f"p{i}", "passage_content": f"text {i}", "img_path": path}
        for i, path in enumerate(paths)
    ]
    store = ImageStore(roots, missing=missing) if roots else None
    return Passages(Dataset.from_list(rows), store, "fp1:pool")


def packed(folder, kind):
    """The images of a folder, as a root of another kind beside it."""
    place = folder.with_name(f"{folder.name}-{kind}")
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.png"))}
    if kind == "folder":
        return folder
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, path in files.items():
                archive.write(path, name)
    elif kind == "tar":
        with tarfile.open(place, "w") as archive:
            for name, path in files.items():
                archive.add(path, name)
    else:
        pq.write_table(
            pa.table({"img_path": list(files), "bytes": [p.read_bytes() for p in files.values()]}),
            place,
        )
    return place


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "parquet"])
def test_a_pool_is_encoded_anew_when_one_of_its_images_was_written(tmp_path, kind):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    image_folder(folder, "a.png", "deep/b.png", "other.png")
    seeing = Counted()
    seeing.modalities = Modalities(frozenset({"text"}), frozenset({"image"}))

    def key(**options):
        pool = pool_with_images(packed(folder, kind), **options)
        return key_of(seeing, pool, "document")

    pool = pool_with_images(packed(folder, kind))
    first = key_of(seeing, pool, "document")
    assert first == key_of(seeing, pool, "document")
    assert first != key_of(seeing, pool_with_images(), "document")
    assert first["images"] != key(missing="skip")["images"]
    assert key_of(Counted(), pool, "document")["images"] is None
    # The same size and the same time: copied over, as from an archive.
    before = (folder / "deep/b.png").stat()
    data = bytearray((folder / "deep/b.png").read_bytes())
    data[-20] ^= 1
    (folder / "deep/b.png").write_bytes(data)
    os.utime(folder / "deep/b.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = key()
    assert changed["images"] != first["images"]
    assert changed["rows"] == first["rows"]
    # What no passage names is no matter.
    if kind == "folder":
        (folder / "more.png").write_bytes(b"x")
        assert key() == changed
        (folder / "gone.png").write_bytes(b"x")
        assert key() != changed


def test_images_that_are_written_while_they_are_encoded_are_not_kept(tmp_path):
    image_folder(tmp_path, "a.png", "b.png")

    class Writing(Counted):
        modalities = Modalities(frozenset({"text", "image"}))
        writes = True

        def encode_query(self, batch):
            if self.writes:
                shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
            return super().encode_query(batch)

    split, cache = toy_split(ImageStore(tmp_path)), tmp_path / "cache"
    with pytest.raises(InputError, match="were written while"):
        evaluate_split(split, Writing(), k=5, cache=cache)
    one = Writing()
    one.writes = False
    evaluate_split(split, one, k=5, cache=cache)
    assert one.count == {"query": 4, "document": 0}


def test_another_order_of_the_same_rows_is_encoded_anew(tmp_path):
    """Fingerprints are equal then: they say what scores alike, not what lies where."""
    split = toy_split()
    other = toy_split(
        passages=dict(reversed(PASSAGES.items())), queries=dict(reversed(QUERIES.items()))
    )
    assert split.fingerprints == other.fingerprints
    runs = []
    for each in (split, other, split, other):
        one = Counted()
        runs.append(evaluate_split(each, one, k=5, cache=tmp_path).run)
        assert one.count == {side: 4 * (len(runs) <= 2) for side in ("query", "document")}
    for query in QUERIES:
        assert len({tuple(run.passage_ids(query)) for run in runs}) == 1
        assert len({tuple(run.scores(query)) for run in runs}) == 1


def test_what_is_not_known_is_not_cached(tmp_path):
    split = toy_split()
    assert key_of(Late(), split.passages_view, "document") is None
    evaluate_split(split, Late(), k=5, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    unnamed = type(split.queries_view)(split.queries_view.dataset)
    assert key_of(Counted(), unnamed, "query") is None
    space = {"__name__": "nowhere", "Counted": Counted}
    exec("class Typed(Counted): pass", space)
    assert key_of(space["Typed"](), split.passages_view, "document") is None
    with pytest.raises(InputError, match="can't be written as JSON"):
        key_of(Counted({"model": object()}), split.passages_view, "document")
