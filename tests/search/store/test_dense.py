import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import CheckError, InputError, MissingError
from m2kr.search.exact import dense
from m2kr.search.store.dense import CHUNK, Embeddings, EmbeddingWriter


def write(folder, *parts, **options):
    with EmbeddingWriter(folder, **options) as writer:
        for rows in parts:
            writer.append(rows)
        return writer.close()


def test_rows_come_back_as_float32(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    stored = write(tmp_path, list(vectors[:2]), [], list(vectors[2:]))
    assert stored.vectors.dtype == np.float32
    assert stored.vectors.tolist() == vectors.astype(np.float32).tolist()
    assert len(Embeddings.open(tmp_path)) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors.json", "vectors.npy"]


def test_an_empty_side_is_empty(tmp_path):
    assert len(write(tmp_path)) == 0


def test_a_new_array_replaces_the_old_one(tmp_path):
    write(tmp_path, [np.ones(2)])
    assert write(tmp_path, [np.ones(3)]).vectors.shape == (1, 3)


def test_an_interrupted_writer_leaves_no_array(tmp_path):
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path) as writer:
        writer.append([np.ones(3)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [0, 1, 7])
@pytest.mark.parametrize("dim", [3, 1500])
def test_a_writer_that_syncs_goes_on_where_it_was_cut_off(tmp_path, stop, dim):
    vectors = list(np.random.default_rng(0).normal(size=(9, dim)))
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        writer.append(vectors[:stop])
        raise RuntimeError
    with pytest.raises(MissingError):
        Embeddings.open(tmp_path)
    with (tmp_path / "vectors.npy.partial").open("ab") as file:
        file.write(b"half a row")
    with EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        assert writer.rows == stop
        writer.append(vectors[stop:])
        stored = writer.close()
    assert stored.vectors.tolist() == np.float32(vectors).tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors.json", "vectors.npy"]


@pytest.mark.parametrize("note", [b"", b"[]", b'{"rows": 3}', b'{"rows": 99, "dim": 3}'])
def test_a_note_of_what_was_synced_that_cannot_be_true_is_not_believed(tmp_path, note):
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        writer.append([np.ones(3)] * 4)
        raise RuntimeError
    (tmp_path / "synced.json").write_bytes(note)
    assert write(tmp_path, [np.ones(2)], sync_seconds=0.0).vectors.shape == (1, 2)


@pytest.mark.parametrize(
    "rows",
    [
        [np.ones(3), np.ones(4)],
        [np.ones(3), np.ones((2, 3))],
        [np.ones((1, 3))],
        [np.array([1.0, np.nan])],
        [np.array([1e39, 0.0])],
    ],
)
def test_mixed_shapes_and_values_that_do_not_fit_are_refused(tmp_path, rows):
    with pytest.raises(InputError):
        write(tmp_path, rows)


def test_the_two_sides_must_have_one_dim(tmp_path):
    one, other = write(tmp_path / "a", [np.ones(3)]), write(tmp_path / "c", [np.ones(4)])
    with pytest.raises(InputError, match="dimensions"):
        dense.search_dense(one.vectors, other, 1, np.arange(1))


def test_another_array_is_refused(tmp_path):
    write(tmp_path, [np.ones(2)])
    np.save(tmp_path / "vectors.npy", np.ones((1, 2), np.float16))
    with pytest.raises(CheckError, match="form or size"):
        Embeddings.open(tmp_path)
    (tmp_path / "vectors.json").unlink()
    with pytest.raises(CheckError, match="gone"):
        Embeddings.open(tmp_path)


@given(st.data())
def test_any_rows_are_read_as_they_were_written(data):
    with tempfile.TemporaryDirectory() as folder:
        count = data.draw(st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]))
        rows = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
        cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
        stored = write(Path(folder), *(list(part) for part in np.split(rows, cuts)))
        first = data.draw(st.integers(0, count))
        last = data.draw(st.integers(first, count))
        assert stored.read(first, last).tolist() == rows[first:last].tolist()


def test_every_changed_byte_is_found_before_a_row_is_scored(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2 * CHUNK + 9, 3)).astype(np.float32)
    stored = write(tmp_path, list(vectors), order="these")
    queries = write(tmp_path / "queries", list(vectors[:2]))
    random = np.random.default_rng(1)

    def search():
        ranks = np.arange(len(vectors))
        pool = Embeddings.open(tmp_path)
        return dense.search_dense(queries.vectors, pool, 3, ranks, memory=1 << 16)

    right = search()[1].tolist()
    for name in ("vectors.npy", "vectors.json"):
        data = (tmp_path / name).read_bytes()
        places = {*range(0, 128, 8), *random.integers(0, len(data), 48).tolist()}
        for place in sorted(places & set(range(len(data)))):
            changed = bytearray(data)
            changed[place] ^= int(random.integers(1, 256))
            (tmp_path / name).write_bytes(changed)
            try:
                assert search()[1].tolist() == right
                # Only blanks of the record say nothing.
                assert name == "vectors.json"
                assert json.loads(changed) == json.loads(data) or b"these" not in changed
            except CheckError:
                pass
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckError):
            search()
        (tmp_path / name).write_bytes(data)
    assert search()[1].tolist() == right
    assert stored.order == "these"


def test_a_changed_byte_of_what_was_synced_is_not_gone_on_with(tmp_path):
    rows = [np.array([float(i), 1.0]) for i in range(CHUNK + 10)]
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        writer.append(rows)
        raise RuntimeError
    path = tmp_path / "vectors.npy.partial"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        assert writer.rows == CHUNK
        writer.append(rows[CHUNK:])
        assert writer.close().vectors.tolist() == np.float32(rows).tolist()
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        writer.append(rows)
        raise RuntimeError
    with EmbeddingWriter(tmp_path, order="of other rows", sync_seconds=0.0) as writer:
        assert writer.rows == 0
