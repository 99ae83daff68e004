"""Whatever arrays an encoder gives back: the same run from all of them, or one line that says why not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import Dense, Late, toy_split

from m2kr.errors import InputError, UsageError
from m2kr.retrieval.search_split import search_split

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'm2kr[models]'")


class ArrayLike:
    """As other libraries' arrays are, jax's for one."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def tensor(dtype=torch.float32, **options):
    return lambda array: torch.tensor(array, dtype=dtype, **options)


# Values of the toys are whole numbers below 256: exact in every type.
ARRAYS = {
    "float64": np.asarray,
    "float32": np.float32,
    "float16": np.float16,
    "int64": np.int64,
    "uint8": np.uint8,
    "big-endian": lambda a: a.astype(">f4"),
    "columns first": np.asfortranarray,
    "not writeable": lambda a: np.broadcast_to(a, a.shape),
    "array-like": ArrayLike,
    "tensor": tensor(),
    "bfloat16": tensor(torch.bfloat16),
    "half": tensor(torch.float16),
    "double": tensor(torch.float64),
    "int tensor": tensor(torch.int32),
    "with grad": tensor(requires_grad=True),
    "of a graph": lambda a: tensor(requires_grad=True)(a) * 1,
    "parameter": lambda a: torch.nn.Parameter(tensor(torch.bfloat16)(a)),
    "sparse": lambda a: tensor()(a).to_sparse(),
    "every second": lambda a: tensor()(np.repeat(a, 2, axis=-1))[..., ::2],
}
DENSE = {"whole": lambda a, to: to(a), "listed": lambda a, to: [to(row) for row in a]}
LATE = {
    "listed": lambda rows, to: [to(row) for row in rows],
    "tuple": lambda rows, to: tuple(to(row) for row in rows),
    # Padded with zeros, which count as masked.
    "padded": lambda rows, to: to(
        np.stack([np.pad(row, ((0, 12 - len(row)), (0, 0))) for row in rows])
    ),
}
WHOLE = toy_split()


def encoder(kind, forms):
    """A toy whose sides give their vectors in some form and type."""

    class Given(kind):
        name = "given"

        def encode_query(self, batch):
            form, array = forms[0]
            return form(super().encode_query(batch), array)

        def encode_document(self, batch):
            form, array = forms[1]
            return form(super().encode_document(batch), array)

    return Given(3)


class WholeLate(Late):
    """In whole numbers, so that no type rounds them."""

    def encode_query(self, batch):
        return [row * 10 for row in super().encode_query(batch)]

    encode_document = encode_query


def found(retriever):
    return search_split(WHOLE, retriever, k=4).run.to_dict()


PLAIN = {kind: found(kind(3)) for kind in (Dense, WholeLate)}


@settings(max_examples=25)
@given(
    kind=st.sampled_from([Dense, WholeLate]),
    data=st.data(),
)
def test_every_form_and_type_gives_the_same_run(kind, data):
    shapes = DENSE if kind is Dense else LATE
    sides = [
        (shapes[data.draw(st.sampled_from(sorted(shapes)))], ARRAYS[name])
        for name in data.draw(st.tuples(*[st.sampled_from(sorted(ARRAYS))] * 2))
    ]
    assert found(encoder(kind, sides)) == PLAIN[kind]


