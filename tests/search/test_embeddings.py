import numpy as np
import pytest

from m2kr.errors import InputError
from m2kr.search.embeddings import Embeddings, EmbeddingWriter


def write(folder, *parts):
    with EmbeddingWriter(folder) as writer:
        for part in parts:
            writer.append(part)
        return writer.close()


def test_dense_rows_come_back_as_float32(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    stored = write(tmp_path, list(vectors[:2]), [], list(vectors[2:]))
    assert stored.offsets is None
    assert stored.vectors.dtype == np.float32
    assert stored.vectors.tolist() == vectors.astype(np.float32).tolist()
    assert len(Embeddings.open(tmp_path)) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors.npy"]


def test_token_rows_come_back_as_float16_without_masked_tokens(tmp_path):
    a, b = np.array([[1.0, 0], [0, 0], [0, 2]]), np.zeros((2, 2))
    c = np.array([[3.0, 3]])
    stored = write(tmp_path, [a, b], [c])
    assert stored.vectors.dtype == np.float16
    assert stored.offsets.tolist() == [0, 2, 2, 3]
    assert stored.vectors.tolist() == [[1, 0], [0, 2], [3, 3]]
    assert len(stored) == 3


def test_an_empty_side_is_empty(tmp_path):
    assert len(write(tmp_path)) == 0


def test_a_new_index_replaces_the_old_one(tmp_path):
    write(tmp_path, [np.ones((2, 2))])
    assert write(tmp_path, [np.ones(3)]).offsets is None


def test_an_interrupted_writer_leaves_no_array(tmp_path):
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path) as writer:
        writer.append([np.ones(3)])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "rows",
    [
        [np.ones(3), np.ones(4)],
        [np.ones(3), np.ones((2, 3))],
        [np.ones((1, 3)), np.ones((1, 2))],
        [np.ones((1, 1, 3))],
        [np.array([1.0, np.nan])],
        [np.array([[1e6, 0.0]])],
    ],
)
def test_mixed_shapes_and_values_that_do_not_fit_are_refused(tmp_path, rows):
    with pytest.raises(InputError):
        write(tmp_path, rows)


def test_the_two_sides_must_match(tmp_path):
    dense = write(tmp_path / "a", [np.ones(3)])
    tokens = write(tmp_path / "b", [np.ones((2, 3))])
    other = write(tmp_path / "c", [np.ones(4)])
    for documents, message in ((tokens, "different forms"), (other, "dimensions")):
        with pytest.raises(InputError, match=message):
            dense.search(documents, 1, np.arange(1), similarity="dot", memory=1 << 20)
