import numpy as np
import pytest

from m2kr.errors import InputError
from m2kr.search.embeddings import Embeddings, EmbeddingWriter


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors.npy"]


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
    with pytest.raises(InputError):
        Embeddings.open(tmp_path)
    with (tmp_path / "vectors.npy.partial").open("ab") as file:
        file.write(b"half a row")
    with EmbeddingWriter(tmp_path, sync_seconds=0.0) as writer:
        assert writer.rows == stop
        writer.append(vectors[stop:])
        stored = writer.close()
    assert stored.vectors.tolist() == np.float32(vectors).tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors.npy"]


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
        one.search(other, 1, np.arange(1), similarity="dot", memory=1 << 20)


def test_another_array_is_refused(tmp_path):
    np.save(tmp_path / "vectors.npy", np.ones((2, 2), np.float16))
    with pytest.raises(InputError, match="float16"):
        Embeddings.open(tmp_path)