WRONG = {
    "None": (lambda a: None, "returned None"),
    "a list of lists": (lambda a: a.tolist(), r"list of lists.*\n.*\n.*without .tolist\(\)"),
    "a list of None": (lambda a: [None] * len(a), "list of None"),
    "texts": (lambda a: ["x"] * len(a), "list of strs"),
    "a dict": (lambda a: {"dense_vecs": a}, "a dict with the keys 'dense_vecs'"),
    "dicts": (lambda a: [{"v": row} for row in a], "list of dicts with the keys 'v'"),
    "a generator": (lambda a: (row for row in a), "an object of generator"),
    "a number": (lambda a: 3.5, "an object of float"),
    "an empty list": (lambda a: [], "returned 0 rows for a batch of"),
    "one axis": (lambda a: a[0], r"an array of shape \(26,\)"),
    "no axis": (lambda a: np.float32(1), r"an array of shape \(\)"),
    "four axes": (lambda a: a[:, None, None], r"an array of shape \(\d, 1, 1, 26\)"),
    "one axis of torch": (lambda a: torch.tensor(a[0]), r"an array of shape \(26,\)"),
    "objects": (lambda a: a.astype(object), "an array of type object"),
    "ragged objects": (
        lambda a: np.array([row[: i + 1] for i, row in enumerate(a)] + [None], object)[:-1],
        "an array of type object",
    ),
    "text array": (lambda a: a.astype(str), "an array of type <U"),
    "complex": (lambda a: a * 1j, "an array of type complex128"),
    "ragged vectors": (lambda a: [row[: i + 1] for i, row in enumerate(a)], "unlike dimensions"),
    "ragged matrices": (lambda a: [row[None, : i + 1] for i, row in enumerate(a)], "unlike dim"),
    "vectors and matrices": (lambda a: [*a[:-1], a[-1:]], "a list of arrays of shapes"),
    "no dimension": (lambda a: a[:, :0], "unlike dimensions"),
    "numbers in a list": (lambda a: [np.float32(1)] * len(a), "a list of arrays of shapes"),
    "NaN": (lambda a: np.where(a == a.max(), np.nan, a), "NaN or infinity for '"),
    "infinity": (lambda a: torch.tensor(a / 0.0), "NaN or infinity for '"),
    "NaN in a list": (lambda a: [*a[:-1], a[-1] * np.nan], "NaN or infinity for '"),
    "a row too many": (lambda a: np.concatenate([a, a[:1]]), r"returned \d rows for a batch of"),
    "a row too few": (lambda a: list(a[1:]), r"returned \d rows for a batch of"),
    "masked": (lambda a: np.ma.masked_greater(a, 0), "masked values"),
    "no memory behind it": (lambda a: torch.tensor(a, device="meta"), "without values in main"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_what_is_no_such_thing_is_one_clear_line(wrong, side, tmp_path):
    give, message = WRONG[wrong]
    whole = (DENSE["whole"], np.asarray)
    forms = [whole, whole]
    forms[side == "document"] = (lambda a, _: give(a), None)
    with pytest.raises(InputError, match=message) as caught:
        search_split(WHOLE, encoder(Dense, forms), k=4, workdir=tmp_path)
    assert f"Given.encode_{side} of batch 1 (3 " in str(caught.value)
    assert not list(tmp_path.rglob("vectors.npy")) or side == "query"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda a: a, lambda a: a[:, :9]),
        (lambda a: a, lambda a: [row[None] for row in a]),
        (lambda a: [row[None] for row in a], lambda a: list(a)),
        (lambda a: [row[None] for row in a], lambda a: [row[None, :9] for row in a]),
    ],
)
@pytest.mark.parametrize("between", ["batches", "sides", "own stream"])
def test_a_form_that_changes_is_named(first, second, between):
    class Changing(Dense):
        def encode_document(self, batch):
            vectors = super().encode_document(batch)
            again = between == "batches" and len(self.batches) > 1
            return (second if again else first)(vectors)

        def encode_query(self, batch):
            return (first if between == "batches" else second)(super().encode_query(batch))

    class Streaming(Changing):
        def encode_stream(self, records, side, report):
            for rows in super().encode_stream(records, side, report):
                yield list(rows)

    with pytest.raises(InputError, match="and before, ") as caught:
        search_split(WHOLE, (Streaming if between == "own stream" else Changing)(3), k=4)
    where = "encode_document of batch 2" if between == "batches" else "encode_query of batch 1"
    assert where in str(caught.value)


@pytest.mark.parametrize("rows", [None, [[1.0, 2.0]], "text", 7])
def test_an_own_stream_is_looked_at_as_well(rows):
    class Streaming(Dense):
        def encode_stream(self, records, side, report):
            yield rows

    with pytest.raises(InputError, match=r"Streaming\.encode_stream of the passages"):
        search_split(WHOLE, Streaming(), k=4)


def test_cosine_of_token_vectors_is_refused():
    late = Late(3)
    late.similarity = "cosine"
    with pytest.raises(UsageError, match="similarity=dot"):
        search_split(WHOLE, late, k=4)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("batch_size", "8"), ("similarity", "l2")]
)
def test_attributes_of_an_encoder_are_checked_before_it_encodes(name, value):
    dense = Dense()
    setattr(dense, name, value)
    with pytest.raises(UsageError, match=f"{name} is {value!r}"):
        search_split(WHOLE, dense, k=4)
    assert dense.batches == []
